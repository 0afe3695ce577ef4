"""What must be true, whatever happened: I1 to I9, from the log, the answers and the tables alone.

The `Auditor` reads the durable journal as any reader would, and knows of each command its one trace that counts.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perdure.api.gateway import Answer
from perdure.schemas.alarms import parse_ring
from perdure.schemas.commands import ALARM, Command, parse_command
from perdure.schemas.effects import AlarmRow, alarm_row
from perdure.schemas.journal import Claim, Entry, EntryRecord, NoOp, in_runs
from perdure.schemas.replies import UNAVAILABLE, Reply
from perdure.schemas.values import decode_value
from perdure.streams.log import Topic
from perdure.streams.memory import MemoryBroker
from perdure.streams.memory_store import MemoryStore
from perdure.streams.owner import Owner
from perdure.streams.owning import UNSEALED
from perdure.streams.reader import JournalReader
from perdure.streams.tables import Tables
from tests.simulation.sample import CHANGES_NOTHING, MARK

if TYPE_CHECKING:
    from tests.simulation.world import Run

_step = JournalReader.step  # the true rule, whatever a planted bug makes of it


@dataclass
class Told:
    """What a client asked, and what it was told."""

    key: str
    op: str
    mark: str
    client_key: str | None
    asked_s: float
    waiting: Any = None
    answer: Answer | None = None
    answered_s: float = 0.0
    nothing_changed: bool = False


class Auditor:
    """Knows what counts, from the durable journal alone."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.readers = [JournalReader(f"journal {p}") for p in range(broker.partitions)]
        self.entries: dict[tuple[int, int], Entry] = {}
        self.places: dict[tuple[int, int], int] = {}  # of a command -> journal offset of its entry
        self.order: list[tuple[int, Entry]] = []
        self.dones: set[tuple[int, int]] = set()
        self.claims = 0
        self.states: dict[str, dict[str, Any]] = {}
        self.unlogged: dict[Any, dict[str, dict[str, Any]]] = {}

    def catch_up(self) -> None:
        """Read what is durable. An effect that counts twice is found here (I2)."""
        for partition, reader in enumerate(self.readers):
            stream = self.broker.streams[Topic.JOURNAL, partition]
            for each in stream.between(reader.offset, stream.durable):
                record = _step(reader, each.offset, each.value)
                self.claims += isinstance(record, Claim)
                if isinstance(record, EntryRecord):
                    place = partition, record.entry.command
                    assert place not in self.entries, f"I2: command {place} has two entries that count"
                    assert place not in self.dones, (
                        f"I2: command {place} was done without an entry, and has one"
                    )
                    self.entries[place] = record.entry
                    self.places[place] = each.offset
                    self.order.append((partition, record.entry))
                    _apply(self.states.setdefault(record.entry.key, {}), record.entry)
                if isinstance(record, (EntryRecord, NoOp)):
                    for offset in in_runs(record.done):
                        place = partition, offset
                        assert place not in self.entries, (
                            f"I2: command {place} has an entry, and is done without"
                        )
                        assert place not in self.dones, f"I2: command {place} is done twice"
                        self.dones.add(place)

    def about_to_answer(self, reply: Reply, partition: int, offset: int, waiting: Any) -> None:
        """I7, and the trace: what an answer tells is durable, under an epoch that counts, before it leaves.

        An answer to a command that is not durable itself (it shares its write with its trace) may be lost with it;
        what it may have seen is noted down.
        """
        self.catch_up()
        place = partition, offset
        if place in self.entries or place in self.dones:
            return
        durable = self.broker.streams[Topic.COMMANDS, partition].durable
        shares = self.broker.ordered and self.broker.exclusive and offset >= durable
        assert shares, f"I7: command {place} is answered ({reply.outcome}) without a durable trace"
        assert reply.outcome == "ok", f"I7: the error of command {place} leaves before its trace is durable"
        self.unlogged[waiting] = {key: dict(state) for key, state in self.states.items()}


def check(run: Run, owners: list[Owner], store: MemoryStore) -> None:
    """All invariants at the end of a run, with everything done."""
    auditor = run.auditor
    models = _fold_in_log_order(run, auditor)
    for told in run.told:
        _check_answer(auditor, models, told)
    _check_tables(run, owners, store)


class _Model:
    """One object as the log says it went: its state before each command that was done."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.history: list[tuple[int, dict[str, Any]]] = []
        self.marks: dict[int, str] = {}
        self.alarm: AlarmRow | None = None

    def before(self, offset: int) -> dict[str, Any]:
        """The state that the command at `offset` met."""
        at = bisect_left(self.history, offset, key=lambda each: each[0])
        return self.history[at][1] if at < len(self.history) else self.state


def _fold_in_log_order(run: Run, auditor: Auditor) -> dict[str, _Model]:
    """Each object's turns took effect in log order, each on what the one before left (I2 to I5)."""
    last: dict[str, int] = {}
    for _, entry in auditor.order:
        assert entry.command > last.get(entry.key, -1), f"I3: {entry.key}: entry {entry.command} out of order"
        last[entry.key] = entry.command
    models: dict[str, _Model] = {}
    for partition in range(run.broker.partitions):
        for record in run.broker.streams[Topic.COMMANDS, partition].records:
            place = partition, record.offset
            entry = auditor.entries.get(place)
            assert entry is not None or place in auditor.dones, (
                f"I1: command {place} is on the log and never done"
            )
            command = parse_command(record.key, record.value, record.headers, UNSEALED)
            model = models.setdefault(command.key, _Model())
            model.history.append((record.offset, dict(model.state)))
            if command.kind == ALARM:
                run.counts["alarms for nothing" if entry is None else f"alarms {entry.outcome}"] += 1
                if entry is not None:
                    _check_ring(model, entry, command)
                    _apply(model.state, entry)
                    _set_alarm(model, entry, auditor.places[place])
                continue
            _, op, mark = command.path.split("/")
            model.marks[record.offset] = mark
            if entry is None:
                continue
            assert entry.key == command.key, f"I4: entry of {place} is for {entry.key}"
            _check_entry(model, entry, op, mark)
            _apply(model.state, entry)
            _set_alarm(model, entry, auditor.places[place])
    for key, model in models.items():
        assert model.alarm is None or model.alarm.parked, (
            f"I8: {key} has an alarm that never rang: {model.alarm}"
        )
    return models


def _set_alarm(model: _Model, entry: Entry, at: int) -> None:
    for change in entry.alarms:
        model.alarm = alarm_row(change, at)


def _check_ring(model: _Model, entry: Entry, command: Command) -> None:
    """An alarm ran as it was set, once, not early; its entry says what becomes of it."""
    what, row = f"{entry.key}: the alarm at {entry.command}", model.alarm
    assert row is not None, f"I8: {what} rang and was not set"
    assert parse_ring(command.body).set_at == row.set_at, f"I8: {what} rang for a setting that is over: {row}"
    assert entry.time_ms >= row.due_ms, f"I8: {what} is {row.due_ms - entry.time_ms} ms early"
    (change,) = entry.alarms
    if entry.outcome == "ok":
        assert change.due_ms is None, f"I8: {what} rang, and is still set"
        puts = {name: decode_value(value) for name, value in entry.puts.items()}
        assert puts == {"rings": model.state.get("rings", 0) + 1}, f"I8: {what} put {puts}"
    else:
        assert not entry.puts, f"I5: {what} failed, and changed {entry.puts}"
        assert change.attempt == row.attempt + 1, f"I8: {what} failed, and that was not counted"


def _apply(state: dict[str, Any], entry: Entry) -> None:
    for name, value in entry.puts.items():
        state[name] = decode_value(value)
    for name in entry.deletes:
        state.pop(name, None)


def _check_entry(model: _Model, entry: Entry, op: str, mark: str) -> None:
    puts = {name: decode_value(value) for name, value in entry.puts.items()}
    said = json.loads(entry.reply.body) if entry.reply.error is None else None
    what = f"{entry.key} {op} at {entry.command}"
    if op in ("fail", "refuse"):
        assert not entry.puts, f"I5: {what} raised, and changed {entry.puts}"
        assert entry.outcome == {"fail": "failed", "refuse": "refused"}[op], what
        return
    if op in ("add", "slow"):
        count = model.state.get("count", 0) + 1
        assert puts == {"count": count, MARK + mark: True}, f"I3: {what} put {puts}, {count} was due"
        assert said == count, f"I3: {what} said {said}"
    elif op == "alarm":
        assert puts == {MARK + mark: True}, f"I4: {what} put {puts}"
        assert [said] == [each.due_ms for each in entry.alarms], f"I8: {what} said {said}: {entry.alarms}"
    elif op in ("token", "maybe") and entry.puts:
        assert puts == {"token": said, MARK + mark: True}, f"I4: {what} put {puts} and said {said}"
    elif op == "forget" and entry.deletes:
        assert entry.deletes == ("token",), what
        assert "token" in model.state, f"I3: {what} deleted what was not there"
    else:
        assert not entry.puts, f"I4: {what} put {puts}"
        assert not entry.deletes, f"I4: {what} deleted {entry.deletes}"


def _check_answer(auditor: Auditor, models: dict[str, _Model], told: Told) -> None:
    """What a client was told is what the journal says happened (I1, I9), and a read saw the state there (I3)."""
    assert told.answer is not None
    reply, partition, offset = told.answer
    place, what = (partition, offset), f"{told.key} {told.op} at {told.answer.partition}:{told.answer.offset}"
    # an answer that shared its command's write was lost with it in a crash, and its offset given to another
    gone = (
        told.waiting in auditor.unlogged and (models.get(told.key) or _Model()).marks.get(offset) != told.mark
    )
    entry = None if gone else auditor.entries.get(place)
    if entry is not None:
        assert entry.reply == reply, f"I9: {what} was told {reply}, the journal says {entry.reply}"
        return
    assert gone or place in auditor.dones, f"I1: {what} was answered and has no trace"
    if reply.outcome == UNAVAILABLE or (reply.error is not None and reply.error.code == "key-in-flight"):
        return
    if told.client_key is not None:
        first = [
            e for (p, _), e in auditor.entries.items() if p == partition and e.client_key == told.client_key
        ]
        assert len(first) == 1, f"I2: {what}: the key {told.client_key} was spent {len(first)} times"
        assert first[0].reply == reply, f"I2: {what} was told {reply}, first it was {first[0].reply}"
        return
    assert reply.outcome == "ok", f"I5: {what} ended without an entry and was told {reply}"
    said, before = json.loads(reply.body), (models.get(told.key) or _Model()).before(offset)
    if gone:
        before = auditor.unlogged[told.waiting].get(told.key, {})
    if told.op == "get":
        assert said == [before.get("count", 0), before.get("token")], (
            f"I3: {what} read {said}, there was {before}"
        )
    elif told.op == "marks":
        marks = sum(name.startswith(MARK) for name in before)
        assert said == marks, f"I3: {what} saw {said} marks of {marks}"
    elif told.op == "forget":
        assert said is False, f"I4: {what} said it deleted, and left no entry"
        assert "token" not in before, f"I3: {what} missed the token"
    else:
        assert told.op == "maybe", f"I4: {what} should have changed something"
        assert said is False, f"I4: {what} said {said}, and left no entry"


def _check_tables(run: Run, owners: list[Owner], store: MemoryStore) -> None:
    """I6: the live tables are byte for byte what a replay from zero gives."""
    for owner in owners:
        owner.tables.write_all()
    replayed = MemoryStore()
    for owner in owners:
        tables = Tables(replayed, owner.partition)
        for each in run.broker.streams[Topic.JOURNAL, owner.partition].records:
            tables.apply(each.offset, each.value)
            if run.random.random() < 0.05:
                tables.write_all()
        tables.write_all()
    live, again = (dict(each.scan(b"", b"\xff" * 8)) for each in (store, replayed))
    different = {
        key: (live.get(key), again.get(key))
        for key in live.keys() | again.keys()
        if live.get(key) != again.get(key)
    }
    assert not different, f"I6: live tables and replay differ: {different}"


__all__ = ["CHANGES_NOTHING", "Auditor", "Told", "check"]
