"""The codec: a value of an annotated type as JSON, and the value again.

Arguments and results of methods are written and read here: for calls and sends between objects, `/rpc`,
records, the client, and `perdure.testing`.

Laws
- `decode(encode(x))` equals x and is of the annotated type, or `encode` raises `Unfit`. [test_codec.py]
- Equal values give equal bytes, in every process.
- A value that does not fit the annotation itself, such as a dict for a model, is written as over HTTP, if
  that fits.
- Without an annotation an argument is one of JSON's own types; a result is written as JSON and read as JSON.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from math import isfinite
from typing import Any, NoReturn

from pydantic import PydanticUserError, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from perdure.objects.alike import alike, foreign, parts
from perdure.objects.wire import built, nodes, schema_of, struct_of, wired

# types that pydantic reads alike from Python's values and from JSON
_PLAIN = frozenset(("int", "str", "bool", "float", "none", "nullable", "list", "dict", "union", "default"))
# types of which JSON may give back another value of the same annotation
_DOUBTFUL = frozenset(
    ("union", "datetime", "time", "timedelta", "decimal", "enum", "literal", "call", "complex", "date", "url")
)
_CODE = frozenset(("function-before", "function-after", "function-wrap", "function-plain"))
_UNREADABLE = frozenset(
    ("is-instance", "is-subclass", "callable", "generator")
)  # no value of these is made of JSON
_CHANGING = ("strip_whitespace", "to_lower", "to_upper")
_MISMATCH = "Pydantic serializer warnings"
NO_ANNOTATION = "is not JSON, and no annotation says how it is read"
_SHOWN = 5


class Unfit(ValueError):
    """A value that does not fit its annotation, or would arrive as another one.

    `problems`: where inside of it, as one would write it (`.price`, `[3]`, empty: the whole), and what is
    wrong.
    """

    def __init__(self, *problems: tuple[str, str]) -> None:
        super().__init__("; ".join(f"{where}: {what}".removeprefix(": ") for where, what in problems))
        self.problems = problems


class Codec:
    """Writer and reader of values of one type. Raises what pydantic raises for a type that it cannot handle.

    `plain`: pydantic reads the type alike from Python's values and from JSON. `is_open`: part of it has no
    annotation. `readable`: values of it can be made of JSON.
    """

    __slots__ = (
        "_classes",
        "_compared",
        "_doubtful",
        "_of_result",
        "_scalar",
        "_to_json",
        "_validate",
        "is_open",
        "plain",
        "readable",
    )

    def __init__(self, hint: Any, *, of_result: bool = False) -> None:
        schema = schema_of(hint)
        schemas = list(nodes(schema))
        kinds = {each["type"] for each in schemas}
        keys = {each.get("keys_schema", _TEXT)["type"] for each in schemas if each["type"] == "dict"}
        changing = any(each.get(name) for each in schemas for name in _CHANGING)
        has_struct = any(struct_of(each) is not None for each in schemas)
        self.is_open = "any" in kinds
        # not compared: values that users' code makes, and a result that is JSON where nothing is annotated
        self._compared = not (_CODE & kinds or changing or (of_result and self.is_open))
        self.plain = kinds - {"any"} <= _PLAIN and keys <= {"str", "any"} and not {"any", "float"} <= kinds
        self.readable = has_struct or not _UNREADABLE & kinds
        self._scalar = _SCALARS.get(schema["type"]) if schema.keys() <= {"type", "metadata"} else None
        self._doubtful = bool(_DOUBTFUL & kinds) or bool(keys - {"str"}) or has_struct
        self._classes = tuple(each["cls"] for each in schemas if each["type"] in ("model", "dataclass"))
        self._of_result = of_result
        validator, serializer = built(wired(schema, json_value if of_result else only_json))
        self._validate = validator.validate_json
        self._to_json = serializer.to_json

    def encode(self, value: Any) -> bytes:
        """The value as JSON. Raises `Unfit`."""
        kind = type(value)
        try:
            if kind is int and self._scalar is int:
                return b"%d" % value
            text = self._to_json(value, by_alias=True, round_trip=not self._of_result, warnings="error")
        except PydanticSerializationError as error:
            message = str(error)
            if _MISMATCH not in message or NO_ANNOTATION in message:
                raise Unfit(("", _reason(message))) from None
            return self._as_json(value)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Unfit(("", _reason(str(error)))) from None
        if kind is self._scalar:
            return text
        received = self._made(text)
        doubtful = self._doubtful or any(each.__subclasses__() for each in self._classes)
        if self._compared and doubtful and not alike(value, received):
            raise Unfit(("", f"{_shown(value)} would arrive as {_shown(received)}"))
        return text

    def written(self, value: Any) -> bytes:
        """The value as JSON, which perhaps cannot be read back."""
        return self._to_json(value, by_alias=True)

    def decode(self, text: bytes | str) -> Any:
        """The value of a JSON text. Raises pydantic's `ValidationError`."""
        return self._validate(text)

    def _as_json(self, value: Any) -> bytes:
        """A value of another type, as JSON from which a value of this type is made."""
        try:
            text = to_json(by_name(value))
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Unfit(("", _reason(str(error)))) from None
        received = self._made(text)
        if not (self._of_result and self.is_open) and (lost := foreign(value) - foreign(received)):
            raise Unfit(("", f"a {min(lost)} in it would arrive as something else"))
        return text

    def _made(self, text: bytes) -> Any:
        try:
            return self._validate(text)
        except ValidationError as error:
            raise Unfit(*problems_of(error)) from None


_SCALARS: dict[str, type] = {"int": int, "str": str, "bool": bool, "float": float, "none": type(None)}
_TEXT = {"type": "str"}


def problems_of(error: ValidationError) -> list[tuple[str, str]]:
    """(where in a value, what is wrong there), five at most."""
    return [
        ("".join(map(_step, each["loc"])), each["msg"])
        for each in error.errors(include_url=False, include_input=False, include_context=False)[:_SHOWN]
    ]


def only_json(value: Any) -> Any:
    """An argument, or part of one, without an annotation.

    Raises ValueError if it would arrive as another value.
    """
    if value is None or isinstance(value, int | str):
        return value
    if isinstance(value, float):
        if isfinite(value):
            return value
    elif isinstance(value, list):
        return [only_json(each) for each in value]
    elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: only_json(each) for key, each in value.items()}
    raise ValueError(f"{_shown(value)} {NO_ANNOTATION}")


def json_value(value: Any) -> Any:
    """A result, or part of one, without an annotation.

    Raises ValueError for a number that JSON does not have.
    """
    if value is None or isinstance(value, int | str):
        return value
    return lowered(value, _refused) if _quickly(value) is None else value


def encode_json(value: Any) -> bytes:
    """A value without an annotation as JSON: models and other types of arguments as
    their own annotations say.

    Raises ValueError for a number that JSON does not have, such as NaN, and TypeError for a value that cannot
    be written as JSON.
    """
    text = _quickly(value)
    return to_json(lowered(value, _refused)) if text is None else text.encode()


def _quickly(value: Any) -> str | None:
    """The value as JSON if it is made of Python's own counterparts of JSON's types."""
    try:
        return _fast(value)
    except TypeError:
        return None
    except ValueError as error:
        if "Circular" in str(error):
            raise
        return None  # `lowered` reports the number with a better text


def by_name(value: Any) -> Any:
    """An argument whose annotation the sender does not know, as JSON's values."""
    return lowered(value, _as_text)


def lowered(value: Any, number: Callable[[float], Any]) -> Any:
    """A value as JSON's values; `number` converts numbers that JSON does not have.

    Raises ValueError, TypeError.
    """
    if value is None or isinstance(value, int | str):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else number(value)
    if isinstance(value, list | tuple | deque):
        return [lowered(each, number) for each in value]
    if isinstance(value, set | frozenset):
        return sorted((lowered(each, number) for each in value), key=to_json)
    if isinstance(value, dict):
        return {_key(lowered(key, number)): lowered(each, number) for key, each in value.items()}
    kind: Any = type(value)
    try:
        text = _of_class(kind).written(value) if parts(value) is not None else _by_type(value)
    except PydanticUserError:  # it has fields that pydantic cannot handle
        text = _by_type(value)
    return lowered(from_json(text), number)


def _by_type(value: Any) -> bytes:
    try:
        return to_json(value, bytes_mode="base64", inf_nan_mode="constants")
    except PydanticSerializationError as error:
        raise TypeError(
            f"a {_name_of(type(value))} cannot be written as JSON: {_reason(str(error))}"
        ) from None


def _as_text(number: float) -> Any:
    return from_json(to_json(number, inf_nan_mode="strings"))


def _refused(number: float) -> NoReturn:
    raise ValueError(f"it has the number {number!r}, which JSON cannot express: return None or a text for it")


def _key(plain: Any) -> str:
    return plain if isinstance(plain, str) else to_json(plain).decode()


_fast = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


@lru_cache(256)
def _of_class(kind: Any) -> Codec:
    return Codec(kind, of_result=True)


def _name_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _reason(message: str) -> str:
    """pydantic's reason, without the wrapping of its own errors."""
    if "surrogates not allowed" in message:
        return "a str with half a surrogate pair cannot be sent"
    message = message.partition("; use sys.")[0]  # of an int with more digits than Python reads
    for wrapped in ("ValueError: ", "TypeError: ", "Error serializing to JSON: "):
        message = message.rpartition(wrapped)[2]
    return message


def _shown(value: Any) -> str:
    """A value in an error: its type, and itself if it is short."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - the user's own __repr__
        text = ""
    kind = type(value).__name__
    return (
        f"{kind} {text}"
        if 0 < len(text) <= 40 and not text.startswith(kind)
        else text
        if 0 < len(text) <= 60
        else f"a {kind}"
    )


def _step(step: int | str) -> str:
    return f".{step}"
