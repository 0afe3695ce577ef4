"""What each entry may say, given the state its object was in: one object at a time, in log order."""

from __future__ import annotations

import json
from bisect import bisect_left
from typing import Any, NamedTuple

from perdure.objects.alarms import next_due
from perdure.schemas.alarms import RETIME, TTL, parse_ring
from perdure.schemas.calls import CALL_KEY
from perdure.schemas.commands import ALARM, CALL, SOCKET, Command, parse_command
from perdure.schemas.effects import AlarmRow, SocketRow, alarm_row, socket_row
from perdure.schemas.errors import Deadlock
from perdure.schemas.expiry import HIDDEN, expiry_of, hidden_name, parse_hidden
from perdure.schemas.journal import Entry
from perdure.schemas.replies import FAILED, REFUSED, UNAVAILABLE
from perdure.schemas.sockets import CLOSE, CLOSED, TEXT, number_of, parse_frame, upgrade_of
from perdure.schemas.values import decode_value
from perdure.streams.turns.ports import UNSEALED
from tests.simulation.faults_inside import met_one
from tests.simulation.sample import CRON, LEASE, MARK, PAID, SHOUTS, TTLS_S

Place = tuple[int, int]  # partition and offset of a command
_MAY_FAIL = {
    "fail": (FAILED,),
    "refuse": (REFUSED,),
    "call": (FAILED, REFUSED),
    "send": (FAILED, REFUSED),
    "spread": (FAILED,),
    "fickle": (FAILED,),
    "shout": (FAILED,),
}
_OF_A_CALLER = ("handler-failed", "deadlock", "outcome-unknown")
_OF_A_RERUN = (
    "non-deterministic",
)  # a line of calls ended the turn before another had asked for all as before, say
_MAY_DIFFER = ("spread", "fickle")


class Lease(NamedTuple):
    """A value that is not to be seen from `expires_ms` on."""

    value: Any
    expires_ms: int


def apply(state: dict[str, Any], entry: Entry) -> None:
    """Fold an entry's values, those that expire as `Lease`, hidden names too."""
    for name, encoded in entry.puts.items():
        state[name] = _value(encoded)
    for name in entry.deletes:
        state.pop(name, None)


def _value(encoded: bytes) -> Any:
    expires_ms = expiry_of(encoded)
    value = decode_value(encoded)
    return value if expires_ms is None else Lease(value, expires_ms)


def seen(state: dict[str, Any], now_ms: int) -> Any:
    """What a command at `now_ms` is to see of the value that may expire."""
    found = state.get(LEASE)
    if isinstance(found, Lease):
        return found.value if now_ms < found.expires_ms else None
    return found


def withdrawn(entry: Entry) -> bool:
    """Is it of a call that was taken out of the mailbox where it stood, since its caller was waited for?"""
    error = entry.reply.error
    of_call = entry.client_key is not None and entry.client_key.startswith(f"{CALL_KEY}:")
    return of_call and error is not None and error.code == Deadlock.code


class Model:
    """One object as the log says it went: its state before each command that was done."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.history: list[tuple[int, dict[str, Any]]] = []
        self.marks: dict[int, str] = {}
        self.times_ms: dict[int, int] = {}
        self.alarms: dict[str, AlarmRow] = {}
        self.sockets: dict[str, SocketRow] = {}
        self.rung: dict[str, int] = {}  # the time for which a cron alarm rang last
        self.heard: dict[str, int] = {}  # by socket: the number of its last event

    def before(self, offset: int) -> dict[str, Any]:
        """The state that the command at `offset` met."""
        at = bisect_left(self.history, offset, key=lambda each: each[0])
        return self.history[at][1] if at < len(self.history) else self.state

    def fold(self, entry: Entry, at: int) -> None:
        """An entry that was found right; `at` is its journal offset."""
        apply(self.state, entry)
        for alarm in entry.alarms:
            _set(self.alarms, alarm.name, alarm_row(alarm, at))
        for socket in entry.sockets:
            _set(self.sockets, socket.id, socket_row(socket))

    def check(self, entry: Entry, command: Command, place: Place) -> None:
        """Is this entry what its command comes to here? Raises `AssertionError` naming the invariant."""
        assert entry.key == command.key, f"I4: entry of {place} is for {entry.key}"
        if entry.outcome == UNAVAILABLE:
            left = entry.puts, entry.deletes, entry.outbox, entry.alarms, entry.sockets
            assert not any(left), f"I5: {place} was not done, and left {left}"
            assert entry.client_key is not None, f"{place} was not done, and is noted for nobody"
        elif command.kind == ALARM:
            self._check_sweep(entry, command) if command.method == TTL else self._check_ring(entry, command)
        elif command.kind == CALL:
            self._check_call(entry, command)
        elif command.kind == SOCKET:
            self._check_event(entry, command)
        else:
            self._check_fetch(entry, command, place)

    # Alarms

    def _rung(self, entry: Entry, command: Command) -> tuple[str, AlarmRow]:
        """An alarm ran as it was set, once, not early."""
        what, row = (
            f"{entry.key}: the alarm {command.method!r} at {entry.command}",
            self.alarms.get(command.method),
        )
        assert row is not None, f"I8: {what} rang and was not set"
        assert parse_ring(command.body).set_at == row.set_at, (
            f"I8: {what} rang for a setting that is over: {row}"
        )
        assert entry.time_ms >= row.due_ms, f"I8: {what} is {row.due_ms - entry.time_ms} ms early"
        return what, row

    def _check_ring(self, entry: Entry, command: Command) -> None:
        if parse_ring(command.body).act == RETIME:
            self._check_retimed(entry, command)
            return
        what, row = self._rung(entry, command)
        (change,) = entry.alarms
        if entry.outcome == "ok":
            next_ms = next_due(row.cron, row.zone, max(entry.time_ms, row.due_ms)) if row.cron else None
            assert change.due_ms == next_ms, f"I8: {what} rang, and is set to {change.due_ms}"
            if row.cron and not row.attempt:
                assert row.due_ms != self.rung.get(command.method), f"I8: {what} rang twice for {row.due_ms}"
                self.rung[command.method] = row.due_ms
            puts = _puts(entry)
            count = CRON if command.method == CRON else "rings"
            assert puts == {count: self.state.get(count, 0) + 1}, f"I8: {what} put {puts}"
        else:
            assert not entry.puts, f"I5: {what} failed, and changed {entry.puts}"
            assert change.attempt == row.attempt + 1, f"I8: {what} failed, and that was not counted"

    def _check_retimed(self, entry: Entry, command: Command) -> None:
        """Only what perdure timed itself, and to an earlier time; nothing rings."""
        row, (change,) = self.alarms[command.method], entry.alarms
        what = f"{entry.key}: the alarm {command.method!r} at {entry.command}"
        assert row.cron or row.attempt, f"I8: {what} was timed again, its time was given"
        assert change.due_ms is not None, f"I8: {what} was timed again, and is gone"
        assert entry.time_ms <= change.due_ms < row.due_ms, f"I8: {what} is set from {row} to {change}"
        assert change.attempt == row.attempt, f"I8: {what} was timed again, and tried {change.attempt} times"
        assert not entry.puts, f"I8: {what} was timed again, and put {entry.puts}"

    def _check_sweep(self, entry: Entry, command: Command) -> None:
        """What has expired goes with its note; what was put again since stays, and
        is noted for its own time.
        """
        what, _ = self._rung(entry, command)
        assert entry.outcome == "ok", f"I8: {what} came to {entry.outcome}"
        assert not entry.puts, f"I4: {what} put {entry.puts}"
        due = {
            name for name in self.state if name.startswith(HIDDEN) and parse_hidden(name)[0] <= entry.time_ms
        }
        found = self.state.get(LEASE)
        if isinstance(found, Lease) and found.expires_ms <= entry.time_ms:
            due.add(LEASE)
        assert {*entry.deletes} == due, f"I4: {what} removed {entry.deletes}, {due} had expired"
        left = [parse_hidden(name)[0] for name in self.state if name.startswith(HIDDEN) and name not in due]
        (change,) = entry.alarms
        assert change.due_ms == min(left, default=None), f"I8: {what} comes again at {change.due_ms}: {left}"

    # Calls and events

    def _check_call(self, entry: Entry, command: Command) -> None:
        what, puts = f"{entry.key} {command.method} at {entry.command}", _puts(entry)
        assert not entry.outbox, f"I4: {what} let out {entry.outbox}"
        if command.method == "lend" and (entry.outcome == REFUSED or withdrawn(entry)):
            assert not entry.puts, f"I5: {what} came to {entry.outcome}, and changed {entry.puts}"
            return
        if command.method in ("pay", "relay") and entry.outcome == FAILED:
            assert not entry.puts, f"I5: {what} failed, and changed {entry.puts}"
            assert withdrawn(entry) or command.method == "relay", f"{what} came to {entry.reply}"
            return
        assert entry.outcome == "ok", f"{what} came to {entry.reply}"
        args = json.loads(command.body)["args"]
        name = {"lend": "credits", "note": "notes", "relay": "relayed"}.get(command.method) or PAID + args[0]
        count = self.state.get(name, 0) + 1
        assert puts == {name: count}, f"I3: {what} put {puts}, {count} was due"
        said = json.loads(entry.reply.body)["result"]
        due = None if command.method == "note" else count
        assert command.method == "relay" or said == due, f"I3: {what} said {said}"

    def _check_event(self, entry: Entry, command: Command) -> None:
        what, puts = f"{entry.key}: {command.method} {command.id} at {entry.command}", _puts(entry)
        row = self.sockets.get(command.path)
        assert row is not None, f"{what} was heard of a socket that is gone"
        assert entry.outcome == "ok", f"{what} came to {entry.reply}"
        if command.method == CLOSED:
            assert puts == {"left": self.state.get("left", 0) + 1}, f"I3: {what} put {puts}"
            assert [each.gateway for each in entry.sockets] == [""], f"I4: {what} left {entry.sockets}"
            assert not entry.outbox, f"I4: {what} let out {entry.outbox}"
            return
        number = int(dict(command.headers)["n"])
        assert number > self.heard.get(command.path, 0), f"I2: {what} came after {self.heard}"
        self.heard[command.path] = number
        assert puts == {"heard": self.state.get("heard", 0) + 1}, f"I3: {what} put {puts}"
        self._check_frames(what, entry, {command.path: row}, TEXT, [command.body])

    # Fetches

    def _check_fetch(self, entry: Entry, command: Command, place: Place) -> None:
        _, op, mark, _ = command.path.split("/")
        what = f"{entry.key} {op} at {entry.command}"
        if entry.outcome != "ok":
            left = entry.puts, entry.deletes, entry.outbox, entry.alarms, entry.sockets
            assert not any(left), f"I5: {what} raised, and left {left}"
            if met_one(entry):
                return
            assert entry.outcome in _MAY_FAIL.get(op, ()), f"{what} came to {entry.reply}"
            code = entry.reply.error.code if entry.reply.error else ""
            may = _OF_A_CALLER + (_OF_A_RERUN if op in _MAY_DIFFER else ())
            assert entry.outcome == REFUSED or code in may, f"{what} came to {entry.reply}"
            return
        assert op not in ("fail", "refuse"), f"I5: {what} came to {entry.reply}"
        self._check_values(what, entry, op, mark)
        self._check_outs(what, entry, command, place)

    def _check_values(self, what: str, entry: Entry, op: str, mark: str) -> None:
        puts, said = _puts(entry), json.loads(entry.reply.body or b"null")
        marked = {MARK + mark: True}
        if op in ("add", "slow"):
            count = self.state.get("count", 0) + 1
            assert puts == {"count": count, **marked}, f"I3: {what} put {puts}, {count} was due"
            assert said == count, f"I3: {what} said {said}"
        elif op in ("call", "send", "spread", "fickle", "connect", "shout", "kick"):
            assert puts == marked, f"I4: {what} put {puts}"
        elif op == "alarm":
            assert puts == marked, f"I4: {what} put {puts}"
            assert [said] == [each.due_ms for each in entry.alarms if not each.cron], (
                f"I8: {what} said {said}: {entry.alarms}"
            )
        elif op in ("token", "maybe") and entry.puts:
            assert puts == {"token": said, **marked}, f"I4: {what} put {puts} and said {said}"
        elif op == "keep":
            assert puts == {LEASE: said, **marked}, f"I4: {what} put {puts} and said {said}"
        elif op == "lease":
            self._check_lease(what, entry, puts, said, marked)
        elif op == "forget" and entry.deletes:
            assert entry.deletes == ("token",), what
            assert "token" in self.state, f"I3: {what} deleted what was not there"
        else:
            assert not entry.puts, f"I4: {what} put {puts}"
            assert not entry.deletes, f"I4: {what} deleted {entry.deletes}"

    def _check_lease(self, what: str, entry: Entry, puts: Any, said: Any, marked: Any) -> None:
        lease = puts[LEASE]
        assert puts == {LEASE: Lease(said, lease.expires_ms), **marked}, f"I4: {what} put {puts}, said {said}"
        ttls_ms = [round(ttl_s * 1000) for ttl_s in TTLS_S]
        assert lease.expires_ms - entry.time_ms in ttls_ms, f"{what} expires {lease}, it is {entry.time_ms}"
        assert hidden_name(lease.expires_ms, LEASE) in entry.puts, f"I8: {what} left no note"
        rows = {**self.alarms, **{each.name: alarm_row(each, -1) for each in entry.alarms}}
        row = rows.get(TTL)
        assert row is not None, f"I8: {what}: nothing will remove it"
        assert row.due_ms <= lease.expires_ms, f"I8: {what} is removed late: {row}"

    def _check_outs(self, what: str, entry: Entry, command: Command, place: Place) -> None:
        _, op, mark, other = command.path.split("/")
        if op == "send":
            sent = [parse_command(out.key, out.value, out.headers, UNSEALED) for out in entry.outbox]
            keys = [(each.key, each.client_key) for each in sent]
            due = [(f"Sample/{other}", f"send:{place[0]}:{place[1]}:{n}") for n in (1, 2)]
            assert keys == due, f"I5: {what} sent {keys}, not {due}"
        elif op == "shout":
            self._check_frames(
                what, entry, self.sockets, TEXT, [f"{mark}.{n}".encode() for n in range(1, SHOUTS + 1)]
            )
        elif op == "kick":
            self._check_frames(what, entry, self.sockets, CLOSE, [mark.encode()])
            gone = {each.id for each in entry.sockets if not each.gateway}
            assert gone == self.sockets.keys(), f"I4: {what} closed {gone}, not {self.sockets.keys()}"
        else:
            assert not entry.outbox, f"I4: {what} let out {entry.outbox}"
        if op == "connect":
            accepted = [(each.id, each.gateway) for each in entry.sockets]
            assert accepted == [upgrade_of(command)], f"I4: {what} accepted {accepted}"

    def _check_frames(
        self, what: str, entry: Entry, rows: dict[str, SocketRow], type_: str, texts: list[bytes]
    ) -> None:
        frames = [(out.key, parse_frame(out.value, out.headers)) for out in entry.outbox]
        sent = [(frame.data, key, n, frame.type) for key, frame in frames for n in frame.sockets]
        due = [
            (text, row.gateway.partition("/")[2].encode(), number_of(id_), type_)
            for text in texts
            for id_, row in rows.items()
        ]
        assert sorted(sent) == sorted(due), f"I3: {what} sent {sent}, not {due}"
        assert [each[0] for each in sent] == sorted(each[0] for each in sent), f"{what} sent {sent}"


def _puts(entry: Entry) -> dict[str, Any]:
    return {name: _value(encoded) for name, encoded in entry.puts.items() if not name.startswith(HIDDEN)}


def _set(rows: dict[str, Any], name: str, row: Any) -> None:
    if row is None:
        rows.pop(name, None)
    else:
        rows[name] = row
