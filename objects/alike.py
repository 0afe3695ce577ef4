"""Whether a value came through JSON as what it was.

Law: `alike(x, x)` for every x that is made of the types that arguments may have; a value of another type or with
another part is not alike, except where Python itself takes one for the other (1 and 1.0, a member of an IntEnum and its int).
"""

from __future__ import annotations

import dataclasses
from math import isfinite
from typing import Any

import msgspec
from pydantic import BaseModel


def alike(sent: Any, came: Any) -> bool:
    """True if `came` is what `sent` was."""
    kind = type(came)
    if type(sent) is not kind:
        if isinstance(sent, int | float) and isinstance(came, int | float):
            return sent == came
        return not parts(came) and isinstance(sent, kind) and bool(sent == came)
    if isinstance(came, dict):
        return sent.keys() == came.keys() and all(alike(sent[key], came[key]) for key in came)
    if isinstance(came, list | tuple):
        return len(sent) == len(came) and all(map(alike, sent, came))
    if (inner := parts(came)) is not None:
        return alike(parts(sent), inner)
    return bool(sent == came) or foreign(sent) == foreign(came) == {"nan"}


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
    """The types of what lies in the value that are not JSON's own, such as `bytes`; of a number that JSON has not, `nan`."""
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
