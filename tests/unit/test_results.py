"""What a method returned as JSON: numbers that JSON has not are refused wherever
they stand, all else is as it is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, field_serializer
from tests.unit.one_owner import OneOwner, story

from perdure.objects.codec import encode_json
from perdure.objects.durable import DurableObject
from perdure.objects.http import Response
from perdure.objects.overlay import Overlay
from perdure.objects.turn import conclude
from perdure.schemas.commands import CALL, Command
from perdure.schemas.errors import Refusal
from perdure.schemas.replies import FAILED

NAN, INF = float("nan"), float("inf")


class Model(BaseModel):
    x: float = 1.0
    loose: Any = None


class Worded(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")
    x: float
    y: None = None


class Raw(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    x: float


class Own(BaseModel):
    x: float

    @field_serializer("x")
    def written(self, _: float) -> None:
        return None


@dataclass
class Data:
    x: float


class Measured(msgspec.Struct):
    x: float


class Gauge(DurableObject):
    async def nan(self) -> Any:
        await self.state.put("x", 1)
        return NAN

    async def struct(self) -> list[Any]:
        return [INF]

    async def kept(self) -> Any:
        return await self.state.get("x")


NO_JSON = [
    NAN,
    INF,
    -INF,
    [1, None, NAN],
    (1, INF),
    {NAN},
    deque([NAN]),
    {"a": {"b": [NAN]}},
    Model(loose={"a": [INF]}),
    [Raw(x=NAN)],
]


@pytest.mark.parametrize("value", NO_JSON, ids=repr)
def test_a_number_that_json_cannot_say_is_refused(value: Any) -> None:
    """And the text says which, and what to do."""
    with pytest.raises(ValueError, match=r"(?i)the number -?(nan|inf).* return None or a text for it"):
        encode_json(value)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, b"null"),
        ([None, 1.5, "null"], b'[null,1.5,"null"]'),
        (["NaN", "Infinity", None], b'["NaN","Infinity",null]'),
        (Model(), b'{"x":1.0,"loose":null}'),
        (Worded(x=NAN), b'{"x":"NaN","y":null}'),
        (Own(x=NAN), b'{"x":null}'),
        (Model(x=NAN), b'{"x":"NaN","loose":null}'),
        ([Data(-INF), Measured(INF)], b'[{"x":"-Infinity"},{"x":"Infinity"}]'),
        ({1: (b"\xff", {2, 1})}, b'{"1":["_w==",[1,2]]}'),
    ],
    ids=repr,
)
def test_all_else_is_written_as_it_is(value: Any, written: bytes) -> None:
    """None, texts that read like such numbers, and models that say how they are to
    be written; their own floats as texts.
    """
    assert encode_json(value) == written


@pytest.mark.parametrize(
    "value", [NAN, INF, [1, None, NAN], {"a": {"b": [-INF]}}, Data(NAN), {1.5: INF}], ids=repr
)
def test_no_response_says_null_for_such_a_number(value: Any) -> None:
    """`Response.json` raises in the handler, where its line is known."""
    with pytest.raises(ValueError, match="which JSON cannot express"):
        Response.json(value)
    with pytest.raises(ValueError, match="which JSON cannot express"):
        Response.json(value, 201, {"x-a": "b"})


@pytest.mark.parametrize(
    "value",
    [
        None,
        [None, 1.5, "null"],
        {"a": None, "b": (1, None), "NaN": "Infinity"},
        Data(None),
        {"a": msgspec.Raw(b"[null,1e400]")},
    ],
    ids=["none", "texts", "nested", "data", "raw"],
)
def test_a_response_says_null_for_none(value: Any) -> None:
    """Wherever it stands."""
    assert Response.json(value).body == msgspec.json.encode(value)


class Order(BaseModel):
    article: str
    at: datetime | None = None


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Order(article="tea"), b'{"article":"tea","at":null}'),
        ([Order(article="tea")], b'[{"article":"tea","at":null}]'),
        ({"lot": Data(1.5), "of": Measured(2.5)}, b'{"lot":{"x":1.5},"of":{"x":2.5}}'),
        (datetime(2026, 1, 1, tzinfo=UTC), b'"2026-01-01T00:00:00Z"'),
        (
            [Decimal("1.10"), UUID(int=1), Colour.RED, timedelta(days=1)],
            b'["1.10","00000000-0000-0000-0000-000000000001","red","P1D"]',
        ),
        (2**70, b"1180591620717411303424"),
        (b"\xff\x00", b'"/wA="'),
    ],
    ids=str,
)
def test_a_response_takes_what_a_method_may_return(value: Any, written: bytes) -> None:
    """Models, dataclasses, Structs, times, numbers of any size."""
    assert Response.json(value).body == written


@pytest.mark.parametrize(
    "value",
    [Order, object(), Model(loose=NAN), {"a": [Model(loose=INF)]}],
    ids=["class", "object", "model", "deep"],
)
def test_a_response_says_what_cannot_be_json(value: Any) -> None:
    """A class, an object of none of these, and a number that JSON does not have inside of a model."""
    with pytest.raises((TypeError, ValueError), match=r"cannot be written as JSON|JSON cannot express"):
        Response.json(value)


@pytest.mark.parametrize("name", ["content-type", "Content-Type", "CONTENT-TYPE"])
def test_a_response_has_one_content_type(name: str) -> None:
    """The one that was given, whatever its case; else the one of JSON."""
    given = Response.json({}, headers={name: "application/problem+json", "x-a": "b"})
    assert given.headers == ((name, "application/problem+json"), ("x-a", "b"))
    assert Response.json({}, headers={"x-a": "b"}).headers == (
        ("x-a", "b"),
        ("content-type", "application/json"),
    )
    assert Response.json({}).headers == (("content-type", "application/json"),)


def test_a_refusal_whose_detail_has_such_a_number_fails() -> None:
    """It would tell its client something else than was meant."""
    told = conclude(Command("A/b", CALL, "m"), None, Refusal("no", detail={"left": NAN}), Overlay())
    assert told.reply.outcome == FAILED
    assert told.reply.error is not None
    assert told.reply.error.code == "bad-reply"
    assert "the number nan" in told.reply.error.message


@pytest.mark.parametrize("method", ["nan", "struct"])
def test_a_turn_that_returns_such_a_number_fails(method: str) -> None:
    """By `bad-reply`, and nothing of it stays."""

    async def told(harness: OneOwner) -> None:
        reply = await harness.call("a", method)
        assert reply.error is not None
        assert reply.error.code == "bad-reply"
        assert f"what {method} returned " in reply.error.message
        assert ": it has the number" in reply.error.message
        assert (await harness.call("a", "kept")).body == b'{"result":null}'

    story(Gauge, told)
