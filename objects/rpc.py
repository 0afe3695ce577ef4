"""Calling an object's methods: which may be called, with what.

Laws
- Only `async def` methods that the user's class defines may be called; none with a leading underscore, none
  of perdure's own names.
- Arguments are validated against the method's annotations before a turn begins to write.
- A msgspec Struct, of which pydantic knows nothing, is made and taken apart by msgspec, and so is what holds one.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
from pydantic import ConfigDict, PlainValidator, PydanticUserError, ValidationError, validate_call

from perdure.objects.durable import DurableObject
from perdure.schemas.errors import ConfigError, InvalidArguments, UnknownMethod

RESERVED = frozenset(("fetch", "start", "alarm", "websocket_message", "websocket_close", "websocket_error"))

Bound = tuple[tuple[Any, ...], dict[str, Any]]
LOOSE = ConfigDict(arbitrary_types_allowed=True)


class OfStruct:
    """Makes a value into a type that holds a Struct."""

    __slots__ = ("kind",)

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def __call__(self, value: Any) -> Any:
        try:
            return msgspec.convert(value, self.kind)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from None


class Method:
    """One callable method: `bind` turns what came over the wire into its arguments."""

    __slots__ = ("_capture", "function", "name")

    def __init__(self, cls: type[DurableObject], name: str, function: Callable[..., Awaitable[Any]]) -> None:
        self.name = name
        try:
            self._capture = validate_call(config=LOOSE)(mirrored(function))
            self.function = _telling(function)
        except (NameError, TypeError, PydanticUserError) as error:
            raise ConfigError(
                f"{cls.__module__}.{cls.__qualname__}.{name}: its annotations cannot be used: {error}"
            ) from error

    def bind(self, args: list[Any], kwargs: dict[str, Any]) -> Bound:
        """(args, kwargs) as the annotations want them. Raises `InvalidArguments`."""
        try:
            return self._capture(*args, **kwargs)
        except ValidationError as error:
            raise InvalidArguments(f"{self.name}(): {self._told(error)}") from None

    def _told(self, error: ValidationError) -> str:
        """Each argument by its name, though the client gave it by its place."""
        names = [each.name for each in list(inspect.signature(self.function).parameters.values())[1:]]
        texts = []
        for each in error.errors(include_url=False)[:5]:
            first, *rest = each["loc"] or ("?",)
            known = isinstance(first, int) and first < len(names)
            where = ".".join(map(str, (names[first] if known else first, *rest)))  # type: ignore[index]  # an int
            texts.append(f"argument {where}: {each['msg']}")
        return "; ".join(texts)


def mirrored(function: Callable[..., Any]) -> Callable[..., Bound]:
    """A function with the parameters of `function` (less self) that returns its arguments."""

    def capture(*args: Any, **kwargs: Any) -> Bound:
        return args, kwargs

    signature = inspect.signature(function)
    hints = get_type_hints(function, include_extras=True)
    parameters = [
        each.replace(annotation=readable(hints.get(each.name, Any)))
        for each in list(signature.parameters.values())[1:]
    ]
    capture.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # read by inspect
    capture.__annotations__ = {each.name: each.annotation for each in parameters}
    capture.__name__ = capture.__qualname__ = function.__name__
    return capture


def readable(hint: Any) -> Any:
    """An annotation as pydantic can use it."""
    return Annotated[hint, PlainValidator(OfStruct(hint))] if _holds_struct(hint) else hint


def _holds_struct(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return True
    return any(_holds_struct(each) for each in get_args(hint))


def _telling(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """`function`, with a result that pydantic can write."""
    if not _holds_struct(get_type_hints(function).get("return")):
        return function

    @wraps(function)
    async def telling(*args: Any, **kwargs: Any) -> Any:
        return msgspec.to_builtins(await function(*args, **kwargs))

    return telling


def methods_of(cls: type[DurableObject]) -> dict[str, Method]:
    """The methods of `cls` that may be called. Raises `ConfigError` for annotations that cannot be used."""
    found = {}
    for name in dir(cls):
        function = inspect.getattr_static(cls, name)
        if name.startswith("_") or name in RESERVED or name in vars(DurableObject):
            continue
        if inspect.iscoroutinefunction(function):
            found[name] = Method(cls, name, function)
    return found


def method_named(methods: dict[str, Method], name: str, namespace: str) -> Method:
    """The method called `name`. Raises `UnknownMethod` naming those there are."""
    method = methods.get(name)
    if method is None:
        known = ", ".join(sorted(methods)) or "none"
        raise UnknownMethod(f"{namespace} has no method {name[:60]!r} that can be called; it has: {known}")
    return method
