"""The registry: namespaces, their classes, and what `env` holds."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.objects.durable import Binding, DurableObject
from perdure.objects.registry import Registry
from perdure.schemas.config import parse_config
from perdure.schemas.errors import BadKey, ConfigError, UnknownNamespace


class Room(DurableObject):
    async def enter(self) -> None: ...


class User(DurableObject):
    pass


CLASSES: dict[str, type[DurableObject]] = {"Room": Room, "User": User}
BINDINGS = """
[vars]
LIMIT = 5
[durable_objects]
bindings = [{ name = "ROOMS", class_name = "Room" }]
"""


def built(text: str = "", classes: dict[str, Any] | None = None) -> Registry:
    return Registry.build(CLASSES if classes is None else classes, parse_config(text, "perdure.toml"))


def test_without_migrations_each_class_is_its_own_namespace() -> None:
    """With its methods."""
    registry = built()
    assert {name: kind.cls for name, kind in registry.types.items()} == CLASSES
    assert list(registry.type_of("Room").methods) == ["enter"]


def test_a_migration_names_the_namespaces() -> None:
    """A renamed class keeps the namespace it was created with, and bindings reach it there."""
    registry = built(
        BINDINGS
        + """
[[migrations]]
tag = "v1"
new_classes = ["Hall", "User"]
[[migrations]]
tag = "v2"
renamed_classes = [{ from = "Hall", to = "Room" }]
"""
    )
    assert {name: kind.cls for name, kind in registry.types.items()} == {"Hall": Room, "User": User}
    assert Binding("Hall") == registry.env.ROOMS


def test_when_migrations_have_deleted_every_class_there_is_no_namespace() -> None:
    """Classes that stand in the code still are not served: none left is not the same as no migrations."""
    registry = built(
        '[[migrations]]\ntag = "v1"\nnew_classes = ["Room"]\n[[migrations]]\ntag = "v2"\ndeleted_classes = ["Room"]'
    )
    assert registry.types == {}
    with pytest.raises(UnknownNamespace, match="it has: none"):
        registry.type_of("User")


def test_env_holds_vars_and_bindings() -> None:
    """As attributes and as items; a binding gives stubs by name, under the rule for names."""
    env = built(BINDINGS).env
    assert (env.LIMIT, env["LIMIT"]) == (5, 5)
    assert env.ROOMS.get("lobby").key == "Room/lobby" == env.ROOMS.get_by_name("lobby").key
    with pytest.raises(BadKey):
        env.ROOMS.get("a/b")


def test_a_location_hint_names_no_other_object() -> None:
    """The object is the same with and without."""
    rooms = built(BINDINGS).env.ROOMS
    assert rooms.get("lobby", location_hint="weur") == rooms.get("lobby")


def test_what_env_does_not_hold_says_where_to_name_it() -> None:
    """An AttributeError, so that `hasattr` and `getattr` with a default work."""
    env = built().env
    with pytest.raises(AttributeError, match=r"env has no 'USERS'.*\[vars\]"):
        env["USERS"]
    assert getattr(env, "USERS", None) is None


@pytest.mark.parametrize(
    ("text", "classes", "reason"),
    [
        ("", {}, "defines no durable object"),
        (
            '[[migrations]]\ntag = "v1"\nnew_classes = ["Gone"]',
            None,
            "makes the class Gone.*it has Room, User",
        ),
        (
            '[durable_objects]\nbindings = [{ name = "X", class_name = "Gone" }]',
            None,
            "the binding X names the class Gone.*it has Room, User",
        ),
    ],
)
def test_what_does_not_fit_stops_the_app_at_start(
    text: str, classes: dict[str, Any] | None, reason: str
) -> None:
    """Naming the thing, and what there is."""
    with pytest.raises(ConfigError, match=reason):
        built(text, classes)


def test_a_binding_to_a_class_without_a_namespace_stops_the_app_at_start() -> None:
    """Migrations that leave out a bound class are a mistake of the configuration, told as one."""
    with pytest.raises(ConfigError, match=r"ROOMS.*Room"):
        built(BINDINGS + '[[migrations]]\ntag = "v1"\nnew_classes = ["User"]')


def test_an_unknown_namespace_is_told_with_the_known_ones() -> None:
    """In few words, however long the name."""
    with pytest.raises(UnknownNamespace, match="it has: Room, User") as caught:
        built().type_of("x" * 9999)
    assert len(str(caught.value)) < 200


def test_env_shows_names_and_no_values() -> None:
    """Its repr may land anywhere; secrets are among its values, and win over vars of their name."""
    config = parse_config("[vars]\nKEY = 'plain'", "perdure.toml", environ={"PERDURE_SECRETS__KEY": "hidden"})
    env = Registry.build({"Room": Room}, config).env
    assert env.KEY == "hidden"
    assert repr(env) == "<env of KEY, Room>"


def test_a_class_is_bound_by_its_own_name_unless_that_is_taken() -> None:
    """Without configuration `env.Counter` is there; a var of that name wins."""

    class Counter(DurableObject): ...

    def env(text: str) -> Any:
        return Registry.build({"Counter": Counter}, parse_config(text, "perdure.toml")).env

    assert env("").Counter.get("a").key == "Counter/a"
    assert env("[vars]\nCounter = 3").Counter == 3


class Wrong(DurableObject):
    async def fetch(self) -> Any: ...  # type: ignore[override]  # as a newcomer may write it


class Bare(DurableObject):
    def __init__(self) -> None: ...


class Odd(DurableObject):
    async def websocket_close(self, ws: Any, code: int) -> None: ...  # type: ignore[override]  # as above


class Any_(DurableObject):
    async def fetch(self, *given: Any) -> Any: ...

    async def websocket_message(self, ws: Any, message: Any, more: int = 0) -> None: ...


@pytest.mark.parametrize(
    ("cls", "remedy"),
    [
        (Wrong, r"Wrong\.fetch cannot be called .*: write `async def fetch\(self, request\)`"),
        (Bare, r"Bare\.__init__ cannot be called .*: write `def __init__\(self, state, env\)`"),
        (
            Odd,
            r"Odd\.websocket_close .*: write `async def websocket_close\(self, ws, code, reason, was_clean\)`",
        ),
    ],
)
def test_a_handler_that_cannot_be_called_stops_the_app_at_start(
    cls: type[DurableObject], remedy: str
) -> None:
    """Not the first request to it; and what can be called is accepted, however it is written."""
    with pytest.raises(ConfigError, match=remedy):
        built("", {cls.__name__: cls})
    assert "Any_" in built("", {"Any_": Any_}).types
