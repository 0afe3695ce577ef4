"""What must be true, whatever happened: I1 to I9, from the log, the answers and the tables alone.

The `Auditor` reads the durable journal as any reader would, and knows of each
command its one trace that counts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Any

from perdure.api.replies import PlacedReply
from perdure.objects.alarms import next_due
from perdure.schemas.alarms import RETIME, TTL, parse_ring
from perdure.schemas.commands import ALARM, FETCH, SOCKET, Command, parse_command
from perdure.schemas.errors import FailedInside, MalformedCommand, UnknownNamespace
from perdure.schemas.expiry import HIDDEN
from perdure.schemas.journal import (
    NO_COMMAND,
    Claim,
    Entry,
    EntryRecord,
    Migration,
    NoOp,
    in_history,
    in_runs,
)
from perdure.schemas.keys import name_of, namespace_of, object_key, partition_of
from perdure.schemas.migrations import Step
from perdure.schemas.replies import OK, UNAVAILABLE, Reply
from perdure.streams.journal.reader import JournalReader
from perdure.streams.log.base import Topic
from perdure.streams.log.log_time import SKEW_MS
from perdure.streams.log.memory.log import MemoryBroker
from perdure.streams.owner.owner import Owner
from perdure.streams.state.rows import HOUR_MS, WINDOW_HOURS
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore
from perdure.streams.turns.ports import UNSEALED
from tests.simulation.between import check_calls_and_sends, check_frame_records, check_frames
from tests.simulation.oracle import Lease, Model, Place, apply, seen, withdrawn
from tests.simulation.sample import CRON, LEASE, MARK, OLD
from tests.simulation.strays import Forwards, is_noted_only

if TYPE_CHECKING:
    from tests.simulation.elsewhere import Holding
    from tests.simulation.world import Run

_NOTHING = ("key-in-flight", FailedInside.code)  # codes of what ended without an entry
NOTICED_MS = SKEW_MS + 60_000  # so far ahead of a right clock is log time when all have been timed again
WINDOW_MS = WINDOW_HOURS * HOUR_MS
_step = JournalReader.step  # the true rule, whatever a planted bug makes of it


@dataclass
class Told:
    """What a client asked, and what it was told."""

    key: str
    op: str
    mark: str
    client_key: str | None
    asked_s: float
    other: str = ""
    waiting: Any = None
    answer: PlacedReply | None = None
    answered_s: float = 0.0
    nothing_changed: bool = False


class Auditor:
    """Knows what counts, from the durable journal alone."""

    def __init__(
        self,
        broker: MemoryBroker,
        elsewhere: dict[str, dict[str, Holding]],
        counts: Counter[str],
        clock_ms: Callable[[], int],
    ) -> None:
        self.broker = broker
        self.elsewhere = elsewhere  # what each node found in the other app
        self.counts = counts
        self.clock_ms = clock_ms
        self.claimants: dict[int, str] = {}
        self.named: Counter[tuple[int, str]] = (
            Counter()
        )  # how often a node was named the owner of a partition
        self.taken: Counter[tuple[int, str]] = Counter()  # and took it from another
        self.moved: dict[
            str, list[tuple[Entry, int]]
        ] = {}  # what each object came with, with journal offsets
        self.readers = [JournalReader(f"journal {p}") for p in range(broker.partitions)]
        self.entries: dict[tuple[int, int], Entry] = {}
        self.places: dict[tuple[int, int], int] = {}  # of a command -> journal offset of its entry
        self.order: list[tuple[int, Entry, int]] = []  # partition, entry, journal offset
        self.clocks_ms: dict[
            tuple[int, int], int
        ] = {}  # of a command -> the highest entry time up to its own
        self._clocks_ms = [0] * broker.partitions
        self.at: dict[tuple[int, int], Entry] = {}  # by partition and journal offset
        self.dones: set[tuple[int, int]] = set()
        self.steps: list[list[tuple[Step, int]]] = [[] for _ in self.readers]  # with their journal offsets
        self.claims = 0
        self.newest: dict[tuple[int, str], int] = {}  # of each object, the journal offset of its newest entry
        self.states: dict[str, dict[str, Any]] = {}
        self.unlogged: dict[Any, dict[str, dict[str, Any]]] = {}

    def catch_up(self) -> None:
        """Read what is durable. An effect that counts twice is found here (I2)."""
        for partition, reader in enumerate(self.readers):
            stream = self.broker.streams[Topic.JOURNAL, partition]
            for each in stream.between(reader.offset, stream.durable):
                record = _step(reader, each.offset, each.value)
                if isinstance(record, Claim):
                    self.claims += 1
                    self._claimed(partition, record.node, each.offset)
                if isinstance(record, Migration):
                    self._step(partition, record.step, each.offset)
                if isinstance(record, EntryRecord):
                    self._linked(partition, record, each.offset)
                    self._entry(partition, record.entry, each.offset)
                if isinstance(record, (EntryRecord, NoOp)):
                    for offset in in_runs(record.done):
                        place = partition, offset
                        assert place not in self.entries, (
                            f"I2: command {place} has an entry, and is done without"
                        )
                        assert place not in self.dones, f"I2: command {place} is done twice"
                        self.dones.add(place)

    def _linked(self, partition: int, record: EntryRecord, offset: int) -> None:
        """An entry links to the previous one of its object, so that no turn is missing from its history."""
        if in_history(record.entry):
            place = partition, record.entry.key
            due = self.newest.get(place)
            assert record.previous(offset) == due, (
                f"history: {place} at {offset} links to {record.previous(offset)}, its previous entry is at {due}"
            )
            self.newest[place] = offset

    def _claimed(self, partition: int, node: str, offset: int) -> None:
        """A node takes a partition from another one once for each time that it was
        named, and never by itself.
        """
        if self.claimants.get(partition) != node:
            self.taken[partition, node] += 1
            assert self.taken[partition, node] <= self.named[partition, node], (
                f"{node} takes partition {partition} from {self.claimants.get(partition)} at {offset}, unnamed"
            )
        self.claimants[partition] = node

    def _entry(self, partition: int, entry: Entry, offset: int) -> None:
        self.at[partition, offset] = entry
        if entry.command == NO_COMMAND:
            self._move(partition, entry, offset)
            return
        place = partition, entry.command
        assert place not in self.entries, f"I2: command {place} has two entries that count"
        assert place not in self.dones, f"I2: command {place} was done without an entry, and has one"
        self.entries[place] = entry
        self.places[place] = offset
        self.order.append((partition, entry, offset))
        most_ms = self.clock_ms() + SKEW_MS
        assert entry.time_ms <= most_ms, f"log time of {place} is {entry.time_ms - most_ms} ms too far ahead"
        self._clocks_ms[partition] = max(self._clocks_ms[partition], entry.time_ms)
        self.clocks_ms[place] = self._clocks_ms[partition]
        apply(self.states.setdefault(entry.key, {}), entry)

    def _move(self, partition: int, entry: Entry, offset: int) -> None:
        key, what = entry.key, f"{entry.key} at {offset}"
        assert partition_of(key, len(self.readers)) == partition, f"I4: {what} moved into another's partition"
        come = any(step.transferred for step, _ in self.steps[partition])
        assert not come, f"I2: {what} moved in once more"
        if entry.clear:
            self.counts["moved in by a copy that was cut short"] += bool(self.states.get(key))
            self.states[key] = {}
            self.moved[key] = []
        self.moved.setdefault(key, []).append((entry, offset))
        apply(self.states.setdefault(key, {}), entry)

    def _check_moved(self, partition: int, namespace: str) -> None:
        """There is all that whoever journals the step has found elsewhere, and nothing else."""
        due = self.elsewhere.get(self.claimants[partition], {})
        due = {
            name: each
            for name, each in due.items()
            if partition_of(object_key(namespace, name), len(self.readers)) == partition
        }
        there: dict[str, Holding] = {}
        for key, entries in self.moved.items():
            if namespace_of(key) != namespace:
                continue
            alarms = [alarm.due_ms for entry, _ in entries for alarm in entry.alarms]
            here = partition_of(key, len(self.readers)) == partition
            if here and (self.states[key] or alarms):
                there[name_of(key)] = self.states[key], next(iter(alarms), None)
        assert there == due, f"I1: {namespace} moved into partition {partition} as {there}, and is {due}"
        self.counts["objects moved in"] += len(there)

    def _step(self, partition: int, step: Step, offset: int) -> None:
        for namespace, _, _ in step.transferred:
            self._check_moved(partition, namespace)
        self.steps[partition].append((step, offset))
        for key in [key for key in self.states if namespace_of(key) in step.deleted]:
            if partition_of(key, len(self.readers)) == partition:
                del self.states[key]
        for place in [each for each in self.newest if each[0] == partition]:
            if namespace_of(place[1]) in step.deleted:
                del self.newest[place]

    def deleted_at(self, key: str) -> float:
        """The journal offset at which an object's namespace was deleted in its partition."""
        steps = self.steps[partition_of(key, len(self.readers))]
        return next((at for step, at in steps if namespace_of(key) in step.deleted), inf)

    def about_to_answer(self, reply: Reply, partition: int, offset: int, waiting: Any) -> None:
        """I7, and the trace: what an answer tells is durable, under an epoch that counts, before it leaves.

        An answer to a command that is not durable itself (it shares its write with its trace) may be lost
        with it; what it may have seen is noted down.
        """
        self.catch_up()
        place = partition, offset
        if place in self.entries or place in self.dones:
            return
        durable = self.broker.streams[Topic.COMMANDS, partition].durable
        shares = self.broker.ordered and self.broker.exclusive and offset >= durable
        assert shares, f"I7: command {place} is answered ({reply.outcome}) without a durable trace"
        assert reply.outcome == OK, (
            f"I7: {reply.outcome!r} of command {place} leaves before its trace is durable"
        )
        self.unlogged[waiting] = {key: dict(state) for key, state in self.states.items()}

    def about_to_send(self, partition: int, offset: int, what: str) -> None:
        """I7: a frame leaves when the entry that let it out is durable, and counts."""
        self.catch_up()
        assert (partition, offset) in self.at, (
            f"I7: the frame {what!r} leaves before its entry {offset} counts"
        )


def check(run: Run, owners: list[Owner], store: MemoryStore) -> None:
    """All invariants at the end of a run, with everything done."""
    auditor = run.auditor
    models, commands = _fold_in_log_order(run, auditor)
    for told in run.told:
        _check_answer(run, models, told)
    check_calls_and_sends(run, commands, models)
    check_frames(run, whole=False)
    check_frame_records(run)
    _check_nothing_is_left(run, models)
    _check_tables(run, owners, store)


def _fold_in_log_order(run: Run, auditor: Auditor) -> tuple[dict[str, Model], dict[Place, Command]]:
    """Each object's turns took effect in log order, each on what the one before left (I2 to I5)."""
    last: dict[str, int] = {}
    for partition, entry, _ in auditor.order:
        if withdrawn(entry) or entry.outcome == UNAVAILABLE or _forged(entry) or is_noted_only(entry):
            continue  # it never ran, or was not done
        if partition_of(entry.key, run.broker.partitions) != partition:
            continue  # it was forwarded, or not even that
        assert entry.command > last.get(entry.key, -1), f"I3: {entry.key}: entry {entry.command} out of order"
        last[entry.key] = entry.command
    models: dict[str, Model] = {}
    for key, come in auditor.moved.items():
        models[key] = Model()
        for entry, offset in come:
            models[key].fold(entry, offset)
    commands: dict[Place, Command] = {}
    forwards = Forwards(run)
    for partition in range(run.broker.partitions):
        latest_ms, stepped_back = 0, False
        for record in run.broker.streams[Topic.COMMANDS, partition].records:
            place = partition, record.offset
            entry = auditor.entries.get(place)
            assert entry is not None or place in auditor.dones, (
                f"I1: command {place} is on the log and never done"
            )
            try:
                command = parse_command(record.key, record.value, record.headers, UNSEALED)
            except MalformedCommand:
                assert entry is not None, f"a forged command at {place} left no trace"
                assert _forged(entry), f"a forged command at {place} came to {entry}"
                commands[place] = Command("", FETCH, "")
                run.counts["forged commands refused"] += 1
                continue
            commands[place] = command
            if not forwards.runs_here(place, command, entry):
                commands[place] = Command("", FETCH, "")
                continue
            model = models.setdefault(command.key, Model())
            model.history.append((record.offset, dict(model.state)))
            if command.kind == FETCH:
                model.marks[record.offset] = command.path.split("/")[2]
                model.times_ms[record.offset] = record.time_ms
            latest_ms = max(latest_ms, record.time_ms)
            stepped_back |= record.time_ms < latest_ms - SKEW_MS
            if stepped_back and entry is not None and command.kind == ALARM and command.method == CRON:
                _check_not_late(run, model, command)
            _count(run, model, command, entry)
            if entry is not None and _is_nobody_s(run, auditor, entry, place):
                continue
            if entry is not None and is_noted_only(entry):
                commands[place] = Command("", FETCH, "")
                continue
            if entry is not None:
                model.check(entry, command, place)
                model.fold(entry, auditor.places[place])
            elif command.kind == SOCKET:
                assert command.path not in model.sockets, (
                    f"I1: {command.id} was not heard, its socket was there"
                )
    forwards.check()
    return models, commands


def _check_not_late(run: Run, model: Model, command: Command) -> None:
    """After a step back it rings at the next time of the right clock, once that is noticed; it skips none."""
    row = model.alarms.get(CRON)
    if row is not None and not row.attempt and parse_ring(command.body).act != RETIME:
        most_ms = next_due(row.cron, row.zone, run.stepped_back_ms + NOTICED_MS)
        if row.due_ms >= run.stepped_back_ms and row.set_at >= 0:
            late_ms = row.due_ms - max(most_ms, model.rung.get(CRON, 0) + 60_000)
            assert late_ms <= 0, f"I8: {command.key} rings {late_ms} ms too late after the clock stepped back"
            run.counts["cron alarms not late"] += 1


def _forged(entry: Entry) -> bool:
    """True if it is a dead letter of a record that says it is perdure's own and is not."""
    error = entry.reply.error
    return error is not None and error.code == MalformedCommand.code and not entry.puts


def _is_nobody_s(run: Run, auditor: Auditor, entry: Entry, place: Place) -> bool:
    """Was the namespace deleted when this was to be done? Then it is a dead letter, and only then."""
    dead = entry.reply.error is not None and entry.reply.error.code == UnknownNamespace.code
    after = auditor.places[place] > auditor.deleted_at(entry.key)
    assert dead == after, f"the command at {place} came to {entry.reply}, its namespace was deleted: {after}"
    run.counts["for a deleted namespace"] += dead
    return dead


def _count(run: Run, model: Model, command: Command, entry: Entry | None) -> None:
    outcome = "for nothing" if entry is None else entry.outcome
    if command.kind == ALARM and command.method == TTL:
        run.counts[f"sweeps {outcome}"] += 1
        if entry is not None and LEASE in model.state and LEASE not in entry.deletes:
            run.counts["swept, and put again since"] += 1
    elif command.kind == ALARM and parse_ring(command.body).act == RETIME:
        run.counts["alarms timed again"] += entry is not None
    elif command.kind == ALARM:
        run.counts[f"alarms {outcome}"] += 1
    elif command.kind == SOCKET:
        run.counts[f"socket {command.method} {outcome}"] += 1


def _check_nothing_is_left(run: Run, models: dict[str, Model]) -> None:
    """No alarm that never rang (I8), nothing that has expired, and no socket of the dead."""
    for key, model in models.items():
        if run.auditor.deleted_at(key) < inf:
            run.counts["deleted with their namespace"] += bool(model.state)
            continue
        waiting = [row for name, row in model.alarms.items() if not row.parked and name != CRON]
        assert not waiting, f"I8: {key} has an alarm that never rang: {model.alarms}"
        cron = model.alarms.get(CRON)
        if cron is not None and not cron.attempt:
            late_ms = cron.due_ms - next_due(
                cron.cron, cron.zone, max(run.clock_ms(), run.stepped_back_ms + NOTICED_MS)
            )
            assert late_ms <= 0, f"I8: {key} rings {late_ms} ms later than at its next time: {cron}"
            run.counts["cron alarms at their next time"] += 1
        left = {
            name for name, value in model.state.items() if name.startswith(HIDDEN) or isinstance(value, Lease)
        }
        assert not left, f"I8: {key} keeps what has expired: {left}"
        assert not model.sockets, f"{key} keeps sockets of the dead: {model.sockets}"


def _check_answer(run: Run, models: dict[str, Model], told: Told) -> None:
    """What a client was told is what the journal says happened (I1, I9), and a read
    saw the state there (I3).
    """
    assert told.answer is not None
    auditor, model = run.auditor, models.get(told.key) or Model()
    reply, partition, offset = told.answer.reply, told.answer.partition, told.answer.offset
    place, what = (partition, offset), f"{told.key} {told.op} at {told.answer.partition}:{told.answer.offset}"
    # an answer that shared its command's write was lost with it in a crash, and its offset given to another
    gone = told.waiting in auditor.unlogged and model.marks.get(offset) != told.mark
    if told.waiting in auditor.unlogged and partition in run.broken:
        gone = True  # its partition stopped before it was written that it was done: it changed nothing, and ran again
    entry = None if gone else auditor.entries.get(place)
    if entry is not None:
        assert entry.reply == reply, f"I9: {what} was told {reply}, the journal says {entry.reply}"
        return
    assert gone or place in auditor.dones, f"I1: {what} was answered and has no trace"
    if reply.outcome == UNAVAILABLE or (reply.error is not None and reply.error.code in _NOTHING):
        return
    if told.client_key is not None:
        spent = [
            e
            for (p, _), e in auditor.entries.items()
            if p == partition and e.client_key == told.client_key and e.outcome != UNAVAILABLE
        ]
        spent.sort(key=lambda entry: entry.command)
        ages_ms = [
            auditor.clocks_ms[partition, later.command] - earlier.time_ms
            for earlier, later in pairwise(spent)
        ]
        assert all(age_ms >= WINDOW_MS for age_ms in ages_ms), (
            f"I2: {what}: the key {told.client_key} was spent {len(spent)} times, {ages_ms} ms apart"
        )
        before_it = [entry for entry in spent if entry.command < offset]
        assert before_it, f"I1: {what}: the key {told.client_key} was not spent, and nothing was done"
        first = before_it[-1].reply
        assert first == reply, f"I2: {what} was told {reply}, first it was {first}"
        return
    assert reply.outcome == "ok", f"I5: {what} ended without an entry and was told {reply}"
    said, before = json.loads(reply.body), model.before(offset)
    if gone:
        before = auditor.unlogged[told.waiting].get(told.key, {})
    if told.op == "get":
        assert said == [before.get("count", 0), before.get("token")], (
            f"I3: {what} read {said}, there was {before}"
        )
    elif told.op == "look":
        value, now_ms = said
        if run.jumps or run.steps:
            assert now_ms <= auditor.clock_ms() + SKEW_MS, f"{what} took {now_ms} for the time"
        else:
            assert gone or now_ms == model.times_ms[offset], f"{what} took {now_ms} for the time"
        due = seen(before, now_ms)
        assert value == due, f"I3: {what} saw {value} at {now_ms}, not {due}: there was {before.get(LEASE)}"
        if LEASE in before:
            run.counts["leases hidden" if due is None else "leases seen"] += 1
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
        steps = [step.tag for step, _ in run.auditor.steps[owner.partition]]
        assert steps == (["v1", "v2"] if run.migrated else ["v1"]), f"partition {owner.partition} has {steps}"
    if run.migrated:
        keys = [key for key, _ in store.scan(b"", b"\xff" * 8)]
        left = [key for key in keys if f"{OLD}/".encode() in key and f":{OLD}/".encode() not in key]  # a name
        assert not left, f"the deleted namespace has left {left}"
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


__all__ = ["Auditor", "Told", "check"]
