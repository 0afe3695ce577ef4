"""Objects in memory and their turns: one turn at a time per object, different objects at once.

Laws
- Commands of one object are taken in log order; the next turn may start as soon as the one before has ended,
  on what it committed (speculation), durable or not.
- `written` holds what ended turns committed and the tables have not folded yet; `cache` is a bounded copy of
  what was read or written. Both only ever hold what the next turn must see.
- An idle object has no queue, no task and no lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from perdure.objects.durable import DurableObject, Env
from perdure.objects.effects import Effects
from perdure.objects.overlay import Limits, Overlay, in_range, merged
from perdure.objects.registry import Kind
from perdure.objects.state import State
from perdure.objects.turn import handling
from perdure.schemas.commands import SOCKET, Command
from perdure.schemas.effects import AlarmRow, SocketRow, alarm_row, socket_row
from perdure.schemas.errors import PerdureError
from perdure.schemas.journal import Entry
from perdure.schemas.replies import Reply
from perdure.streams.log import LogRecord
from perdure.streams.stepping import TaskLike
from perdure.streams.tables import Tables

if TYPE_CHECKING:  # they stand on this file
    from perdure.streams.calls import Calling, Calls

CACHED_VALUES = 64  # per resident; more is read again from the store
NO_COMMAND = Command("", "call", "")  # of a turn whose record held none
_ABSENT = object()
_Row = TypeVar("_Row")


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
    cut: PerdureError | None = None  # what ended it from outside: its deadline, or the watchdog
    over: bool = False
    timer: object = None
    calling: Calling | None = None
    alarm: AlarmRow | None = None  # of a turn that an alarm made, as it stood when it rang

    # As a `perdure.objects.ports.Caller`

    @property
    def _calls(self) -> Calls:
        assert self.resident is not None
        assert self.resident.calls is not None
        return self.resident.calls

    async def call(self, command: Command) -> Reply:
        return await self._calls.call(self, command)

    def send(self, command: Command) -> None:
        self._calls.send(self, command)

    async def synced(self) -> None:
        await self._calls.synced(self)

    def new_id(self) -> str:
        return self._calls.new_id(self)

    @property
    def traceparent(self) -> str:
        return self.command.traceparent

    @property
    def state(self) -> State:
        """That of the object in which it runs."""
        assert self.resident is not None
        return self.resident.state


class Resident:
    """An object in memory. `view`-side methods (`get`, `scan`) are what its state reads."""

    __slots__ = (
        "alarms_set",
        "cache",
        "calls",
        "cleared",
        "instance",
        "key",
        "kind",
        "mailbox",
        "running",
        "socket_rows",
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
        self.calls: Calls | None = None
        self.instance: DurableObject | None = None
        self.mailbox: deque[Turn | int] | None = None
        self.running: Turn | None = None
        self.unsettled = 0
        self.cache: dict[str, bytes | None] = {}
        self.written: dict[str, bytes | None] | None = None
        self.cleared = False
        self.alarms_set: dict[str, AlarmRow | None] | None = None  # as `written`
        self.socket_rows: dict[str, SocketRow] | None = (
            None  # all of them, durable or not, once somebody asked
        )

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
        if command.kind == SOCKET and not self.state.concerns(command):
            return None  # nobody is told, so nobody is woken
        turn, instance = self.running, self.kind.cls(self.state, env)
        await instance.start()
        assert turn is not None
        assert turn.overlay is not None
        if turn.overlay.empty:
            self.instance = instance
            return await handling(instance, self.kind, command)
        result = await handling(instance, self.kind, command)
        if (
            self.running is turn
        ):  # what `start` wrote is rolled back with a turn that fails: it has to start again
            self.instance = instance
        return result

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

    @property
    def rings(self) -> bool:
        return self.kind.alarm is not None

    def alarm(self, name: str) -> AlarmRow | None:
        if self.alarms_set is not None and name in self.alarms_set:
            return self.alarms_set[name]
        return None if self.cleared else self.tables.alarm(self.key, name)

    def alarms(self) -> dict[str, AlarmRow]:
        return _laid_over({} if self.cleared else self.tables.alarms(self.key), self.alarms_set)

    def sockets(self) -> dict[str, SocketRow]:
        if self.socket_rows is None:
            self.socket_rows = self.tables.sockets(self.key)
        return self.socket_rows

    # Committing

    def commit(self, overlay: Overlay) -> None:
        """The turn's writes count from here on for this object's next turns."""
        if overlay.cleared:
            self.cleared = True
            self.written = {}
            self.alarms_set = None
            self.cache.clear()
        if self.written is None:
            self.written = {}
        self.written.update(overlay.changes)
        for name, value in overlay.changes.items():
            self._remember(name, value)
        if overlay.effects is not None:
            self._commit_effects(overlay.effects)

    def _commit_effects(self, effects: Effects) -> None:
        if effects.alarms:
            self.alarms_set = alarms = self.alarms_set or {}
            for name, alarm in effects.alarms.items():
                alarms[name] = alarm_row(alarm, -1)
        if effects.sockets:
            # they were read before the first change of them, so what is read here lacks none
            _laid_over(self.sockets(), {id_: socket_row(each) for id_, each in effects.sockets.items()})
            self.state.kept(effects.sockets, effects.listeners)

    def settled(self) -> None:
        """One entry of this object is durable and folded."""
        self.unsettled -= 1
        if not self.unsettled:
            self.written = self.alarms_set = None
            self.cleared = False

    def _remember(self, name: str, value: bytes | None) -> None:
        if len(self.cache) >= CACHED_VALUES and name not in self.cache:
            self.cache.clear()
        self.cache[name] = value


def _laid_over(rows: dict[str, _Row], changes: dict[str, _Row | None] | None) -> dict[str, _Row]:
    for name, row in (changes or {}).items():
        if row is None:
            rows.pop(name, None)
        else:
            rows[name] = row
    return rows
