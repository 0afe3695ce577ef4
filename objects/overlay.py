"""The overlay: what one turn has written so far, laid over the committed state.

Laws
- No other turn or client sees the overlay until the turn commits; a rollback drops it, or restores what
  `save` returned. [test_state_model.py]
- A storage failure is never rolled back: a turn that met one does not commit.
- Names are sorted by their UTF-8 bytes, which is the order of Python's str.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import AnyStr, NamedTuple, Protocol

import msgspec

from perdure.objects.effects import Effects
from perdure.schemas.effects import AlarmRow, SocketRow

current_turn: ContextVar[object] = ContextVar("perdure_turn", default="no turn")


class View(Protocol):
    """The committed state of one object, as the turn's port."""

    def get(self, name: str) -> bytes | None:
        """The encoded value. Raises `StorageFailed` or `StoreCorrupt`."""

    def scan(self, start: str, end: str | None, *, reverse: bool) -> Iterator[tuple[str, bytes]]:
        """Names and encoded values with start <= name < end, in order. Raises like `get`."""

    def alarms(self) -> dict[str, AlarmRow]:
        """The object's alarms by name, parked ones too. Raises like `get`."""

    def alarm(self, name: str) -> AlarmRow | None:
        """The alarm of that name. Raises like `get`."""

    @property
    def has_alarm_handler(self) -> bool:
        """True if its class defines `alarm`."""

    def sockets(self) -> Mapping[str, SocketRow]:
        """The object's WebSockets by id."""


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """Bounds of one turn, in bytes."""

    key_bytes: int = 2048
    value_bytes: int = 1 << 20
    turn_bytes: int = 8 << 20


class Saved(NamedTuple):
    """A copy of an overlay, to restore."""

    changes: dict[str, bytes | None]
    cleared: bool
    size_bytes: int
    first_expiry: int | None
    effects: Effects | None


class Overlay(msgspec.Struct, eq=False):
    """`changes`: name -> encoded value, None = deleted. `cleared`: all that was committed is gone.

    `effects`: what it did besides. `first_expiry`: the earliest time, in ms since 1970, at which something
    put in this turn expires.
    """

    changes: dict[str, bytes | None] = {}  # each has one of its own
    cleared: bool = False
    effects: Effects | None = None
    failure: BaseException | None = None
    first_expiry: int | None = None
    size_bytes: int = 0

    @property
    def empty(self) -> bool:
        return not self.changes and not self.cleared and self.effects is None

    def effect(self) -> Effects:
        """The effects, to add one."""
        if self.effects is None:
            self.effects = Effects()
        return self.effects

    def set(self, name: str, encoded: bytes | None) -> None:
        """Write without checking limits: for perdure's own names."""
        size_bytes = len(encoded or b"")
        if name in self.changes:
            size_bytes -= len(self.changes[name] or b"")
        else:
            size_bytes += len(name.encode())
        self.size_bytes += size_bytes
        self.changes[name] = encoded

    def clear(self) -> None:
        """Remove every value and alarm, written or committed."""
        self.changes.clear()
        if self.effects is not None:
            self.effects.alarms.clear()
        self.size_bytes = 0
        self.first_expiry = None
        self.cleared = True

    def save(self) -> Saved:
        """A copy for `restore`."""
        return Saved(
            self.changes.copy(), self.cleared, self.size_bytes, self.first_expiry, _copied(self.effects)
        )

    def restore(self, saved: Saved) -> None:
        """Drop what was written since `save`."""
        self.changes = saved.changes.copy()
        self.cleared = saved.cleared
        self.size_bytes = saved.size_bytes
        self.first_expiry = saved.first_expiry
        self.effects = _copied(saved.effects)


def _copied(effects: Effects | None) -> Effects | None:
    return None if effects is None else effects.copy()


def merged(
    base: Iterable[tuple[AnyStr, bytes]],
    changes: Mapping[AnyStr, bytes | None],
    names: Iterable[AnyStr],
    *,
    reverse: bool,
) -> Iterator[tuple[AnyStr, bytes]]:
    """Rows in order, with changes laid over them.

    base: the stored names and values, in order.
    changes: the new value of each changed name; None: it is removed.
    names: the changed names in range, in order.
    reverse: the order of all is from the last name to the first.
    """
    mine = iter(names)
    name = next(mine, None)
    for stored, value in base:
        while name is not None and (name > stored if reverse else name < stored):
            if (changed := changes[name]) is not None:
                yield name, changed
            name = next(mine, None)
        if name == stored:
            if (changed := changes[stored]) is not None:
                yield stored, changed
            name = next(mine, None)
        else:
            yield stored, value
    while name is not None:
        if (changed := changes[name]) is not None:
            yield name, changed
        name = next(mine, None)


def in_range(names: Iterable[str], start: str, end: str | None, *, reverse: bool) -> list[str]:
    """The names in a range, sorted.

    names: in any order.
    start: the first name of the range.
    end: the first name behind it; None for no end.
    reverse: sort from the last name to the first.
    """
    return sorted((n for n in names if n >= start and (end is None or n < end)), reverse=reverse)
