"""Activations: objects in memory, and their turns.

A `Turn` is one command on its way through its object. An `Activation` is an object in memory: it runs one
turn at a time, keeps the commands that wait in a `Mailbox`, and holds what its turns wrote until the tables
have folded it.

Laws
- Commands of one object are taken in log order. The next turn may start as soon as the previous one has
  ended, on what that committed, whether or not it is durable (speculation). [test_owner.py]
- `in_flight_writes` holds what ended turns committed and the tables have not folded yet, turn by turn;
  `cache` is a bounded copy of what was read or written. Neither ever holds anything that the next turn must
  not see.
- An idle object has no queue, no task and no lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine, Iterator
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from perdure.objects.durable import DurableObject, Env
from perdure.objects.http import Request
from perdure.objects.overlay import Overlay, TurnLimits, in_range, merged
from perdure.objects.registry import ObjectType
from perdure.objects.state import State
from perdure.objects.turn import handling
from perdure.schemas.admin import Change
from perdure.schemas.commands import ADMIN, FETCH, SOCKET, Command
from perdure.schemas.effects import AlarmRow, SocketRow, alarm_row, socket_row
from perdure.schemas.errors import PerdureError
from perdure.schemas.journal import Entry
from perdure.schemas.replies import Reply
from perdure.streams.log.base import LogRecord
from perdure.streams.state.tables import Tables
from perdure.streams.turns.inline_task import TaskLike, user_code

if TYPE_CHECKING:  # they import this file
    from perdure.streams.turns.calls import Calls
    from perdure.streams.turns.mailbox import Mailbox
    from perdure.streams.turns.turn_calls import TurnCalls

CACHED_VALUES = 64  # per activation; more is read again from the store
NO_COMMAND = Command("", "call", "")  # of a turn whose record held none
_ABSENT = object()
_Row = TypeVar("_Row")


class Turn(TaskLike, eq=False, weakref=True):
    """One command on its way through its object, from the log to its answer. It is
    the `Caller` of its handler.
    """

    record: LogRecord
    command: Command
    activation: Activation | None
    offset: int  # that of its record
    until_s: float | None = None  # its deadline, as the event loop counts time
    time_ms: int = 0
    overlay: Overlay | None = None
    entry: Entry | None = None
    encoded: bytes = b""
    reply: Reply | None = None
    concluded: bool = False  # its trace goes to the journal
    cut: PerdureError | None = None  # what ended it from outside: its deadline, or the watchdog
    over: bool = False
    on_log: bool = False  # for certain, of one that waited for that
    timer: object = None
    calling: TurnCalls | None = None
    tries: int = 0  # that could not be completed, of a command that its sender does not repeat
    again: bool = False  # its key was seen before, of a turn that had called others and was not done
    alarm: AlarmRow | None = None  # of a turn that an alarm made, as it stood when it rang
    changes: tuple[Change, ...] = ()  # for its entry

    # As a `perdure.objects.ports.Caller`

    @property
    def _calls(self) -> Calls:
        assert self.activation is not None
        assert self.activation.calls is not None
        return self.activation.calls

    async def call(self, command: Command) -> Reply:
        return await self._calls.call(self, command)

    def send(self, command: Command) -> None:
        self._calls.send(self, command)

    async def synced(self) -> None:
        await self._calls.synced(self)

    def new_id(self) -> str:
        return self._calls.new_id(self)

    @property
    def random(self) -> Random:
        return self._calls.random(self)

    @property
    def traceparent(self) -> str:
        return self.command.traceparent

    @property
    def principal(self) -> str:
        return self.command.principal

    @property
    def state(self) -> State:
        """The state of its object."""
        assert self.activation is not None
        return self.activation.state


class Hold(Turn, eq=False, weakref=True):
    """The placeholder for the running turn of a paused object: commands wait behind it as behind any turn."""

    @classmethod
    def of(cls, activation: Activation) -> Hold:
        return cls(LogRecord(-1, 0, None, None), NO_COMMAND, activation, -1, over=True)


class Activation:
    """An object in memory: its instance, mailbox and recent writes. Its state reads through `get`, `scan`,
    `alarm`, `alarms` and `sockets`.

    key: the object, as NAMESPACE/NAME.
    kind: its class, as the registry has it.
    tables: the tables of its partition.
    limits: the bounds of one of its turns.
    """

    __slots__ = (
        "cache",
        "calls",
        "creator",
        "in_flight_writes",
        "instance",
        "key",
        "kind",
        "mailbox",
        "running",
        "socket_rows",
        "state",
        "tables",
    )

    def __init__(self, key: str, kind: ObjectType, tables: Tables, limits: TurnLimits) -> None:
        self.key = key
        self.kind = kind
        self.tables = tables
        self.state = State(key, self, limits)
        self.calls: Calls | None = None
        self.instance: DurableObject | None = None
        self.mailbox: Mailbox | None = None
        self.running: Turn | None = None
        self.creator: str | None = None  # see object_quotas.py; None: not looked for
        self.cache: dict[str, bytes | None] = {}
        # what turns with an entry committed (None: nothing), the oldest first, until the tables have folded
        # it
        self.in_flight_writes: deque[Overlay | None] | None = None
        self.socket_rows: dict[str, SocketRow] | None = (
            None  # all of them, durable or not, once they were read
        )

    @property
    def idle(self) -> bool:
        """True if nothing runs, waits or is in flight: the object may be evicted."""
        return self.running is None and not self.in_flight_writes and not self.mailbox

    @property
    def hold(self) -> Hold | None:
        """The hold of a paused object, if it is paused. Deletions that arrived later stand before it."""
        if type(self.running) is Hold:
            return self.running
        for each in self.mailbox or ():
            if type(each) is Hold:
                return each
            if not is_deletion(each):
                break
        return None

    @property
    def paused(self) -> bool:
        """True if no turn begins after the running one, apart from deletions."""
        return self.hold is not None

    def handler(self, command: Command, env: Env) -> Coroutine[Any, Any, Any]:
        """Return what handles `command`; the first turn in memory makes the instance and starts it."""
        instance = self.instance
        if instance is None:
            return self._first(command, env)
        if command.kind == FETCH:  # as `handling`
            return instance.fetch(Request.of(command))
        return handling(instance, self.kind, command)

    @user_code
    async def _first(self, command: Command, env: Env) -> Any:
        if command.kind == SOCKET and not self.state.concerns(command):
            return None  # no handler takes the event, so no instance is made
        turn, instance = self.running, self.kind.cls(self.state, env)
        if self.kind.starts:
            await instance.start()
        assert turn is not None
        overlay = turn.overlay
        assert overlay is not None
        wrote = overlay.changes or not overlay.empty
        if not wrote and self.running is turn:  # otherwise it was abandoned while it started
            self.instance = instance
        result = await handling(instance, self.kind, command)
        if wrote and self.running is turn:
            # what `start` wrote goes with a turn that fails: then it has to start again
            self.instance = instance
        return result

    # The view of its state

    def get(self, name: str) -> bytes | None:
        value = self.cache.get(name, _ABSENT)
        if value is not _ABSENT:
            return value  # type: ignore[return-value]  # not the marker: bytes or None
        if self.in_flight_writes:
            for overlay in reversed(self.in_flight_writes):
                if overlay is None:
                    continue
                value = overlay.changes.get(name, _ABSENT)
                if value is not _ABSENT:
                    return value  # type: ignore[return-value]  # as above
                if overlay.cleared:
                    return None
        value = self.tables.values.get(self.key, name)
        self._remember(name, value)
        return value

    def scan(self, start: str, end: str | None, *, reverse: bool) -> Iterator[tuple[str, bytes]]:
        changes: dict[str, bytes | None] = {}
        cleared = False
        for overlay in self.in_flight_writes or ():
            if overlay is not None:
                if overlay.cleared:
                    cleared = True
                    changes.clear()
                changes.update(overlay.changes)
        base = iter(()) if cleared else self.tables.values.scan(self.key, start, end, reverse=reverse)
        names = in_range(changes, start, end, reverse=reverse)
        return merged(base, changes, names, reverse=reverse) if names else base

    @property
    def has_alarm_handler(self) -> bool:
        return self.kind.alarm is not None

    def alarm(self, name: str) -> AlarmRow | None:
        for overlay in reversed(self.in_flight_writes or ()):
            if overlay is not None:
                if overlay.effects is not None and name in overlay.effects.alarms:
                    return alarm_row(overlay.effects.alarms[name], -1)
                if overlay.cleared:
                    return None
        return self.tables.alarms.get(self.key, name)

    def alarms(self) -> dict[str, AlarmRow]:
        rows = self.tables.alarms.of(self.key)
        for overlay in self.in_flight_writes or ():
            if overlay is not None:
                if overlay.cleared:
                    rows.clear()
                if overlay.effects is not None:
                    _lay_over(rows, {n: alarm_row(each, -1) for n, each in overlay.effects.alarms.items()})
        return rows

    def sockets(self) -> dict[str, SocketRow]:
        if self.socket_rows is None:
            self.socket_rows = self.tables.sockets.of(self.key)
        return self.socket_rows

    # Committer

    def commit(self, overlay: Overlay | None) -> None:
        """A turn has ended with an entry, and committed this: it counts from here on for the next turns."""
        if overlay is not None:
            if overlay.cleared:
                self.cache.clear()
            for name, value in overlay.changes.items():
                self._remember(name, value)
            effects = overlay.effects
            if effects is not None and effects.sockets:
                # they were read before the first change of them, so what is read here lacks none
                _lay_over(self.sockets(), {id_: socket_row(each) for id_, each in effects.sockets.items()})
                self.state.kept(effects.sockets, effects.listeners)
        if self.in_flight_writes is None:
            self.in_flight_writes = deque()
        self.in_flight_writes.append(overlay)

    def forget(self) -> None:
        """Of what was read and what a turn that failed inside may have left here,
        keep what was committed before.
        """
        self.cache.clear()
        if not self.in_flight_writes:
            self.creator = None
        if self.socket_rows is not None:
            self.socket_rows = self.tables.sockets.of(self.key)
            for overlay in self.in_flight_writes or ():
                if overlay is not None and overlay.effects is not None:
                    sockets = overlay.effects.sockets
                    _lay_over(self.socket_rows, {id_: socket_row(each) for id_, each in sockets.items()})

    def acked(self) -> None:
        """The oldest of those entries is durable and folded."""
        assert self.in_flight_writes
        self.in_flight_writes.popleft()
        if not self.in_flight_writes:
            self.in_flight_writes = None

    def _remember(self, name: str, value: bytes | None) -> None:
        if len(self.cache) >= CACHED_VALUES and name not in self.cache:
            self.cache.clear()
        self.cache[name] = value


def is_deletion(waiting: Turn | int) -> bool:
    """True if it is the deletion of an object. No other act of administration waits in a mailbox."""
    return type(waiting) is Turn and waiting.command.kind == ADMIN


def _lay_over(rows: dict[str, _Row], changes: dict[str, _Row | None]) -> None:
    for name, row in changes.items():
        if row is None:
            rows.pop(name, None)
        else:
            rows[name] = row
