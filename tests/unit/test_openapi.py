"""What the document of an app says: exactly what can be called, what is answered,
and nothing that cannot be reached.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, cast

import jsonschema_rs
import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, Field
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from perdure import DurableObject, Request, Response
from perdure.api.access.guard import Access
from perdure.api.doors import pages_for
from perdure.api.openapi.document import document
from perdure.api.openapi.errors import CODES, OF_OBJECTS
from perdure.api.openapi.html import HTML_HEADERS, html_of
from perdure.api.openapi.pages import LEFT_OUT
from perdure.api.openapi.parts import NAME_PATTERN
from perdure.api.problems import problem_of
from perdure.objects.registry import Registry
from perdure.objects.rpc import Method, methods_of
from perdure.objects.signatures import signatures_of
from perdure.schemas import errors
from perdure.schemas.config import Config
from perdure.schemas.errors import BadKey, InvalidArguments, PerdureError
from perdure.schemas.keys import object_key

ROOT = Path(__file__).parents[2]
TOKEN = {"name": "a", "sha256": "0" * 64, "scopes": ("call:*",)}


class Item(BaseModel):
    """Something to buy."""

    name: str
    cents: Annotated[int, Field(gt=0, alias="price")]


@dataclass
class Point:
    x: int
    y: int = 0


class Leaf(msgspec.Struct):
    size: int
    below: Leaf | None = None


class Tree(BaseModel):
    """A model that has Structs and what JSON has no word for."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    root: Leaf
    leaves: dict[str, Leaf] = {}
    raw: bytes = b""
    weight: float = 0.0
    exact: Annotated[float, Field(ge=0)] = 0.0


class Odd:
    """Nothing that JSON can be."""


class Shop(DurableObject):
    """A shop.

    <script>alert(1)</script>
    """

    async def fetch(self, request: Request) -> Response:
        """What is there.

        All of it.
        """
        return Response.json({})

    async def none(self) -> None:
        """Nothing."""

    async def put(self, item: Item, count: Annotated[int, Field(gt=0)] = 1, *, gift: bool = False) -> Item:
        """Put `item` into the cart."""
        return item

    async def by_position(self, a: int, b: int = 2, /, c: int = 3, *rest: int, **more: str) -> Point:
        return Point(a, b)

    async def grow(self, leaf: Leaf, more: list[Leaf] | None = None) -> list[Leaf]:
        return [leaf, *(more or ())]

    async def moved(self, to: Point | None = None, words: set[str] = {"b", "a", "c"}) -> set[str]:  # noqa: B006
        return words

    async def anything(self, value: Any) -> Any:
        return value

    async def odd(self, value: Odd) -> Odd:
        return value

    async def when(self, at: datetime) -> datetime:
        return at

    async def plant(self, tree: Tree, raw: bytes = b"", weight: float | None = None) -> Tree:
        return tree


class Plain(DurableObject):
    async def fetch(self, request: Request) -> Response:
        return Response("plain")


METHODS = {("Shop", name): method for name, method in methods_of(Shop).items()}
SIGNATURES = signatures_of(METHODS)


def made(*, has_worker: bool = False, **settings: Any) -> dict[str, Any]:
    config = Config(name="shop", **settings)
    return document(config, Registry.build({"Shop": Shop, "Plain": Plain}, config), has_worker=has_worker)


def fits(schema: Any) -> Callable[[Any], bool]:
    whole = {"components": {"schemas": SIGNATURES.definitions}, "allOf": [schema]}
    return jsonschema_rs.Draft202012Validator(whole).is_valid


def can_be_called(method: Method, body: dict[str, Any]) -> bool:
    try:
        method.bind(body.get("args", []), body.get("kwargs", {}))
    except InvalidArguments:
        return False
    return True


CALLS = {
    "none": ([], {}),
    "put": (
        [{"name": "tea", "price": 2}, 3],
        {"item": {"name": "tea", "price": 2}, "count": 3, "gift": True},
    ),
    "by_position": ([1, 2, 3, 4], {"a": 1, "b": 2, "c": 3, "z": "z"}),
    "grow": ([{"size": 1, "below": {"size": 2}}, [{"size": 3}]], {"leaf": {"size": 1}, "more": None}),
    "moved": ([{"x": 1}, ["a"]], {"to": None, "words": []}),
    "anything": ([[1, {"a": None}], 2], {"value": 1, "other": 2}),
    "odd": ([{}], {"value": 1}),
    "plant": (
        [{"root": {"size": 1}, "raw": "_w==", "weight": "NaN", "exact": 1.5}, "_w==", "Infinity"],
        {"tree": {"root": {"size": 1, "below": {"size": 2}}, "leaves": {"a": {"size": 3}}}, "weight": 1.5},
    ),
    "when": (["2024-02-29T00:00:00Z"], {"at": "2024-02-29T00:00:00Z"}),
}


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_body_fits_if_and_only_if_it_can_be_called(name: str) -> None:
    """However arguments are split between position and name, left out, given twice
    or too many; and of wrong types.
    """
    args, kwargs = CALLS[name]
    method, fit = METHODS["Shop", name], fits(SIGNATURES.bodies["Shop", name])
    chosen = [
        dict(some) for n in range(len(kwargs) + 1) for some in itertools.combinations(kwargs.items(), n)
    ]
    seen = set()
    for count, named in itertools.product(range(len(args) + 2), chosen):
        body = {"args": [*args, {"wrong": []}][:count], "kwargs": named}
        called = can_be_called(method, body)
        assert fit(body) == called, body
        seen.add(called)
        if not count:
            assert fit({"kwargs": named}) == called
    assert fit({}) == can_be_called(method, {})
    assert not fit({"args": [], "kwargs": {}, "more": 1})
    assert False in seen
    assert name == "odd" or True in seen


RESULTS = {
    "none": None,
    "put": Item(name="tea", price=2),
    "by_position": Point(1, 2),
    "grow": [Leaf(1, Leaf(2))],
    "moved": {"a", "b"},
    "anything": {"a": [1, None]},
    "when": datetime(2024, 2, 29),
    "plant": Tree(root=Leaf(1, Leaf(2)), leaves={"a": Leaf(3)}, raw=b"\xff", weight=float("-inf")),
}


@pytest.mark.parametrize("name", sorted(RESULTS))
def test_what_a_method_returns_fits_its_result(name: str) -> None:
    """As it goes over the wire; and something else does not, where the annotation says anything at all."""
    fit = fits(SIGNATURES.results["Shop", name])
    given = RESULTS[name]
    assert fit(json.loads(METHODS["Shop", name].reply(given))["result"])
    assert name == "anything" or not fit({"else": 1})


def test_a_struct_can_be_given_and_returned() -> None:
    """msgspec makes it from what came, nested and in lists, says what does not fit,
    and takes it apart again.
    """
    grow = METHODS["Shop", "grow"]
    args, kwargs = grow.bind([{"size": 1, "below": {"size": 2}}], {"more": [{"size": 3}]})
    assert args == (Leaf(1, Leaf(2)),)
    assert kwargs == {"more": [Leaf(3)]}
    told = grow.reply(asyncio.run(cast("Any", grow.function(cast("Any", None), *args, **kwargs))))
    assert json.loads(told)["result"] == [
        {"size": 1, "below": {"size": 2, "below": None}},
        {"size": 3, "below": None},
    ]
    with pytest.raises(InvalidArguments, match=r"grow\(\): argument leaf.*Expected `int`, got `str`"):
        grow.bind([{"size": "large"}], {})


@pytest.mark.parametrize("settings", [{}, {"tokens": (TOKEN,)}], ids=["open", "guarded"])
def test_the_document_is_openapi(settings: dict[str, Any]) -> None:
    """By OpenAPI's own schema; every reference leads somewhere, every operation has
    a name of its own and a tag.
    """
    whole = made(**settings)
    assert [str(error)[:300] for error in OPENAPI_31_VALIDATOR.iter_errors(whole)] == []
    text = json.dumps(whole)
    for kind, name in set(re.findall(r'"#/components/(\w+)/([^"]+)"', text)):
        assert name in whole["components"][kind]
    operations = [item[verb] for item in whole["paths"].values() for verb in item if verb != "parameters"]
    names = [each["operationId"] for each in operations]
    assert len(set(names)) == len(names)
    assert {tag for each in operations for tag in each["tags"]} == {tag["name"] for tag in whole["tags"]}


def test_docstrings_are_said() -> None:
    """Of the class as its tag's, of a method and of fetch as summary and description; none is made up."""
    whole = made()
    tags = {tag["name"]: tag.get("description") for tag in whole["tags"]}
    assert tags["Shop"] == "A shop.\n\n<script>alert(1)</script>"
    assert tags["Plain"] is None
    assert whole["paths"]["/rpc/Shop/{name}/put"]["post"]["summary"] == "Put `item` into the cart."
    fetched = whole["paths"]["/objects/Shop/{name}/{path}"]["get"]
    assert (fetched["summary"], fetched["description"]) == ("What is there.", "All of it.")
    assert "summary" not in whole["paths"]["/objects/Plain/{name}"]["get"]
    assert whole["components"]["schemas"]["Item"]["description"] == "Something to buy."


def test_a_body_is_required_where_an_argument_is() -> None:
    """No body is as good as an empty one."""
    paths = made()["paths"]
    required = {
        name: paths[f"/rpc/Shop/{{name}}/{name}"]["post"]["requestBody"]["required"] for name in CALLS
    }
    assert {name for name, value in required.items() if not value} == {"none", "moved"}


def parts(whole: dict[str, Any]) -> set[str]:
    return {path.split("/")[1] for path in whole["paths"]}


@pytest.mark.parametrize(
    ("settings", "has_worker"),
    [({}, False), ({}, True), ({"expose": True}, True), ({"tokens": (TOKEN,)}, True)],
    ids=["open", "behind a Worker", "exposed", "guarded"],
)
def test_every_page_that_is_there_is_described(settings: dict[str, Any], has_worker: bool) -> None:
    """And no other; objects are where they can be reached."""
    config, unused = Config(name="shop", **settings), cast("Any", None)
    registry, access = Registry.build({"Shop": Shop}, config), cast("Access", object())
    pages = pages_for(
        config,
        registry,
        unused,
        (),
        access=access if config.guarded else None,
        has_worker=has_worker,
        dev=False,
        ready=unused,
        metrics=unused,
    )
    reachable = not has_worker or bool(settings)
    objects = {"objects", "rpc"} if reachable else set()
    assert parts(made(has_worker=has_worker, **settings)) == (set(pages) - LEFT_OUT) | objects


def test_rights_are_said_where_access_is_guarded() -> None:
    """What docs/access.md says, in the words of a token's scopes; without tokens
    nothing is said of rights.
    """
    paths = made(tokens=(TOKEN,))["paths"]
    assert paths["/rpc/Shop/{name}/put"]["post"]["security"] == [{"bearer": ["call:Shop"]}]
    assert paths["/objects/Shop/{name}"]["get"]["security"] == [{"bearer": ["read:Shop"]}]
    assert paths["/objects/Shop/{name}"]["post"]["security"] == [{"bearer": ["call:Shop"]}]
    assert paths["/metrics"]["get"]["security"] == [{"bearer": ["metrics"]}]
    assert paths["/livez"]["get"]["security"] == []
    assert {"401", "403", "429"} <= paths["/rpc/Shop/{name}/put"]["post"]["responses"].keys()
    exposed = made(has_worker=True, expose=True, tokens=(TOKEN,))["paths"]
    assert exposed["/rpc/Shop/{name}/put"]["post"]["security"] == [{}, {"bearer": ["call:Shop"]}]
    assert "security" not in json.dumps(made())


def types(whole: dict[str, Any], answer: str) -> list[str]:
    schema = whole["components"]["responses"][answer]["content"]["application/problem+json"]["schema"]
    kind = schema["allOf"][1]["properties"]["type"]
    return [each.removeprefix("urn:perdure:problem:") for each in kind.get("enum", kind.get("examples"))]


def test_every_error_stands_under_its_status() -> None:
    """Each class of the tree that objects' callers are told, and each code of
    docs/errors.md that has a status.
    """
    whole = made(tokens=(TOKEN,))
    listed = {
        code: int(answer.removeprefix("Call"))
        for answer in sorted(whole["components"]["responses"])
        if answer.startswith("Call") and answer != "Call413"
        for code in types(whole, answer)
    }
    for cls in vars(errors).values():
        if not (isinstance(cls, type) and issubclass(cls, PerdureError)) or cls.code not in listed:
            continue
        if not issubclass(cls, errors.ObjectError | errors.Refusal) and cls.code != "too-large":
            assert listed[cls.code] == problem_of(cls("x"))[0], cls.code
    documented = re.findall(
        r"^\| `([\w-]+)` \| (\d+) \|", (ROOT / "docs/errors.md").read_text(), re.MULTILINE
    )
    assert {code: int(status) for code, status in documented if code in CODES} == {
        code: CODES[code] for code, _ in documented if code in CODES
    }
    assert set(OF_OBJECTS) | {"unauthenticated", "forbidden", "over-quota", "too-large"} == listed.keys()
    assert types(whole, "Call413") == ["too-large"]


def test_what_an_object_never_answers_is_not_said_of_it() -> None:
    """What only administration is told, a namespace that is not there, a root of
    the tree: in no answer of an object.
    """
    whole = made(tokens=(TOKEN,))
    answers = [each for each in whole["components"]["responses"] if re.match(r"(Call|Fetch)\d", each)]
    told = {code for each in answers for code in types(whole, each)}
    assert told >= {"unknown-method", "overloaded", "config-error"}
    never = {"not-parked", "not-at-head", "unknown-namespace", "operator-error", "bad-request", "error"}
    assert not told & never
    assert "Fetch404" not in answers


@pytest.mark.parametrize("name", ["a", "a b", "...", "äöü", "日本", "😀", "a.b", "~", "x" * 512])
def test_names_that_can_be_fit_the_pattern(name: str) -> None:
    """Each name that is canonical."""
    assert object_key("N", name)
    assert re.search(NAME_PATTERN, name)


def test_the_pattern_lets_in_little_that_no_name_can_hold() -> None:
    """Of the characters of Unicode's first plane only such as are not assigned, or
    not in NFC by themselves.
    """
    wrong = set()
    for code in range(0x10000):
        char = chr(code)
        try:
            object_key("N", char)
            assert code < 0xD800 or code > 0xDFFF
        except BadKey:
            if re.search(NAME_PATTERN, char) and unicodedata.is_normalized("NFC", char):
                wrong.add(unicodedata.category(char))
        else:
            assert re.search(NAME_PATTERN, char), hex(code)
    assert wrong <= {"Cn", "Cs"}


def test_the_page_is_text_and_runs_nothing() -> None:
    """What an app says is escaped, no script is let in, and the one style is the
    one that the header allows.
    """
    whole = made(port=9000)
    page = html_of(whole, 9000)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.search(r"\s(?:src|on\w+|style)=|https?://(?!127\.0\.0\.1)", page)
    policy = dict(HTML_HEADERS)[b"content-security-policy"].decode()
    assert "script-src" not in policy
    assert policy.startswith("default-src 'none'; ")
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in policy
    assert "PERDURE=http://127.0.0.1:9000" in page
    for path in whole["paths"]:
        assert f"</b>{path}</h3>" in page
    assert "TOKEN" not in page
    assert "$TOKEN" in html_of(made(tokens=(TOKEN,)), 0)


SETS_BY_DEFAULT = """
from dataclasses import dataclass
from enum import Enum
import msgspec
from pydantic import BaseModel, Field
from perdure import DurableObject

LETTERS = frozenset("abcdef")
Color = Enum("Color", {"RED": "r", "GREEN": "g", "BLUE": "b"})

class Model(BaseModel):
    some_letters: set[str] = Field(set(LETTERS), alias="someLetters")
    within: dict[str, frozenset[str]] = {"x": LETTERS}

@dataclass
class Data:
    letters: frozenset[str] = LETTERS

class Inner(msgspec.Struct):
    letters: frozenset[str] = LETTERS

class Outer(msgspec.Struct):
    inner: Inner

class Sets(DurableObject):
    async def model(self, it: Model = Model()) -> None: ...
    async def data(self, it: Data = Data()) -> None: ...
    async def struct(self, it: Outer) -> None: ...
    async def mixed(self, it: frozenset[str | int] = frozenset({"b", "a", 10, 9})) -> None: ...
    async def enums(self, it: frozenset[Color] = frozenset(Color)) -> None: ...
    async def within(self, it: dict[str, frozenset[str]] = {"x": LETTERS}) -> None: ...
    async def sets(self, it: frozenset[frozenset[str]] = frozenset(map(frozenset, ("ab", "cd", "ef")))) -> None: ...
"""


def test_the_same_app_gives_the_same_document_in_every_process(tmp_path: Path) -> None:
    """Whatever order sets have, however many apps a process has loaded; its version
    changes with what it says.
    """
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(
            "from pydantic import BaseModel\nfrom perdure import DurableObject\n"
            f"class Item(BaseModel):\n    {name}: str\n"
            f"class {name.title()}(DurableObject):\n"
            "    async def put(self, item: Item, words: frozenset[str] = frozenset('abcdef')) -> Item: ...\n"
        )
    (tmp_path / "sets.py").write_text(SETS_BY_DEFAULT)
    code = (
        "import sys, pathlib\nfrom perdure.api.loading import load_app\n"
        "for _ in range(int(sys.argv[2])): load_app(pathlib.Path(sys.argv[1]))\n"
        "from perdure.api.cli import main\nmain(['openapi', sys.argv[1], '--json'])"
    )
    told = set()
    for seed in ("1", "2"):
        environ = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code, str(tmp_path), seed]
        told.add(subprocess.run(command, capture_output=True, text=True, check=True, env=environ).stdout)
    (text,) = told
    document = json.loads(text)
    schemas = document["components"]["schemas"]
    assert {name for name in schemas if "Item" in name} == {"one__Item", "two__Item"}
    assert schemas["struct.Inner"]["properties"]["letters"]["default"] == list("abcdef")
    mixed = document["paths"]["/rpc/Sets/{name}/mixed"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    assert mixed["anyOf"][1]["properties"]["args"]["prefixItems"][0]["default"] == [9, 10, "a", "b"]
    assert made()["info"]["version"] == made()["info"]["version"] != made(tokens=(TOKEN,))["info"]["version"]
