"""The tables of one partition: the fold of its journal, written to the store later, in memtables.

An owner hands each batch of entries to `applied` once it is durable; a start or a rebuild hands each journal
record to `apply`. Both put rows into the memtables (memtables.py). Each kind of row has a class, to which a
table belongs: readers use `tables.values.get(…)`, `tables.alarms.due(…)` and so on.

Rows (p = partition, u16 big endian) are listed in docs/internals/records.md: those of a kind begin with its
letter and belong to a class. Here: `m p` the meta row · `g p` the migrations that have run · `b p` where the
journal may begin.

Laws
- State = fold(journal): the rows at a journal offset are the same bytes, whichever records shared a memtable
  and however often they were folded. (A `delete` of what is absent included.) [test_tables.py]
- A memtable is whole records in journal order, coalesced, and one write with the meta row and done words that
  it leads to. [test_tables.py]
- Only the step that deletes a namespace takes several memtables, of a bounded number of rows each. Until the
  last, which ends it, the meta row has the position before the step: after a crash it is folded once more,
  over what is left. [test_a_deleted_namespace_leaves_no_row_however_the_fold_was_cut]
- The fold's clock is the log time of the command with the highest offset that has an entry (see
  streams/log/log_time.py).
- The tables' age passes with it, by `STEP_MS` at most from one such command to the next, so that one
  command's wrong clock ages nothing. A client key is forgotten after `WINDOW_HOURS` of age, 24 h or more: it
  is no longer read at once, and removed with its bucket when the age enters a new one. Never by a local
  timer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from perdure.schemas.admin import MADE
from perdure.schemas.calls import FORWARD_KEY, CallKey, call_key
from perdure.schemas.errors import LogCorrupt
from perdure.schemas.forwards import MOVED, origin_in
from perdure.schemas.journal import (
    OUTSIDE,
    Base,
    Claim,
    Entry,
    EntryRecord,
    Header,
    JournalRecord,
    Migration,
    NoOp,
    each_run,
)
from perdure.schemas.migrations import Step
from perdure.schemas.seal import fingerprint
from perdure.streams.journal.reader import JournalReader, Position
from perdure.streams.state.admin_rows import AdminRows
from perdure.streams.state.alarm_rows import AlarmRows
from perdure.streams.state.answered_calls import AnsweredCalls
from perdure.streams.state.claim_rows import ClaimRows
from perdure.streams.state.creator_rows import CreatorRows
from perdure.streams.state.done_rows import DoneRows
from perdure.streams.state.link_rows import LinkRows
from perdure.streams.state.memtables import Memtables, Values
from perdure.streams.state.rows import (
    BUCKET_MS,
    STEP_MS,
    Meta,
    decode_base,
    decode_meta,
    decode_steps,
    encode_row,
    of_namespace,
)
from perdure.streams.state.socket_rows import SocketRows
from perdure.streams.state.spent_keys import SpentKeys
from perdure.streams.store.base import Store

MEMTABLE_ROWS = 500  # about 1 ms of the event loop


class TablesInfo(NamedTuple):
    """The figures of the tables that recovery and administration use."""

    offset: int
    watermark: int
    low: int
    unwritten: int


class Deletion(NamedTuple):
    """A step that deletes namespaces and is being folded, and the position before it."""

    step: Step
    before: Position


class Tables:
    """The tables of one partition, over a store that it shares with others: a table for each kind of row."""

    def __init__(self, store: Store, partition: int, *, exclusive: bool = False) -> None:
        number = partition.to_bytes(2, "big")
        self.store = store
        self.partition = partition
        self.memtables = memtables = Memtables(store, number)
        self.values = Values(memtables, number)
        self.admin = AdminRows(memtables, number)
        self.alarms = AlarmRows(memtables, number, self.admin)
        self.sockets = SocketRows(memtables, number)
        self.spent_keys = SpentKeys(memtables, number)
        self.answered_calls = AnsweredCalls(memtables, number)
        self.creators = CreatorRows(memtables, number)
        self.links = LinkRows(memtables, number)
        self._claims = ClaimRows(memtables, number)
        self._done_rows = DoneRows(number)
        self._meta_row, self._steps_row, self._base_row = b"m" + number, b"g" + number, b"b" + number
        self._number = number
        self._exclusive = exclusive
        self._bucket_end_ms = 0  # the age at which keys and calls grow older
        self._deletion: Deletion | None = None  # under way
        self._removal: Iterator[None] = iter(())  # the rest of it
        self.load()

    def load(self) -> None:
        """Read what is kept in memory of the store's rows: at the beginning, and when they were ingested."""
        data = self.store.get(self._meta_row)
        self.meta = meta = decode_meta(data, self.partition) if data else Meta()
        name = f"journal of partition {self.partition}"
        self.reader = JournalReader(name, self._position(), exclusive=self._exclusive)
        self.done = self._done_rows.load(self.store, meta.watermark)
        self._ends: deque[Position] = deque([self.out_position])
        self.admin.load()
        self.answered_calls.load(meta, self.done)
        self.spent_keys.load(meta)
        self.links.load()
        steps = self.store.get(self._steps_row)
        self.steps: tuple[Step, ...] = decode_steps(steps) if steps else ()
        self.base: Base | None = decode_base(base) if (base := self.store.get(self._base_row)) else None

    def _position(self) -> Position:
        meta = self.meta
        return Position(meta.offset, meta.epoch, meta.seq, meta.chain) if meta.chain else Position()

    @property
    def out_position(self) -> Position:
        """Where to read the journal from to find everything that may not have been let out."""
        meta = self.meta
        return (
            Position(meta.out, meta.out_epoch, meta.out_seq, meta.out_chain) if meta.out_chain else Position()
        )

    @property
    def info(self) -> TablesInfo:
        return TablesInfo(self.reader.offset, self.done.mark, self.meta.low, self.memtables.unwritten)

    # Folding

    def apply(self, offset: int, value: bytes | None, *, in_pieces: bool = False) -> JournalRecord | None:
        """Fold the journal's next record; the record if it counts. Raises `LogCorrupt`.

        With `in_pieces`, `remove_piece` has to be called before the next record until it returns False.
        """
        chain = self.reader.chain
        record = self.reader.step(offset, value)
        if record is None:
            return None
        if self.meta.clean:
            self.meta.clean = False
        self.memtables.open.records += 1
        if isinstance(record, EntryRecord):
            self._fold_entry(record.entry, offset, record.link is not None)
            if record.out:
                self._fold_marks(record, self.reader.position)
        else:
            self._fold_other(record, offset, chain)
            while not in_pieces and self.remove_piece():
                self.write_all()
        if self.memtables.open.size >= MEMTABLE_ROWS:
            self.freeze()
        return record

    def applied(
        self, entries: Sequence[Entry], marks: NoOp, position: Position, base: Base | None = None
    ) -> None:
        """Fold a batch of `entries`, `base` and `marks` that this process wrote, now durable; `position`
        is what it leads to.
        """
        offset = self.reader.offset
        self.reader.move(position)
        self.memtables.open.records += len(entries) + 1
        for entry in entries:
            self._fold_entry(entry, offset)
            offset += 1
        if base is not None:
            self._fold_other(base, offset, b"")
        self._fold_marks(marks, position)
        self.meta.clean = marks.clean
        if self.memtables.open.size >= MEMTABLE_ROWS:
            self.freeze()

    def _fold_other(self, record: JournalRecord, offset: int, chain: bytes) -> None:
        if isinstance(record, NoOp):
            self._fold_marks(record, self.reader.position)
            self.meta.clean = record.clean
        elif isinstance(record, Header):
            self.meta.app_uuid, self.meta.partitions = record.app_uuid, record.partitions
            self._ends[0] = self.reader.position
            self._move_out()
        elif isinstance(record, Migration):
            if record.step.deleted:
                self._deletion = Deletion(record.step, Position(offset, record.epoch, record.seq, chain))
                self._removal = self._remove(record.step)
            else:
                self._fold_step(record.step)
        elif isinstance(record, Claim):
            if record.says_of_seals:
                self.meta.seal, self.meta.sealed_from = record.seal, record.sealed_from
            self._claims.fold(offset)
        elif isinstance(record, Base):
            self.base = record
            self.memtables.set_row(self._base_row, encode_row(record))

    def _fold_entry(self, entry: Entry, offset: int, links: bool = True) -> None:
        meta, memtable = self.meta, self.memtables.open
        if links and entry.outcome not in OUTSIDE and (mine := entry.key):  # `in_history`, without a call
            if mine not in memtable.links:
                self.links.added(offset)
            memtable.links[mine] = offset
        if entry.command > meta.latest:
            meta.latest = entry.command
            passed_ms = entry.time_ms - meta.clock_ms
            if passed_ms > 0:
                if (
                    0 < meta.age_ms < (age_ms := meta.age_ms + passed_ms) < self._bucket_end_ms
                    and passed_ms <= STEP_MS
                ):
                    meta.age_ms = age_ms  # as `_grow_older`, which has little to do
                else:
                    self._grow_older(entry.time_ms)
            meta.clock_ms = entry.time_ms
        if entry.clear:
            memtable.values.pop(entry.key, None)
            memtable.cleared.add(entry.key)
            memtable.size += 1
            self.creators.removed(entry.key)
            self.alarms.clear(entry.key)
        if entry.puts or entry.deletes:
            values, before = memtable.values.get(entry.key), 0
            if values is None:
                memtable.values[entry.key] = values = {**entry.puts}
            else:
                before = len(values)
                values.update(entry.puts)
            for name in entry.deletes:
                values[name] = None
            memtable.size += len(values) - before
        if entry.client_key is not None:
            key = call_key(entry.principal, entry.client_key) if entry.principal else None
            if key is None:
                self.spent_keys.fold(entry)
            else:
                self.answered_calls.fold(entry, key)
        if entry.alarms:
            self.alarms.fold(entry, offset)
        if entry.sockets:
            self.sockets.fold(entry)
        for change in entry.changes:
            if change.what == MADE:
                self.creators.created(entry.key, entry.principal)
            elif change.what == MOVED:
                origin = origin_in(change.record.decode())
                self.answered_calls.fold(entry, CallKey(FORWARD_KEY, origin.partition, origin.offset, 0))
            else:
                self.admin.fold(entry, change)
        self.done.add(entry.command)

    def _fold_step(self, step: Step) -> None:
        self.steps = (*self.steps, step)
        self.memtables.set_row(self._steps_row, encode_row(self.steps))

    def remove_piece(self) -> bool:
        """Fold the next piece of a step that deletes namespaces, and freeze it; False if there is none."""
        deletion = self._deletion
        if deletion is None:
            return False
        try:
            next(self._removal, None)
        except BaseException:  # of the store: what is removed stays removed, and may be removed once more
            self._removal = self._remove(deletion.step)
            raise
        self.freeze()
        return True

    def _remove(self, step: Step) -> Iterator[None]:
        """Fold a step that deletes namespaces: what is walked row by row in pieces, then all ranges."""
        yield  # what is not written yet is read key by key, where a range would be overlooked
        for namespace in step.deleted:
            yield from self._remove_single_rows(namespace)
        for namespace in step.deleted:
            for start, end in of_namespace(self._number, namespace, self.meta.age_ms):
                self.memtables.remove_rows(start, end)
        self.links.forget()
        self._fold_step(step)
        self._deletion = None

    def _remove_single_rows(self, namespace: str) -> Iterator[None]:
        """The rows that no range holds: each piece can be removed once more without another effect."""
        yield from self.admin.remove_namespace(namespace)
        yield from self.creators.remove_namespace(namespace)
        yield from self.alarms.remove_by_time(namespace)

    def _grow_older(self, time_ms: int) -> None:
        meta = self.meta
        if not meta.age_ms:
            meta.age_ms = time_ms  # of the first entry of all: no more than where to begin
            return
        before = meta.age_ms
        age_ms = meta.age_ms = before + min(STEP_MS, time_ms - meta.clock_ms)
        if age_ms // BUCKET_MS != before // BUCKET_MS:
            self.spent_keys.grow_older()
            self.answered_calls.grow_older(before)
        self._bucket_end_ms = (age_ms // BUCKET_MS + 1) * BUCKET_MS

    def _fold_marks(self, record: EntryRecord | NoOp, end: Position) -> None:
        """Fold the marks of a batch's last record; `end` is the position behind it."""
        for first, count in each_run(record.done) if record.done else ():
            self.done.add_run(first, count)
        meta, ends = self.meta, self._ends
        meta.low = max(meta.low, record.low)
        ends.append(end)
        while len(ends) > 1 and ends[0].offset < record.out:
            ends.popleft()
        if ends[0].offset == record.out:
            self._move_out()

    def _move_out(self) -> None:
        meta = self.meta
        meta.out, meta.out_epoch, meta.out_seq, meta.out_chain = self._ends[0]

    def remember_end(self, position: Position) -> None:
        """A batch end below what is folded already, seen again while reading from the out mark on."""
        if position.offset > self._ends[-1].offset:
            self._ends.append(position)

    def out_at(self, mark: int) -> int:
        """The last batch end at or below journal offset `mark`: what a batch may carry as `out`."""
        best = self._ends[0].offset
        for end in self._ends:
            if end.offset > mark:
                break
            best = end.offset
        return best

    def freeze(self) -> None:
        """Close the open memtable, so that everything folded so far can be written."""
        memtable = self.memtables.open
        if not memtable.records and not memtable.size:
            return
        meta = self.meta
        position = self.reader.position if self._deletion is None else self._deletion.before
        meta.offset, meta.epoch, meta.seq, meta.chain = position
        meta.watermark = self.done.mark
        self._done_rows.freeze(self.done, memtable)
        memtable.closing.append((self._meta_row, encode_row(meta)))
        self.links.remember(memtable.links)
        self.memtables.freeze()

    def write_memtable(self) -> bool:
        """Write the oldest frozen memtable, in one batch; False if there was none (`freeze` makes one)."""
        return self.memtables.write_oldest()

    def write_all(self) -> None:
        """Write everything folded so far."""
        self.freeze()
        while self.write_memtable():
            pass

    def counts(self, epoch: int, offset: int) -> bool:
        """True if `epoch` was the newest claim at the folded record at `offset`; False: it is void."""
        return self.reader.epoch == epoch or not self._claims.any_between(epoch, offset)

    def check_against(self, app_uuid: str, partitions: int, journal_end: int, commands_end: int) -> None:
        """Refuse rows that are not a fold of the log of `app_uuid`, with `partitions` partitions and these
        ends (`journal_end`, `commands_end`). Raises `LogCorrupt`, which names both sides.
        """
        meta, number = self.meta, self.partition
        if self.reader.offset == 0:
            return
        if meta.app_uuid != app_uuid or meta.partitions != partitions:
            raise LogCorrupt(
                f"the state of partition {number} belongs to app #{fingerprint(meta.app_uuid)} with {meta.partitions} "
                f"partitions, the log to app #{fingerprint(app_uuid)} with {partitions}: the log was recreated or the directory belongs to another app"
            )
        for what, have, end in (
            ("journal", self.reader.offset, journal_end),
            ("commands", self.done.end, commands_end),
        ):
            if have > end:
                out = "to accept the loss, run `perdure state rebuild`"
                if what == "commands":  # their places are in the journal: a rebuild would find the same
                    out = "to go on without them, move the classes to an app of another name (transferred_classes)"
                raise LogCorrupt(
                    f"the state of partition {number} is ahead of its log: it has applied {what} up to offset "
                    f"{have - 1}, the log ends before {end}: records were lost. Restore the log, or, {out}"
                )
