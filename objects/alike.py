"""Whether a value that was sent as JSON is received as the same value.

Law: `alike(x, x)` for every x made of the types that arguments may have; a value of another type or with
another part is not alike, except where Python itself treats the two as equal (1 and 1.0, a member of an
IntEnum and its int). [test_codec.py]
"""

from __future__ import annotations

import dataclasses
from math import isfinite
from typing import Any

import msgspec
from pydantic import BaseModel


def alike(sent: Any, received: Any) -> bool:
    """True if `received` equals `sent`, with the same types."""
    kind = type(received)
    if type(sent) is not kind:
        if isinstance(sent, int | float) and isinstance(received, int | float):
            return sent == received
        return not parts(received) and isinstance(sent, kind) and bool(sent == received)
    if isinstance(received, dict):
        return sent.keys() == received.keys() and all(alike(sent[key], received[key]) for key in received)
    if isinstance(received, list | tuple):
        return len(sent) == len(received) and all(map(alike, sent, received))
    if (inner := parts(received)) is not None:
        return alike(parts(sent), inner)
    return bool(sent == received) or foreign(sent) == foreign(received) == {"nan"}


def parts(value: Any) -> dict[str, Any] | None:
    """The fields of a model, dataclass or Struct; None for a value that is none of them."""
    if isinstance(value, BaseModel):
        return dict(value)
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name, None) for each in dataclasses.fields(value)}
    return None


def foreign(value: Any) -> set[str]:
    """The types in the value that JSON does not have, such as `bytes`.

    `nan` for a number that it does not have.
    """
    if value is None or isinstance(value, str | int):
        return set()
    if isinstance(value, float):
        return set() if isfinite(value) else {"nan"}
    if isinstance(value, dict):
        return set().union(*map(foreign, value), *map(foreign, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return set().union(*map(foreign, value))
    if (inner := parts(value)) is not None:
        return foreign(inner)
    return {"bytes" if isinstance(value, bytearray | memoryview) else type(value).__name__}
