"""The id of an object, and the names of values in its state: str that do not begin with NUL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from perdure.schemas.errors import ObjectError, UnstorableValue
from perdure.schemas.keys import name_of


@dataclass(frozen=True, slots=True)
class ObjectId:
    """The id of an object: `self.state.id`, `stub.id`. `str(id)` is its key.

    Attributes:
        key: `Namespace/name`, such as `Counter/alice`.
    """

    key: str

    @property
    def name(self) -> str:
        """The object's name, without its namespace."""
        return name_of(self.key)

    def __str__(self) -> str:
        return self.key


def utf8_bytes(name: str) -> int:
    """The length of the name in UTF-8. Raises `UnstorableValue` if it cannot be encoded."""
    try:
        return len(name.encode())
    except UnicodeEncodeError as error:
        raise UnstorableValue(
            f"a name in state with lone surrogates cannot be stored: {name[:40]!r}"
        ) from error


def named(name: object) -> str:
    """`name` if users may give it to a value. Raises TypeError or ObjectError."""
    if type(name) is not str:
        raise TypeError(f"a name in state is a str, not {type(name).__name__}")
    if name.startswith("\0"):
        raise ObjectError(
            f"a name in state does not begin with NUL, as {name[:40]!r} does: those are perdure's own"
        )
    return name


def each_named(names: Any) -> list[str]:
    """Several names. Raises as `named`, also for a value that is not an iterable."""
    if isinstance(names, (str, bytes, Mapping)) or not isinstance(names, Iterable):
        raise TypeError(
            f"a name in state is a str, and several are a list of them, not {type(names).__name__}"
        )
    return [named(name) for name in names]
