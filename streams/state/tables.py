"""The tables of one partition: the fold of its journal, written to the store lazily and in pieces.

Rows (p = partition, u16 big endian): `v p key NUL name` a value · `m p` the meta row · `d p word` done
offsets above the watermark, 512 to a row · `k p bucket key NUL principal NUL client-key` a spent client key ·
`a p key NUL name` an alarm · `t p due key NUL name` the same alarm by the ms it is due (not if it is parked) ·
`w p key NUL id` a WebSocket · `c`, `x` and `l`: see answered_calls.py · `o` and `u`: see creator_rows.py · `h` and `p`: see
admin_rows.py · `g p` the migrations that have run.

Laws
- State = fold(journal): the rows at a journal offset are the same bytes, however the records were cut into
  pieces and however often they were folded again. (`delete` of what is absent included.)
- A piece is whole records in journal order, coalesced, and one write with the meta row and done words it leads to.
- The fold's clock is the log time of the command with the highest offset that has an entry (see streams/log/log_time.py).
- The tables' age passes with it, by `STEP_MS` at most from one such command to the next, so that a clock that was wrong
  for one of them has aged nothing. A client key is forgotten `WINDOW_HOURS` of age later, 24 h or more: unseen at once,
  removed by the bucket (half of that) when the age enters a new one. Never by a local timer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from perdure.schemas.admin import OF_ALARM, Place
from perdure.schemas.calls import call_key
from perdure.schemas.effects import (
    AlarmRow,
    SocketRow,
    alarm_row,
    decode_alarm,
    decode_socket,
    encode_alarm,
    socket_row,
)
from perdure.schemas.errors import LogCorrupt
from perdure.schemas.journal import (
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
from perdure.streams.state.admin_rows import ActRows
from perdure.streams.state.done_rows import DoneRows
from perdure.streams.state.memtables import Piece, after
from perdure.streams.state.rows import (
    BUCKET_MS,
    STEP_MS,
    Meta,
    SpentKey,
    decode_meta,
    decode_steps,
    encode_row,
    of_namespace,
)
from perdure.streams.state.spent_keys import KeyRows
from perdure.streams.store.base import Store

PIECE_ROWS = 500  # about 1 ms of the event loop


Due = tuple[int, str, str]  # (ms, object key, name) of an alarm


class TablesInfo(NamedTuple):
    """What recovery and administration ask of the tables."""

    offset: int
    watermark: int
    low: int
    unwritten: int


class Tables(ActRows):
    """The tables of one partition over a store that other partitions share."""

    def __init__(self, store: Store, partition: int, *, exclusive: bool = False) -> None:
        number = partition.to_bytes(2, "big")
        super().__init__(store, number)
        self.partition = partition
        self._done_rows, self._keys = DoneRows(number), KeyRows(self, number)
        self._meta_row, self._steps_row, self._epoch = b"m" + number, b"g" + number, b"e" + number
        self._number = number
        self._alarm, self._time, self._socket = b"a" + number, b"t" + number, b"w" + number
        self._exclusive = exclusive
        self._bucket_end_ms = 0  # the age at which keys and calls grow older
        self.on_alarm: Callable[[str, str, AlarmRow | None], None] | None = None  # hears of each row folded
        self.load()

    def load(self) -> None:
        super().load()
        data = self.store.get(self._meta_row)
        self.meta = meta = decode_meta(data, self.partition) if data else Meta()
        name = f"journal of partition {self.partition}"
        self.reader = JournalReader(name, self._position(), exclusive=self._exclusive)
        self.done = self._done_rows.load(self.store, meta.watermark)
        self._ends: deque[Position] = deque([self.out_position])
        self._keys.load(meta.age_ms)
        steps = self.store.get(self._steps_row)
        self.steps: tuple[Step, ...] = decode_steps(steps) if steps else ()

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
        unwritten = self._open.records + sum(piece.records for piece in self._closed)
        return TablesInfo(self.reader.offset, self.done.mark, self.meta.low, unwritten)

    # Folding

    def apply(self, offset: int, value: bytes | None) -> JournalRecord | None:
        """Fold the journal's next record; the record if it counts. Raises `LogCorrupt`."""
        record = self.reader.step(offset, value)
        if record is None:
            return None
        if self.meta.clean:
            self.meta.clean = False
        self._open.records += 1
        if isinstance(record, EntryRecord):
            self._fold_entry(record.entry, offset)
            if record.out:
                self._fold_marks(record)
        else:
            self._fold_other(record, offset)
        if self._open.size >= PIECE_ROWS:
            self.cut()
        return record

    def applied(self, entries: Sequence[Entry], marks: NoOp, position: Position) -> None:
        """Fold a batch that this process wrote and that is durable; `position` is what it leads to."""
        offset = self.reader.offset
        self.reader.move(position)
        self._open.records += len(entries) + 1
        for entry in entries:
            self._fold_entry(entry, offset)
            offset += 1
        self._fold_marks(marks)
        self.meta.clean = marks.clean
        if self._open.size >= PIECE_ROWS:
            self.cut()

    def _fold_other(self, record: JournalRecord, offset: int) -> None:
        if isinstance(record, NoOp):
            self._fold_marks(record)
            self.meta.clean = record.clean
        elif isinstance(record, Header):
            self.meta.app_uuid, self.meta.partitions = record.app_uuid, record.partitions
            self._ends[0] = self.reader.position
            self._move_out()
        elif isinstance(record, Migration):
            self._fold_step(record.step)
        elif isinstance(record, Claim):
            if record.says_of_seals:
                self.meta.seal, self.meta.sealed_from = record.seal, record.sealed_from
            self.set_row(self._epoch + offset.to_bytes(8, "big"), b"")

    def _fold_entry(self, entry: Entry, offset: int) -> None:
        meta, piece = self.meta, self._open
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
            piece.values.pop(entry.key, None)
            piece.cleared.add(entry.key)
            piece.size += 1
            self.fold_unmade(entry.key)
            for name in self.alarms(entry.key):
                self._set_alarm(entry.key, name, None)
        if entry.puts or entry.deletes:
            values, before = piece.values.get(entry.key), 0
            if values is None:
                piece.values[entry.key] = values = {**entry.puts}
            else:
                before = len(values)
                values.update(entry.puts)
            for name in entry.deletes:
                values[name] = None
            piece.size += len(values) - before
        if entry.client_key is not None:
            self._fold_key(entry, entry.client_key)
        if entry.alarms or entry.sockets:
            self._fold_effects(entry, offset)
        if entry.changes:
            self.fold_changes(entry)
        self.done.add(entry.command)

    def _fold_step(self, step: Step) -> None:
        self.steps = (*self.steps, step)
        self.set_row(self._steps_row, encode_row(self.steps))
        for namespace in step.deleted:
            self._remove_namespace(namespace)
        if step.deleted:
            self.write_all()  # what is not written yet is read key by key, where a range would be overlooked

    def _remove_namespace(self, namespace: str) -> None:
        self.remove_acts(namespace)
        self.unmake_all(namespace)
        prefix = self._alarm + f"{namespace}/".encode()
        for row, alarm in list(self.rows(prefix, after(prefix))):
            due = decode_alarm(alarm).due_ms.to_bytes(8, "big")
            self.set_row(self._time + due + row[len(self._alarm) :], None)
        piece = self._open
        for start, end in of_namespace(self._number, namespace, self.meta.age_ms):
            self.remove_rows(start, end)
        for key in [key for key in piece.values if key.startswith(f"{namespace}/")]:
            del piece.values[key]

    def _fold_key(self, entry: Entry, client_key: str) -> None:
        if (key := call_key(entry.principal, client_key)) is not None:
            self.fold_call(entry, key)
            return
        self._keys.fold(entry, self.meta.age_ms)

    def _fold_effects(self, entry: Entry, offset: int) -> None:
        for alarm in entry.alarms:
            self._set_alarm(entry.key, alarm.name, alarm_row(alarm, offset))
            if alarm.parked:
                self.fold_parked_alarm(entry, alarm.name, offset)
        for socket in entry.sockets:
            row = socket_row(socket)
            place = self._socket + f"{entry.key}\0{socket.id}".encode()
            self.set_row(place, None if row is None else encode_row(row))

    def _set_alarm(self, key: str, name: str, row: AlarmRow | None) -> None:
        place = f"{key}\0{name}".encode()
        before = self.row(self._alarm + place)
        if before is not None:
            was = decode_alarm(before)
            self.set_row(self._time + was.due_ms.to_bytes(8, "big") + place, None)
            if was.parked:
                self.settle_parked(Place(OF_ALARM, was.set_at))
        self.set_row(self._alarm + place, None if row is None else encode_alarm(row))
        if row is not None and not row.parked:
            self.set_row(self._time + row.due_ms.to_bytes(8, "big") + place, b"")
        if self.on_alarm is not None:
            self.on_alarm(key, name, row)

    def _grow_older(self, time_ms: int) -> None:
        meta = self.meta
        if not meta.age_ms:
            meta.age_ms = time_ms  # of the first entry of all: no more than where to begin
            return
        before, passed_ms = meta.age_ms, time_ms - meta.clock_ms
        age_ms = meta.age_ms = before + (min(STEP_MS, passed_ms))
        if age_ms // BUCKET_MS != before // BUCKET_MS:
            self._keys.grow_older(age_ms)
            self.calls_grow_older(before, age_ms)
        self._bucket_end_ms = (age_ms // BUCKET_MS + 1) * BUCKET_MS

    def _fold_marks(self, record: EntryRecord | NoOp) -> None:
        done = self.done
        for first, count in each_run(record.done):
            done.add_run(first, count)
        meta, ends = self.meta, self._ends
        meta.low = max(meta.low, record.low)
        ends.append(self.reader.position)
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

    # Writing

    def cut(self) -> None:
        """Close the open piece, so that everything folded so far can be written."""
        piece = self._open
        if not piece.records and not piece.size:
            return
        meta = self.meta
        reader = self.reader
        meta.offset, meta.epoch, meta.seq, meta.chain = reader.position
        meta.watermark = self.done.mark
        self._done_rows.cut(self.done, piece)
        piece.closing.append((self._meta_row, encode_row(meta)))
        piece.closed = True
        self._closed.append(piece)
        self._open = Piece()

    def write_all(self) -> None:
        """Write everything folded so far."""
        self.cut()
        while self.write_piece():
            pass

    # Reading

    def alarms(self, key: str) -> dict[str, AlarmRow]:
        """The alarms of object `key`, by name, parked ones too."""
        prefix = self._alarm + key.encode() + b"\0"
        rows = self.rows(prefix, after(prefix))
        return {row[len(prefix) :].decode(): decode_alarm(value) for row, value in rows}

    def alarm(self, key: str, name: str) -> AlarmRow | None:
        """The alarm `name` of object `key`."""
        row = self.row(self._alarm + f"{key}\0{name}".encode())
        return None if row is None else decode_alarm(row)

    def sockets(self, key: str) -> dict[str, SocketRow]:
        """The WebSockets of object `key`, by id."""
        prefix = self._socket + key.encode() + b"\0"
        rows = self.rows(prefix, after(prefix))
        return {row[len(prefix) :].decode(): decode_socket(value) for row, value in rows}

    def all_sockets(self, behind: tuple[str, str] | None = None) -> Iterator[tuple[str, str, SocketRow]]:
        """(object key, id, row) of the WebSockets of the partition's objects, in order; `behind`: a key and id."""
        start = self._socket if behind is None else self._socket + "\0".join((*behind, "")).encode()
        for row, value in self.rows(start, after(self._socket)):
            key, _, id_ = row[len(self._socket) :].decode().partition("\0")
            yield key, id_, decode_socket(value)

    def due(self, first: Due, until_ms: int) -> Iterator[Due]:
        """The alarms from `first` on with due < until, in the order in which they are due."""
        from_ms, key, name = first
        start = self._time + from_ms.to_bytes(8, "big") + (f"{key}\0{name}".encode() if key else b"")
        for row, _ in self.rows(start, self._time + until_ms.to_bytes(8, "big")):
            key, _, name = row[11:].decode().partition("\0")
            yield int.from_bytes(row[3:11], "big"), key, name

    def counts(self, epoch: int, offset: int) -> bool:
        """Was `epoch` the newest claim where the folded journal record at `offset` lies? Else it is void."""
        if self.reader.epoch == epoch:
            return True
        start, end = (self._epoch + at.to_bytes(8, "big") for at in (epoch + 1, offset))
        return next(self.rows(start, end), None) is None

    def spent(self, key: str, principal: str, client_key: str) -> SpentKey | None:
        """What this client key was spent on within the window, if it was."""
        return self._keys.spent(key, principal, client_key, self.meta.age_ms)

    # Checking

    def check_against(self, app_uuid: str, partitions: int, journal_end: int, commands_end: int) -> None:
        """Refuse a store that is no fold of this log. Raises `LogCorrupt` naming both sides."""
        meta, number = self.meta, self.partition
        if meta.offset == 0:
            return
        if meta.app_uuid != app_uuid or meta.partitions != partitions:
            raise LogCorrupt(
                f"the state of partition {number} belongs to app #{fingerprint(meta.app_uuid)} with {meta.partitions} "
                f"partitions, the log to app #{fingerprint(app_uuid)} with {partitions}: the log was recreated or the directory is another's"
            )
        for what, have, end in (
            ("journal", meta.offset, journal_end),
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
