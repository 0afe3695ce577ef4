"""Default values as a JSON Schema shows them: the same in every process.

The order of a set differs between processes. pydantic sorts some sets, in some of its versions, and msgspec
none.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import is_dataclass
from typing import Any

import msgspec
from msgspec import inspect
from pydantic import BaseModel


def sets_in_order(encoded: Any, value: Any) -> Any:
    """`encoded`, the JSON of `value`, with the lists that sets have become sorted, at any depth."""
    if isinstance(encoded, list) and isinstance(value, Collection) and len(encoded) == len(value):
        parts = [sets_in_order(one, other) for one, other in zip(encoded, value, strict=True)]
        return in_order(parts) if isinstance(value, AbstractSet) else parts
    if isinstance(encoded, dict):
        values = _parts(value, encoded)
        return {name: sets_in_order(each, values.get(name)) for name, each in encoded.items()}
    return encoded


def in_order(encoded: list[Any]) -> list[Any]:
    """The members of a set, in an order that is the same in each process."""
    return sorted(encoded, key=_place)


def fields_of(kinds: Iterable[Any]) -> dict[type, tuple[inspect.Field, ...]]:
    """The fields of all classes with default values that msgspec finds in `kinds`, except generic ones."""
    fields: dict[type, tuple[inspect.Field, ...]] = {}
    seen = set()
    waiting: list[Any] = list(inspect.multi_type_info(kinds))
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        has_fields = isinstance(each, inspect.StructType | inspect.DataclassType)
        if has_fields and not getattr(each.cls, "__parameters__", ()):
            fields[each.cls] = each.fields
        for name in each.__struct_fields__:
            part = getattr(each, name)
            parts = part if isinstance(part, tuple) else (part,)
            waiting += (each for each in parts if isinstance(each, inspect.Type | inspect.Field))
    return fields


def _parts(value: Any, encoded: dict[str, Any]) -> dict[str, Any]:
    """The parts of `value` by the names that they have in `encoded`."""
    if isinstance(value, Mapping):  # a key may have become another text
        return dict(zip(encoded, value.values(), strict=False)) if len(encoded) == len(value) else {}
    if isinstance(value, BaseModel):
        names = {field.serialization_alias: name for name, field in type(value).model_fields.items()}
    elif isinstance(value, msgspec.Struct):
        names = {field.encode_name: field.name for field in msgspec.structs.fields(value)}
    elif is_dataclass(value):
        names = {}
    else:
        return {}
    return {name: getattr(value, names.get(name, name), None) for name in encoded}


def _place(encoded: Any) -> tuple[str, Any]:
    if isinstance(encoded, int | float):
        return "", encoded
    if isinstance(encoded, str):
        return "str", encoded
    return type(encoded).__name__, json.dumps(encoded, sort_keys=True)
