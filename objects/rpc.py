"""RPC: which methods of an object may be called, with which arguments, and what they return.

Laws
- Only `async def` methods that the user's class defines may be called; none with a leading underscore, none
  of perdure's own names. A method with a name that every stub has itself is refused when the class is loaded.
  [test_rpc.py]
- Arguments are validated against the method's annotations before a turn begins to write, and by a caller that
  knows the class before they are sent.
- Arguments and results are written and read by one codec (objects/codec.py), by their annotations.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from types import CoroutineType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    NamedTuple,
    NotRequired,
    Required,
    Unpack,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from pydantic import AfterValidator, PlainValidator, PydanticUserError, ValidationError, validate_call
from pydantic_core import to_json
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from perdure.objects.codec import Codec, Unfit, encode_json, problems_of
from perdure.objects.wire import LOOSE, finite
from perdure.schemas.errors import BadReply, ConfigError, InvalidArguments, UnknownMethod

if TYPE_CHECKING:
    from perdure.objects.durable import DurableObject

RESERVED = frozenset(("fetch", "start", "alarm", "websocket_message", "websocket_close", "websocket_error"))
OF_STUBS = frozenset(
    ("id", "key", "keyed", "send", "websocket")
)  # the names of stubs besides methods and `fetch`

Methods = Mapping[str, "Method"]
Bound = tuple[tuple[Any, ...], dict[str, Any]]
_MOST = 5  # problems in one error
_UNUSABLE = (NameError, TypeError, PydanticUserError)


class Parameter(NamedTuple):
    """One parameter of a method; `shown` is its annotation as a text."""

    name: str
    codec: Codec
    shown: str
    required: bool
    hint: Any = Any


class Method:
    """One callable method, which writes and reads its arguments and its result by its annotations."""

    __slots__ = (
        "_by_name",
        "_capture",
        "_further",
        "_given",
        "_ordered",
        "_rest",
        "_result",
        "_shown",
        "function",
        "name",
    )

    def __init__(self, cls: type[DurableObject], name: str, function: Callable[..., Awaitable[Any]]) -> None:
        self.name = name
        self.function = function
        try:
            hints = get_type_hints(function, include_extras=True)
            self._read(inspect.signature(function), hints)
            self._capture = validate_call(config=LOOSE)(mirrored(function, self._validated))
        except _UNUSABLE as error:
            raise ConfigError(
                f"{cls.__qualname__}.{name}: its annotations cannot be used: {error}"
            ) from error
        self._shown = shown(hints.get("return", Any))
        self._result = codec_of_result(hints.get("return", Any))

    def _read(self, signature: inspect.Signature, hints: Mapping[str, Any]) -> None:
        self._ordered: list[Parameter] = []
        self._by_name: dict[str, Parameter] = {}
        self._rest: Parameter | None = None
        self._further: Parameter | None = None
        self._given = list(signature.parameters)[1:]
        for each in list(signature.parameters.values())[1:]:
            hint = hints.get(each.name, Any)
            if get_origin(hint) is Unpack:
                self._by_name |= {field.name: field for field in _fields(hint)}
                continue
            made = Parameter(each.name, Codec(hint), shown(hint), each.default is each.empty)
            if each.kind is each.VAR_POSITIONAL:
                self._rest = made
            elif each.kind is each.VAR_KEYWORD:
                self._further = made
            else:
                if each.kind is not each.KEYWORD_ONLY:
                    self._ordered.append(made)
                if each.kind is not each.POSITIONAL_ONLY:
                    self._by_name[each.name] = made

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """The body of a call's record. Raises `InvalidArguments`: nothing was sent."""
        return b'{"method":%b,%b' % (msgspec.json.encode(self.name), self.arguments(args, kwargs)[1:])

    def arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """The body of a call over HTTP. Raises `InvalidArguments`: nothing was sent."""
        ordered, rest = self._ordered, self._rest
        placed = [
            self._written(ordered[at] if at < len(ordered) else rest, at, value)
            for at, value in enumerate(args)
        ]
        named = [
            msgspec.json.encode(name) + b":" + self._written(self._named(name, len(args)), name, value)
            for name, value in kwargs.items()
        ]
        for each in (*ordered[len(args) :], *self._by_name.values()):
            if each.required and each.name not in kwargs and each not in ordered[: len(args)]:
                raise self._unfit((each.name, "", "Missing required argument"))
        return b'{"args":[%b],"kwargs":{%b}}' % (b",".join(placed), b",".join(named))

    def _named(self, name: str, placed: int) -> Parameter | None:
        parameter = self._by_name.get(name, self._further)
        if parameter is not None and parameter in self._ordered[:placed]:
            raise self._unfit((name, "", "Got multiple values for argument"))
        return parameter

    def _written(self, parameter: Parameter | None, name: str | int, value: Any) -> bytes:
        if parameter is None:
            problem = (
                "Unexpected positional argument" if isinstance(name, int) else "Unexpected keyword argument"
            )
            raise self._unfit((name, "", problem))
        try:
            return parameter.codec.encode(value)
        except Unfit as error:
            named = parameter.name if isinstance(name, int) else name
            raise self._unfit(*((named, where, what) for where, what in error.problems)) from None

    def bind(self, args: list[Any], kwargs: dict[str, Any]) -> Bound:
        """(args, kwargs), validated and converted by the annotations. Raises `InvalidArguments`."""
        if "self" in kwargs:  # pydantic before 2.12 would use it itself
            raise self._unfit(("self", "", "Unexpected keyword argument"))
        try:
            return self._capture(*args, **kwargs)
        except ValidationError as error:
            raise self._unfit(*self._problems(error)) from None

    def _problems(self, error: ValidationError) -> list[tuple[str | int, str, str]]:
        """(argument, where in it, what is wrong): by name, also where the client gave it by position."""
        problems: list[tuple[str | int, str, str]] = []
        for each, (_, what) in zip(
            error.errors(include_url=False, include_input=False), problems_of(error), strict=False
        ):
            first, *rest = each["loc"] or ("?",)
            if isinstance(first, int) and first < len(self._ordered):
                first = self._ordered[first].name
            problems.append((first, "".join(f".{step}" for step in rest), what))
        return problems

    def _unfit(self, *problems: tuple[str | int, str, str]) -> InvalidArguments:
        """The error that names the method, each argument, its problem, and what is expected."""
        texts = []
        for name, where, what in problems[:_MOST]:
            known = self._by_name.get(str(name)) or next(
                (each for each in self._ordered if each.name == name), None
            )
            expected = f"{name}: {known.shown}" if known else f"it takes {', '.join(self._given) or 'none'}"
            texts.append(f"argument {name}{where}: {what} ({expected})")
        return InvalidArguments(f"{self.name}(): {'; '.join(texts)}")

    def _validated(self, name: str, hint: Any) -> Any:
        """An annotation by which pydantic reads JSON that is already parsed into Python's values."""
        if get_origin(hint) is Unpack:
            fields = {each.name: each for each in _fields(hint)}
            made = {each.name: _from_json(each.hint, each.codec) for each in fields.values()}
            made = {key: each if fields[key].required else NotRequired[each] for key, each in made.items()}
            make: Any = TypedDict
            return Unpack[make(get_args(hint)[0].__name__, made)]
        known = (*self._ordered, *self._by_name.values(), self._rest, self._further)
        return _from_json(hint, next(each.codec for each in known if each is not None and each.name == name))

    def reply(self, result: Any) -> bytes:
        """The body of the reply with the method's result. Raises `BadReply`."""
        if self._result is None:
            return open_reply(self.name, result)
        try:
            return b'{"result":%b}' % self._result.encode(result)
        except Unfit as error:
            text = f"what {self.name} returned does not fit its annotation, {self._shown}: {error}"
            raise BadReply(text + missing_await(result)) from error

    def result(self, body: bytes) -> Any:
        """The method's result, from the body of its reply.

        Raises ValueError if that is not a reply, `BadReply` if the result does not fit.
        """
        text = _result_of(body).result
        if self._result is None:
            return json.loads(bytes(text))
        try:
            return self._result.decode(bytes(text))
        except ValidationError as error:
            problems = "; ".join(f"{where} {what}".strip() for where, what in problems_of(error))
            raise BadReply(
                f"what {self.name} returned does not fit its annotation, {self._shown}: {problems}"
            ) from None


def _fields(hint: Any) -> list[Parameter]:
    """The parameters that `**kwargs: Unpack[…]` stands for."""
    (fields,) = get_args(hint)
    parameters = []
    for name, each in get_type_hints(fields, include_extras=True).items():
        said = get_origin(each)  # which `__required_keys__` misses where annotations are texts
        required = said is Required or (said is not NotRequired and name in fields.__required_keys__)
        inner = get_args(each)[0] if said in (Required, NotRequired) else each
        parameters.append(Parameter(name, Codec(inner), shown(inner), required, inner))
    return parameters


def _from_json(hint: Any, codec: Codec) -> Any:
    if not codec.plain:
        return Annotated[Any, PlainValidator(OfJson(codec))]
    return Annotated[hint, AfterValidator(finite)] if codec.is_open else hint


def open_reply(name: str, result: Any) -> bytes:
    """The body of the reply with the result of a method without annotation. Raises `BadReply`."""
    try:
        return b'{"result":%b}' % encode_json(result)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadReply(f"what {name} returned is not JSON: {error}{missing_await(result)}") from error


class OfJson:
    """A validator that makes a value of a type from its parsed JSON."""

    __slots__ = ("codec",)

    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    def __call__(self, value: Any) -> Any:
        return self.codec.decode(to_json(value, inf_nan_mode="constants"))


class _Answer(msgspec.Struct):
    result: msgspec.Raw


_result_of = msgspec.json.Decoder(_Answer).decode


def json_result(body: bytes) -> Any:
    """The result of a method whose annotations are not known.

    Raises ValueError if the body is not a reply.
    """
    return json.loads(bytes(_result_of(body).result))


def mirrored(function: Callable[..., Any], annotated: Callable[[str, Any], Any]) -> Callable[..., Bound]:
    """A function with the parameters of `function` (less self) that returns its arguments.

    `annotated(name, annotation)` returns the annotation that each of them gets.
    """

    def capture(*args: Any, **kwargs: Any) -> Bound:
        return args, kwargs

    signature = inspect.signature(function)
    hints = get_type_hints(function, include_extras=True)
    parameters = [
        each.replace(annotation=annotated(each.name, hints.get(each.name, Any)))
        for each in list(signature.parameters.values())[1:]
    ]
    capture.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # read by inspect
    capture.__annotations__ = {each.name: each.annotation for each in parameters}
    capture.__name__ = capture.__qualname__ = function.__name__
    return capture


def codec_of_result(hint: Any) -> Codec | None:
    """The codec of a method's results.

    None: they are JSON, without an annotation or with one that JSON cannot carry.
    """
    if hint is Any or hint is object:
        return None
    try:
        codec = Codec(hint, of_result=True)
    except _UNUSABLE:
        return None
    return codec if codec.readable else None


def shown(hint: Any) -> str:
    """An annotation as it is written in source code."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if isinstance(hint, type) and not get_args(hint):
        return hint.__name__
    return re.sub(r"\b(\w+\.)+(?=\w)", "", str(hint))


def missing_await(result: Any) -> str:
    """A hint for a handler that returned a coroutine: an `await` is missing. Closes the coroutine."""
    if not isinstance(result, CoroutineType):
        return ""
    result.close()
    return f": an `await` is missing before {result.__qualname__}(…)"


def methods_of(cls: type[DurableObject]) -> dict[str, Method]:
    """The methods of `cls` that may be called.

    Raises `ConfigError` for annotations that cannot be used, and for a name that stubs have themselves.
    """
    methods = {}
    for name in dir(cls):
        function = inspect.getattr_static(cls, name)
        if name.startswith("_") or name in RESERVED:
            continue
        if inspect.iscoroutinefunction(function):
            if name in OF_STUBS:
                raise ConfigError(
                    f"{cls.__qualname__}.{name}: a stub has a {name!r} of its own, so this method "
                    "could not be called: rename it, or begin it with an underscore if it is not to be called"
                )
            methods[name] = Method(cls, name, function)
    return methods


def method_named(
    methods: Methods, name: str, namespace: str, cls: type[DurableObject] | None = None
) -> Method:
    """The method called `name`. Raises `UnknownMethod`, which names those that exist.

    methods, namespace: those of the object's class, and its namespace.
    cls: the class, which may have a method of that name that cannot be called; None if it is not known.
    """
    method = methods.get(name)
    if method is None:
        known = ", ".join(sorted(methods)) or "none"
        hidden = name in RESERVED or name.startswith("_")
        plain = not hidden and inspect.isfunction(inspect.getattr_static(cls, name, None))
        why = " (it is not `async def`)" if plain else ""
        raise UnknownMethod(
            f"{namespace} has no method {name[:60]!r} that can be called{why}; it has: {known}"
        )
    return method
