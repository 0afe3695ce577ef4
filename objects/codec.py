"""The codec: a value of an annotated type as JSON, and the value again.

Whatever goes to a method or comes from it is written and read here: calls and sends between objects, `/rpc`, records,
the client, and `perdure.testing`.

Laws
- `decode(encode(x))` equals x and is of the annotated type, or `encode` raises `Unfit`.
- Equal values give equal bytes, in every process.
- What does not fit the annotation itself, such as a dict for a model, is written as it is over HTTP, if that fits.
- Where there is no annotation an argument is one of JSON's own types; a result is written as JSON and read as that.
"""

from __future__ import annotations

from functools import lru_cache
from math import isfinite
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from perdure.objects.alike import alike, foreign, parts
from perdure.objects.results import encode_result
from perdure.objects.wire import built, nodes, schema_of, struct_of, wired

# what pydantic reads alike from Python's values and from JSON
_PLAIN = frozenset(("int", "str", "bool", "float", "none", "nullable", "list", "dict", "union", "default"))
# what JSON may give back as another value of the same annotation; what is not here it cannot
_DOUBTFUL = frozenset(
    ("union", "datetime", "time", "timedelta", "decimal", "enum", "literal", "call", "complex", "date", "url")
)
_CODE = frozenset(("function-before", "function-after", "function-wrap", "function-plain"))
_UNREADABLE = frozenset(
    ("is-instance", "is-subclass", "callable", "generator")
)  # nothing such is made of JSON
_CHANGING = ("strip_whitespace", "to_lower", "to_upper")
_MISMATCH = "Pydantic serializer warnings"
NO_ANNOTATION = "is not JSON, and no annotation says how it is read"
_SHOWN = 5


class Unfit(ValueError):
    """A value that does not fit its annotation, or would arrive as another one.

    `problems`: where inside of it, as one would write it (`.price`, `[3]`, empty: the whole), and what is wrong.
    """

    def __init__(self, *problems: tuple[str, str]) -> None:
        super().__init__("; ".join(f"{where}: {what}".removeprefix(": ") for where, what in problems))
        self.problems = problems


class Codec:
    """Writes and reads values of one type. Raises what pydantic raises for a type of which it can make nothing.

    `plain`: pydantic reads the type alike from Python's values and from JSON. `is_open`: part of it has no annotation.
    `readable`: values of it can be made of JSON.
    """

    __slots__ = (
        "_classes",
        "_doubtful",
        "_round_trip",
        "_scalar",
        "_to_json",
        "_validate",
        "is_open",
        "plain",
        "readable",
    )

    def __init__(self, hint: Any, *, of_result: bool = False) -> None:
        schema = schema_of(hint)
        found = list(nodes(schema))
        kinds = {each["type"] for each in found}
        keys = {each.get("keys_schema", _TEXT)["type"] for each in found if each["type"] == "dict"}
        changing = any(each.get(name) for each in found for name in _CHANGING)
        has_struct = any(struct_of(each) is not None for each in found)
        own = bool(_CODE & kinds) or changing  # what users' code makes of a value is not compared
        self.is_open = "any" in kinds
        self.plain = kinds - {"any"} <= _PLAIN and keys <= {"str", "any"} and not {"any", "float"} <= kinds
        self.readable = has_struct or not _UNREADABLE & kinds
        self._scalar = _SCALARS.get(schema["type"]) if schema.keys() <= {"type", "metadata"} else None
        self._doubtful = not own and (bool(_DOUBTFUL & kinds) or bool(keys - {"str"}) or has_struct)
        models = [each["cls"] for each in found if each["type"] in ("model", "dataclass")]
        self._classes = () if own else tuple(models)
        self._round_trip = not of_result
        validator, serializer = built(wired(schema, json_value if of_result else only_json))
        self._validate = validator.validate_json
        self._to_json = serializer.to_json

    def encode(self, value: Any) -> bytes:
        """The value as JSON. Raises `Unfit`."""
        kind = type(value)
        try:
            if kind is int and self._scalar is int:
                return b"%d" % value
            text = self._to_json(value, by_alias=True, round_trip=self._round_trip, warnings="error")
        except PydanticSerializationError as error:
            told = str(error)
            if _MISMATCH not in told or NO_ANNOTATION in told:
                raise Unfit(("", _reason(told))) from None
            return self._as_json(value)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Unfit(("", _reason(str(error)))) from None
        if kind is self._scalar:
            return text
        came = self._made(text)
        doubtful = self._doubtful or any(each.__subclasses__() for each in self._classes)
        if doubtful and not alike(value, came):
            raise Unfit(("", f"{_shown(value)} would arrive as {_shown(came)}"))
        return text

    def decode(self, text: bytes | str) -> Any:
        """The value that is written so. Raises pydantic's `ValidationError`."""
        return self._validate(text)

    def _as_json(self, value: Any) -> bytes:
        """What is not of the type, as JSON of which something of the type is made."""
        try:
            text = encode_result(value)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Unfit(("", _reason(str(error)))) from None
        came = self._made(text)
        if lost := foreign(value) - foreign(came):
            raise Unfit(("", f"a {min(lost)} in it would arrive as something else"))
        return text

    def _made(self, text: bytes) -> Any:
        try:
            return self._validate(text)
        except ValidationError as error:
            raise Unfit(*problems_of(error)) from None


_SCALARS: dict[str, type] = {"int": int, "str": str, "bool": bool, "float": float}
_TEXT = {"type": "str"}


def problems_of(error: ValidationError) -> list[tuple[str, str]]:
    """Where in a value, and what is wrong there; no more than five."""
    return [
        ("".join(map(_step, each["loc"])), each["msg"])
        for each in error.errors(include_url=False, include_input=False, include_context=False)[:_SHOWN]
    ]


def only_json(value: Any) -> Any:
    """An argument, or part of one, without an annotation. Raises ValueError for what would not arrive as it is."""
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
    """A result, or part of one, without an annotation. Raises ValueError for what JSON cannot say."""
    if not (value is None or isinstance(value, int | str)):
        encode_result(value)
    return value


def by_name(value: Any) -> Any:
    """An argument as JSON's values, of whose annotation the sender knows nothing: as the types of arguments are written."""
    if value is None or isinstance(value, int | str):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else from_json(to_json(value, inf_nan_mode="strings"))
    if isinstance(value, list | tuple):
        return [by_name(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(map(by_name, value), key=to_json)
    if isinstance(value, dict):
        return {_key(key): by_name(each) for key, each in value.items()}
    if parts(value) is not None:
        kind: Any = type(value)
        return from_json(_of_class(kind).encode(value))
    return from_json(encode_result(value))


def _key(key: Any) -> str:
    plain = by_name(key)
    return plain if isinstance(plain, str) else to_json(plain).decode()


@lru_cache(256)
def _of_class(kind: Any) -> Codec:
    return Codec(kind)


def _reason(told: str) -> str:
    """What pydantic says of what went wrong, without how it came by it."""
    if "surrogates not allowed" in told:
        return "a str with half a surrogate pair cannot be sent"
    told = told.partition("; use sys.")[0]  # of an int with more digits than Python reads
    for wrapped in ("ValueError: ", "TypeError: ", "Error serializing to JSON: "):
        told = told.rpartition(wrapped)[2]
    return told


def _shown(value: Any) -> str:
    """A value in an error: its type, and itself if it is short."""
    try:
        told = repr(value)
    except Exception:  # noqa: BLE001 - the user's own __repr__
        told = ""
    kind = type(value).__name__
    return (
        f"{kind} {told}"
        if 0 < len(told) <= 40 and not told.startswith(kind)
        else told
        if 0 < len(told) <= 60
        else f"a {kind}"
    )


def _step(step: int | str) -> str:
    return f".{step}"
