"""Objects in memory and their turns: one turn at a time per object, different objects at once.

Laws
- Commands of one object are taken in log order; the next turn may start as soon as the one before has ended,
  on what it committed (speculation), durable or not.
- `written` holds what ended turns committed and the tables have not folded yet; `cache` is a bounded copy of
  what was read or written. Both only ever hold what the next turn must see.
- An idle object has no queue, no task and no lock.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Coroutine, Iterator
from typing import Any

from perdure.objects.durable import DurableObject, Env
from perdure.objects.registry import Kind
from perdure.objects.state import Limits, Overlay, State, in_range, merged
from perdure.objects.turn import handling, starting
from perdure.schemas.commands import Command
from perdure.schemas.journal import Entry
from perdure.schemas.replies import Reply
from perdure.streams.log import LogRecord
from perdure.streams.stepping import TaskLike
from perdure.streams.tables import Tables

CACHED_VALUES = 64  # per resident; more is read again from the store
NO_COMMAND = Command("", "call", "")  # of a turn whose record held none
_ABSENT = object()


class Turn(TaskLike, eq=False, weakref=True):
    """One command on its way through its object, from the log to its answer."""

    record: LogRecord
    command: Command
    resident: Resident | None
    offset: int  # that of its record
    time_ms: int = 0
    overlay: Overlay | None = None
    entry: Entry | None = None
    encoded: bytes = b""
    reply: Reply | None = None
    answered: bool = False
    expired: bool = False
    over: bool = False
    timer: object = None


class Resident:
    """An object in memory. `view`-side methods (`get`, `scan`) are what its state reads."""

    __slots__ = (
        "cache",
        "cleared",
        "instance",
        "key",
        "kind",
        "mailbox",
        "running",
        "state",
        "tables",
        "unsettled",
        "written",
    )

    def __init__(self, key: str, kind: Kind, tables: Tables, limits: Limits) -> None:
        self.key = key
        self.kind = kind
        self.tables = tables
        self.state = State(key, self, limits)
        self.instance: DurableObject | None = None
        self.mailbox: deque[Turn | int] | None = None
        self.running: Turn | None = None
        self.unsettled = 0
        self.cache: dict[str, bytes | None] = {}
        self.written: dict[str, bytes | None] | None = None
        self.cleared = False

    @property
    def idle(self) -> bool:
        """Nothing runs, waits or is under way: it may be evicted."""
        return self.running is None and not self.unsettled and not self.mailbox

    def handler(self, command: Command, env: Env) -> Coroutine[Any, Any, Any]:
        """What handles `command`; the first turn of a residence makes the instance and starts it."""
        if self.instance is not None:
            return handling(self.instance, self.kind, command)
        return self._first(command, env)

    async def _first(self, command: Command, env: Env) -> Any:
        self.instance = instance = self.kind.cls(self.state, env)
        return await starting(instance, self.kind, command)

    # The view of its state

    def get(self, name: str) -> bytes | None:
        found = self.cache.get(name, _ABSENT)
        if found is not _ABSENT:
            return found  # type: ignore[return-value]  # not the marker: bytes or None
        if self.written is not None:
            found = self.written.get(name, _ABSENT)
            if found is not _ABSENT:
                return found  # type: ignore[return-value]  # as above
        if self.cleared:
            return None
        value = self.tables.get(self.key, name)
        self._remember(name, value)
        return value

    def scan(self, start: str, end: str | None, *, reverse: bool) -> Iterator[tuple[str, bytes]]:
        base: Iterator[tuple[str, bytes]] = iter(())
        if not self.cleared:
            base = self.tables.scan(self.key, start, end, reverse=reverse)
        if not self.written:
            return base
        names = in_range(self.written, start, end, reverse=reverse)
        return merged(base, self.written, names, reverse=reverse)

    # Committing

    def commit(self, overlay: Overlay) -> None:
        """The turn's writes count from here on for this object's next turns."""
        if overlay.cleared:
            self.cleared = True
            self.written = {}
            self.cache.clear()
        if self.written is None:
            self.written = {}
        self.written.update(overlay.changes)
        for name, value in overlay.changes.items():
            self._remember(name, value)

    def settled(self) -> None:
        """One entry of this object is durable and folded."""
        self.unsettled -= 1
        if not self.unsettled:
            self.written = None
            self.cleared = False

    def _remember(self, name: str, value: bytes | None) -> None:
        if len(self.cache) >= CACHED_VALUES and name not in self.cache:
            self.cache.clear()
        self.cache[name] = value


def evict_idle(residents: OrderedDict[str, Resident], kept: Resident) -> None:
    """Drop the idle resident that was used longest ago, but not `kept`; none if all of them are busy."""
    for key, resident in residents.items():
        if resident.idle and resident is not kept:
            del residents[key]
            return
