"""Types over a real server: sent by the typed client in both styles, by name, over
plain HTTP, and from object to object.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import httpx
import jsonschema_rs
import pytest
from tests.process import Server, serve

import perdure

APP = """
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import NamedTuple
from uuid import UUID

import msgspec
from pydantic import BaseModel
from perdure import DurableObject, Request, Response


class Colour(Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    raw: bytes


class Leaf(msgspec.Struct):
    raw: bytes
    at: datetime


class Order(BaseModel):
    article: str
    raw: bytes
    weight: float = 0.0


@dataclass
class All:
    raw: bytes
    number: int
    weight: float
    price: Decimal
    id: UUID
    at: datetime
    day: date
    lasts: timedelta
    colour: Colour
    tags: set[str]
    pair: tuple[int, bytes]
    by_day: dict[date, frozenset[int]]
    point: Point
    leaf: Leaf
    order: Order
    maybe: bytes | None = None
    orders: list[Order] = field(default_factory=list)


class Echo(DurableObject):
    async def all(self, value: All) -> All:
        self.seen = value
        return value

    async def raw(self, value: bytes) -> bytes:
        return value

    async def weight(self, value: float | None) -> float | None:
        return value

    async def told(self) -> All | None:
        return getattr(self, "seen", None)

    async def loose(self, value):
        return value

    async def fetch(self, request: Request) -> Response:
        return Response.json(Order(article="tea", raw=b"\\xff"), headers={"Content-Type": "application/order+json"})


class Relay(DurableObject):
    async def asks(self, value: All) -> All:
        came = await self.env.Echo.get("asked").all(value)
        assert came == value and type(came.leaf) is Leaf and type(came.order) is Order
        self.env.Echo.get("sent").send.all(value)
        return came
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("types")
    (made / "app.py").write_text(APP)
    return made


@pytest.fixture(scope="module")
def app(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("typed_app", folder / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(__import__("sys").modules, "typed_app", module)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serve(folder / "app.py", folder / "data") as running:
        yield running


def sample(app: ModuleType) -> Any:
    return app.All(
        raw=b"\xff\x00hello",
        number=-(2**70),
        weight=float("inf"),
        price=Decimal("1.10"),
        id=UUID(int=7),
        at=datetime(2026, 1, 1, 12, 0, 0, 5, tzinfo=UTC),
        day=date(2026, 1, 1),
        lasts=timedelta(days=-1, microseconds=1),
        colour=app.Colour.RED,
        tags={"b", "a"},
        pair=(1, b"\xfe"),
        by_day={date(2026, 1, 2): frozenset((2, 1))},
        point=app.Point(2**65, b"\xfd"),
        leaf=app.Leaf(b"\xfb\xff", datetime(2026, 1, 1, tzinfo=UTC)),
        order=app.Order(article="tea", raw=b"\xfa", weight=float("-inf")),
        maybe=b"",
        orders=[app.Order(article="é🚀", raw=b"")],
    )


def test_a_class_gives_what_its_annotations_say(server: Server, app: ModuleType) -> None:
    """With and without `await`, through another object, and by its send."""
    value = sample(app)

    async def asks() -> None:
        async with perdure.connect(server.url) as there:
            for came in (
                await there.get(app.Echo, "a").all(value),
                await there.get(app.Relay, "r").asks(value=value),
            ):
                assert came == value
                assert [type(came.leaf), type(came.order), type(came.tags)] == [app.Leaf, app.Order, set]

    asyncio.run(asks())
    with perdure.connect(server.url) as there:
        assert there.get(app.Echo, "b").all(value) == value
        assert there.get(app.Echo, "b").raw(b"\xff") == b"\xff"
        assert str(there.get(app.Echo, "b").weight(float("nan"))) == "nan"
        told = there.get(app.Echo, "sent")
        while (came := told.told()) is None:
            pass
        assert came == value
        with pytest.raises(perdure.CallerError, match=r"raw\(\): argument value: .* \(value: bytes\)"):
            there.get(app.Echo, "b").raw(5)


def test_a_name_gives_json_of_the_documented_form(server: Server, app: ModuleType) -> None:
    """What is written by name arrives where it is annotated; the document of the
    server says just these forms.
    """
    with perdure.connect(server.url) as there:
        by_name = there.get("Echo", "c").all(sample(app))
        assert by_name["raw"] == "_wBoZWxsbw=="
        assert [by_name["weight"], by_name["order"]["weight"]] == ["Infinity", "-Infinity"]
        assert [by_name["tags"], by_name["by_day"]] == [["a", "b"], {"2026-01-02": [1, 2]}]
        assert there.get(app.Echo, "c").told() == sample(app)
        assert there.get("Echo", "c").raw(b"hello") == "aGVsbG8="
        assert there.get("Echo", "c").weight(float("nan")) == "NaN"
    document = httpx.get(f"{server.url}/openapi.json").json()
    for method, result in (("all", by_name), ("raw", "_wBoZWxsbw=="), ("weight", "NaN"), ("weight", None)):
        answer = document["paths"][f"/rpc/Echo/{{name}}/{method}"]["post"]["responses"]["200"]
        schema = {**answer["content"]["application/json"]["schema"], "components": document["components"]}
        assert jsonschema_rs.Draft202012Validator(schema).is_valid({"result": result})


@pytest.mark.parametrize(
    ("method", "argument", "status", "answer"),
    [
        ("weight", "1e999", 200, '{"result":"Infinity"}'),
        ("weight", '"NaN"', 200, '{"result":"NaN"}'),
        ("weight", "NaN", 400, "NaN is not JSON"),
        ("loose", "1e999", 422, "loose(): argument value: Value error, the number is too large for a float"),
        ("loose", "123456789012345678901234567890", 200, '{"result":123456789012345678901234567890}'),
        ("raw", '"hello"', 422, "raw(): argument value: Data should be valid base64"),
        ("raw", '"/+8="', 200, '{"result":"_-8="}'),
    ],
)
def test_plain_http_is_read_by_the_annotations(
    server: Server, method: str, argument: str, status: int, answer: str
) -> None:
    """Numbers too large for a float, either alphabet of base64; nothing becomes null."""
    came = httpx.post(f"{server.url}/rpc/Echo/d/{method}", content=f'{{"args": [{argument}]}}')
    assert came.status_code == status
    assert answer in (came.text if status == 200 else came.json()["detail"])


def test_a_response_is_made_of_a_model(server: Server) -> None:
    """With the one content type that was given."""
    answer = httpx.get(f"{server.url}/objects/Echo/e")
    assert answer.headers.get_list("content-type") == ["application/order+json"]
    assert answer.json() == {"article": "tea", "raw": "_w==", "weight": 0.0}
