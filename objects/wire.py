"""pydantic's schema of a type, changed so that JSON carries each of its values; for objects/codec.py.

A type's schema says how pydantic reads and writes it. Its defaults lose values on the way through JSON; the
rules that are laid over it here do not.

Laws
- A type's own serializer, or a model's own configuration, takes precedence.
- bytes are base64, NaN and infinities are the texts `NaN`, `Infinity` and `-Infinity` wherever the annotation
  is float, members of sets are sorted by their JSON: equal values give equal bytes in every process.
- A msgspec Struct is read and written by msgspec, wherever in the type it stands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from enum import Enum
from math import isfinite
from typing import Any, get_args, get_type_hints

import msgspec
from pydantic import ConfigDict, TypeAdapter
from pydantic_core import PydanticSerializationUnexpectedValue, SchemaSerializer, SchemaValidator, to_json

WIRE: dict[str, Any] = {"ser_json_bytes": "base64", "val_json_bytes": "base64", "ser_json_inf_nan": "strings"}
LOOSE = ConfigDict(arbitrary_types_allowed=True, **WIRE)  # type: ignore[typeddict-item]  # the literals are right
_CONFIGURED = frozenset(("model", "dataclass", "typed-dict"))
_NO_SCHEMA = frozenset(("default", "metadata", "expected", "members", "cls", "config", "function", "ref"))
_NOT_OF_JSON = frozenset(("python_schema", "strict_schema"))
_BY_NAME = ("fields", "choices")  # their keys are the user's words

Node = dict[str, Any]


def schema_of(hint: Any) -> Node:
    """pydantic's schema of a type. Raises pydantic's errors, and NameError, for a type without one."""
    schema: Any = TypeAdapter(
        tuple[hint], config=LOOSE
    ).core_schema  # alone, a model would take no configuration
    if schema["type"] == "definitions":
        return {**schema, "schema": schema["schema"]["items_schema"][0]}
    inner: Node = schema["items_schema"][0]
    return inner


def nodes(schema: Any) -> Iterator[Node]:
    """All the parts of a schema that are schemas and concern JSON."""
    if isinstance(schema, dict):
        if isinstance(schema.get("type"), str):
            yield schema
        for key, value in schema.items():
            if key in _BY_NAME and isinstance(value, dict):
                for each in value.values():
                    yield from nodes(each)
            elif key not in _NO_SCHEMA and key not in _NOT_OF_JSON:
                yield from nodes(value)
    elif isinstance(schema, list | tuple):
        for each in schema:
            yield from nodes(each)


def struct_of(node: Node) -> type[msgspec.Struct] | None:
    """The Struct that a part of a schema stands for, if it does."""
    cls = node.get("cls") if node["type"] == "is-instance" else None
    return cls if isinstance(cls, type) and issubclass(cls, msgspec.Struct) else None


def wired(schema: Any, open_value: Callable[[Any], Any]) -> Any:
    """The schema with the rules of this module.

    `open_value(value)` is called for each value without an annotation before it is
    written, and returns what is written.
    """
    if isinstance(schema, list):
        return [wired(each, open_value) for each in schema]
    if isinstance(schema, tuple):
        return tuple(wired(each, open_value) for each in schema)
    if not isinstance(schema, dict):
        return schema
    made: Node = {}
    for key, value in schema.items():
        if key in _BY_NAME and isinstance(value, dict):
            made[key] = {name: wired(each, open_value) for name, each in value.items()}
        else:
            made[key] = value if key in _NO_SCHEMA else wired(value, open_value)
    kind = schema.get("type")
    if not isinstance(kind, str):
        return made
    if kind in _CONFIGURED:
        made["config"] = {**WIRE, **schema.get("config", {})}
    if "serialization" in schema:
        return made
    if kind == "any":
        return {**made, **_functions(finite, open_value)}
    if kind in ("set", "frozenset"):
        made["serialization"] = {"type": "function-wrap", "function": _sorted, "is_field_serializer": False}
    elif kind == "literal" and any(isinstance(each, Enum) for each in made["expected"]):
        members = {each.value if isinstance(each, Enum) else each: each for each in made["expected"]}
        made = {
            "type": "function-after",
            "function": {"type": "no-info", "function": members.__getitem__},
            "schema": {"type": "literal", "expected": list(members)},
        }
    elif (struct := struct_of(made)) is not None:
        return {**_functions(_reader(struct), _writer(struct)), "metadata": made.get("metadata", {})}
    return made


def built(schema: Any) -> tuple[SchemaValidator, SchemaSerializer]:
    """The validator and the serializer of a schema."""
    classes = {each["cls"] for each in nodes(schema) if each["type"] in _CONFIGURED and "cls" in each}
    make: Any = (SchemaValidator, SchemaSerializer)
    try:  # `_use_prebuilt`: a model's own would take the place of its part of the schema
        validator, serializer = (each(schema, WIRE, _use_prebuilt=False) for each in make)
    except TypeError:  # pydantic before 2.13: it takes those of classes that are complete
        complete = [each for each in classes if each.__dict__.get("__pydantic_complete__")]
        for each in complete:
            each.__pydantic_complete__ = False
        try:
            validator, serializer = (each(schema, WIRE) for each in make)
        finally:
            for each in complete:
                each.__pydantic_complete__ = True
    return validator, serializer


def finite(value: Any) -> Any:
    """A value that was read where there is no annotation.

    Raises ValueError for a number that JSON does not have.
    """
    if isinstance(value, float):
        if not isfinite(value):
            raise ValueError("the number is too large for a float, and no annotation says float")
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            finite(each)
    return value


def _functions(read: Callable[[Any], Any], write: Callable[[Any], Any]) -> Node:
    return {
        "type": "function-plain",
        "function": {"type": "no-info", "function": read},
        "serialization": {"type": "function-plain", "function": write, "when_used": "always"},
    }


def _sorted(value: Any, write: Callable[[Any], list[Any]]) -> list[Any]:
    return sorted(write(value), key=to_json)


def _reader(struct: type[msgspec.Struct]) -> Callable[[Any], Any]:
    def struct_of_json(value: Any) -> Any:
        try:
            return msgspec.convert(value, struct)
        except msgspec.ValidationError as error:
            try:  # it may have the texts of numbers that JSON does not have
                return msgspec.convert(value, struct, strict=not _says_no_number(value))
            except msgspec.ValidationError:
                raise ValueError(str(error)) from None

    return struct_of_json


def _says_no_number(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_says_no_number, value.values()))
    if isinstance(value, list):
        return any(map(_says_no_number, value))
    return value in ("NaN", "Infinity", "-Infinity")


def _writer(struct: type[msgspec.Struct]) -> Callable[[Any], Any]:
    order: Any = "deterministic" if _has_set(struct, set()) else None

    def json_of_struct(value: Any) -> Any:
        if not isinstance(value, struct):
            raise PydanticSerializationUnexpectedValue(f"Expected `{struct.__name__}`")
        return msgspec.to_builtins(value, order=order, str_keys=True)

    return json_of_struct


def _has_set(hint: Any, seen: set[Any]) -> bool:
    """True if a set may lie in a value of the type."""
    if hint in (set, frozenset):
        return True
    inner = list(get_args(hint))
    if (
        isinstance(hint, type)
        and hint not in seen
        and (issubclass(hint, msgspec.Struct) or dataclasses.is_dataclass(hint))
    ):
        seen.add(hint)
        inner += get_type_hints(hint).values()
    return any(
        _has_set(each, seen) for each in (*inner, getattr(hint, "__origin__", None)) if each is not None
    )
