"""Calling methods: which may be called, and what their annotations make of what came over the wire."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from perdure.api.client.stubs import Stub as ClientStub
from perdure.api.client.stubs import SyncStub
from perdure.api.testing.stubs import Stub as WorldStub
from perdure.objects.durable import DurableObject
from perdure.objects.rpc import OF_STUBS, RESERVED, method_named, methods_of
from perdure.objects.stubs import Sender, Stub
from perdure.schemas.errors import ConfigError, InvalidArguments, UnknownMethod


class Item(BaseModel):
    name: str
    price: Decimal


@dataclass
class Point:
    x: int
    y: int


class Basket(DurableObject):
    public = 5

    async def put(self, item: Item, count: int = 1, *, gift: bool = False) -> Any: ...

    async def move(self, to: Point, when: datetime | None = None) -> Any: ...

    async def pick(self, colour: Literal["red", "blue"], *rest: int, **more: str) -> Any: ...

    async def anything(self, value, other=None):  # type: ignore[no-untyped-def]  # without annotations, as users may
        ...

    async def _private(self) -> None: ...

    async def __secret(self) -> None: ...

    def not_async(self) -> None: ...

    @staticmethod
    async def static() -> None: ...

    @property
    def prop(self) -> None: ...

    async def alarm(self) -> None: ...

    async def websocket_message(self) -> None: ...


METHODS = methods_of(Basket)


def test_public_async_methods_may_be_called_and_nothing_else() -> None:
    """No underscore, no reserved word, none of the base class, nothing that is not
    an `async def` of the object.
    """
    assert sorted(METHODS) == ["anything", "move", "pick", "put"]
    assert not RESERVED & METHODS.keys()


@pytest.mark.parametrize(
    "name",
    ["fetch", "start", "alarm", "__init__", "_private", "state", "env", "not_async", "prop", "", "x" * 999],
)
def test_any_other_name_is_unknown_and_the_known_ones_are_told(name: str) -> None:
    """In few words, however long the name."""
    with pytest.raises(UnknownMethod, match="it has: anything, move, pick, put") as caught:
        method_named(METHODS, name, "Basket")
    assert len(str(caught.value)) < 300


def test_a_method_that_is_not_async_says_so() -> None:
    """It is there, and a client that is refused would look for a wrong name."""
    with pytest.raises(
        UnknownMethod, match=r"no method 'not_async' that can be called \(it is not `async def`\)"
    ):
        method_named(METHODS, "not_async", "Basket", Basket)
    with pytest.raises(UnknownMethod, match="'_private' that can be called; it has"):
        method_named(METHODS, "_private", "Basket", Basket)


def test_a_class_without_methods_says_so() -> None:
    """`none` instead of an empty list."""
    with pytest.raises(UnknownMethod, match="it has: none"):
        method_named({}, "x", "Basket")


def test_arguments_become_what_the_annotations_want() -> None:
    """Models, dataclasses, times; positional and by name; what was left out has its default."""
    item = {"name": "tea", "price": "2.50"}
    args, kwargs = METHODS["put"].bind([item], {"gift": True})
    assert (args[0], kwargs["gift"]) == (Item(name="tea", price=Decimal("2.50")), True)
    args, kwargs = METHODS["move"].bind([], {"to": {"x": 1, "y": "2"}, "when": "2024-02-29T00:00:00Z"})
    bound = dict(zip(("to", "when"), args, strict=False)) | kwargs
    assert bound["to"] == Point(1, 2)
    assert bound["when"].year == 2024
    assert METHODS["pick"].bind(["red", 1, "2"], {"a": "b"}) == (("red", 1, 2), {"a": "b"})
    assert METHODS["anything"].bind([[1, {"a": None}]], {}) == (([1, {"a": None}],), {"other": None})


@pytest.mark.parametrize(
    ("method", "args", "kwargs", "reason"),
    [
        ("put", [], {}, "put\\(\\): argument item"),
        ("put", [{"name": "tea"}], {}, "argument item.price"),
        ("put", [{"name": "tea", "price": "2"}, "many"], {}, "argument amount|integer"),
        ("put", [{"name": "tea", "price": "2"}, 1, True], {}, "put\\(\\): argument"),
        ("put", [{"name": "tea", "price": "2"}], {"wrong": 1}, "put\\(\\): argument wrong"),
        ("put", [{"name": "tea", "price": "2"}], {"item": {}}, "put\\(\\): argument item"),
        ("pick", ["green"], {}, "'red' or 'blue'"),
        ("anything", [], {}, "anything\\(\\): argument value"),
        ("anything", [1, 2, 3], {}, "anything\\(\\): argument"),
        ("put", [], {"self": 1}, "put\\(\\): argument"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(
    method: str, args: list[Any], kwargs: dict[str, Any], reason: str
) -> None:
    """The method, the argument and what is wrong with it; no more than five of them."""
    with pytest.raises(InvalidArguments, match=reason) as caught:
        METHODS[method].bind(args, kwargs)
    assert str(caught.value).count(";") < 5


def test_annotations_that_cannot_be_used_stop_the_app_at_start() -> None:
    """The class, the method and the reason are named."""

    class Broken(DurableObject):
        async def go(self, what: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821 - on purpose
            ...

    with pytest.raises(ConfigError, match=r"Broken\.go: its annotations cannot be used.*Nowhere"):
        methods_of(Broken)


@pytest.mark.parametrize("name", sorted(OF_STUBS))
def test_a_method_with_a_name_that_stubs_have_stops_the_app_at_start(name: str) -> None:
    """Nobody could call it: the stub's own would be found. The text says what to do."""

    async def method(self: Any) -> None: ...

    cls = type("Chat", (DurableObject,), {name: method})
    with pytest.raises(ConfigError, match=rf"Chat\.{name}: a stub has a '{name}' of its own.*rename it"):
        methods_of(cls)
    plain = type("Chat", (DurableObject,), {name: lambda self: None})
    assert methods_of(plain) == {}


def test_all_names_that_stubs_have_are_refused() -> None:
    """Of every kind of stub; `fetch` is reserved besides."""
    stubs = (Stub("A/b"), Sender("A/b"), ClientStub, SyncStub, WorldStub)
    public = {name for stub in stubs for name in dir(stub) if not name.startswith("_")} | {"key"}
    assert public <= OF_STUBS | RESERVED


def test_an_inherited_method_may_be_called() -> None:
    """Of a user's own base class or mixin."""

    class Special(Basket):
        async def extra(self) -> int:
            return 1

    assert sorted(methods_of(Special)) == ["anything", "extra", "move", "pick", "put"]
    assert inspect.iscoroutinefunction(methods_of(Special)["put"].function)
