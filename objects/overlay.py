"""What one turn has written so far, laid over what was committed.

Laws
- Nothing of the overlay is seen by anybody until the turn commits; rollback is forgetting it, or going back to
  what `save` gave.
- A storage failure is never rolled back: a turn that met one does not commit.
- Names are sorted by their UTF-8 bytes, which is the order of Python's str.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple, Protocol

current_turn: ContextVar[object] = ContextVar("perdure_turn", default="no turn")


class View(Protocol):
    """The committed state of one object, as the turn's port."""

    def get(self, name: str) -> bytes | None:
        """The encoded value. Raises `StorageFailed` or `StoreCorrupt`."""

    def scan(self, start: str, end: str | None, *, reverse: bool) -> Iterator[tuple[str, bytes]]:
        """Names and encoded values with start <= name < end, in order. Raises like `get`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one turn, in bytes."""

    key_bytes: int = 2048
    value_bytes: int = 1 << 20
    turn_bytes: int = 8 << 20


class Saved(NamedTuple):
    """An overlay as it was."""

    changes: dict[str, bytes | None]
    cleared: bool
    size_bytes: int
    first_expiry: int | None


class Overlay:
    """`changes`: name -> encoded value, None = deleted. `cleared`: all that was committed is gone.

    `first_expiry`: the earliest time, in ms since 1970, at which something put in this turn expires.
    """

    __slots__ = ("changes", "cleared", "failure", "first_expiry", "size_bytes")

    def __init__(self) -> None:
        self.changes: dict[str, bytes | None] = {}
        self.cleared = False
        self.failure: BaseException | None = None
        self.first_expiry: int | None = None
        self.size_bytes = 0

    @property
    def empty(self) -> bool:
        return not self.changes and not self.cleared

    def set(self, name: str, encoded: bytes | None) -> None:
        """Write without asking for limits: for perdure's own names."""
        size_bytes = len(encoded or b"")
        if name in self.changes:
            size_bytes -= len(self.changes[name] or b"")
        else:
            size_bytes += len(name.encode())
        self.size_bytes += size_bytes
        self.changes[name] = encoded

    def clear(self) -> None:
        """Remove everything, written or committed."""
        self.changes.clear()
        self.size_bytes = 0
        self.first_expiry = None
        self.cleared = True

    def save(self) -> Saved:
        """What `restore` goes back to."""
        return Saved(self.changes.copy(), self.cleared, self.size_bytes, self.first_expiry)

    def restore(self, saved: Saved) -> None:
        """Forget what was written since `save`."""
        self.changes = saved.changes.copy()
        self.cleared = saved.cleared
        self.size_bytes = saved.size_bytes
        self.first_expiry = saved.first_expiry


def merged(
    base: Iterable[tuple[str, bytes]],
    changes: Mapping[str, bytes | None],
    names: Iterable[str],
    *,
    reverse: bool,
) -> Iterator[tuple[str, bytes]]:
    """`base` in order with `changes` laid over it; `names` are the changed names in range, in order."""
    mine = iter(names)
    name = next(mine, None)
    for found, value in base:
        while name is not None and (name > found if reverse else name < found):
            if (changed := changes[name]) is not None:
                yield name, changed
            name = next(mine, None)
        if name == found:
            if (changed := changes[found]) is not None:
                yield found, changed
            name = next(mine, None)
        else:
            yield found, value
    while name is not None:
        if (changed := changes[name]) is not None:
            yield name, changed
        name = next(mine, None)


def in_range(names: Iterable[str], start: str, end: str | None, *, reverse: bool) -> list[str]:
    """The names with start <= name < end, sorted."""
    return sorted((n for n in names if n >= start and (end is None or n < end)), reverse=reverse)
