"""The owner's side of one journal partition: what waits to be appended, and the outcome of each append.

When a turn ends, its owner adds it here. The log's writer takes what has gathered as one batch, and when the
batch is acknowledged the owner folds its entries and emits their replies.

Laws
- One batch is outstanding; its items keep the order in which their turns ended. [test_owner.py]
- A batch that was acknowledged at the expected offset is settled. At a larger one there is a gap, which is
  read first; a smaller one is an unknown outcome. Only `acknowledged` settles a batch. [test_fencing.py]
- Each entry links to its object's previous one, in the same batch by how many records before. [test_links.py]
- A batch's last record carries the offsets done without an entry, the low watermark and the output watermark.
- Of a completion that was answered already only its offset is kept; it goes with the next batch, and requests
  none.
- After `failed` or `close` nothing computed before is appended again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec.structs import replace

from perdure.schemas.errors import OperatorError, OutcomeUnknown
from perdure.schemas.journal import (
    NO_LINK,
    OUTSIDE,
    Base,
    Claim,
    Entry,
    Header,
    NoOp,
    encode_chained,
    encode_raw_entry,
    encode_unchained,
    runs,
)
from perdure.streams.journal.reader import Position
from perdure.streams.log.base import Log, Record, Writer


class Item(Protocol):
    """A turn that has ended: with an entry and its encoded form, or as a completion without one."""

    offset: int
    entry: Entry | None
    encoded: bytes


class DurabilityBarrier:
    """A place in the queue: `passed()` is called when what was added before it is durable.

    Nothing is written for it.
    """

    __slots__ = ("encoded", "entry", "offset", "passed")

    def __init__(self, passed: Callable[[], None]) -> None:
        self.offset = -1
        self.entry: Entry | None = None
        self.encoded = b""
        self.passed = passed


class Marks(Protocol):
    """The source of an owner's watermarks: how far its output has been emitted; and of its objects' links."""

    def marks(self) -> tuple[int, int]:
        """(low watermark, output watermark) as they stand now."""

    def newest_entry(self, key: str) -> int:
        """The journal offset of the newest folded entry of object `key`; `NO_LINK` if there is none."""


class JournalBatch:
    """The batch that is being appended: the items that it settles, and the position after its records."""

    __slots__ = (
        "answered",
        "barriers",
        "base",
        "completions",
        "count",
        "entries",
        "folded",
        "marks",
        "position",
    )

    def __init__(self, entries: list[Item], completions: list[Item], answered: Sequence[int]) -> None:
        self.entries = entries
        self.completions = completions
        self.answered = answered  # offsets done and already answered, as runs
        self.count = 0  # records
        self.folded: list[Entry] = []
        self.base: Base | None = None
        self.marks = NoOp(0, 0)  # the fields of its last record
        self.barriers: list[DurabilityBarrier] = []  # passed once it is durable
        self.position = Position()  # after its last record; the offset is known when it is acknowledged


class Journal:
    """Appends what an owner's turns did; calls `acknowledged(batch, first_offset)` or `lost(error)`.

    log: the log to which `partition`'s journal belongs.
    marks: the source of the owner's watermarks.
    acknowledged: returns False if it is not decided yet (a gap has to be read first); the owner calls
        `proceed` later.
    lost: called when the outcome of an append is not known: the epoch ends.
    """

    def __init__(
        self,
        log: Log,
        partition: int,
        marks: Marks,
        acknowledged: Callable[[JournalBatch, int], bool],
        lost: Callable[[BaseException], None],
    ) -> None:
        self._log = log
        self._partition = partition
        self._marks = marks
        self._acknowledged = acknowledged
        self._lost = lost
        self._writer: Writer | None = None
        self._waiting: deque[Item] = deque()
        self._answered: list[int] = []  # as runs
        self._batch: JournalBatch | None = None
        self._alone: Sequence[Record] = ()  # records that are appended before there are entries of turns
        self._appended: Callable[[int | BaseException], None] | None = None
        self._clean = False
        self._base: Base | None = None  # to be appended with the next batch
        self._barriers = 0  # how many of the waiting items are barriers
        self.position = Position()  # after everything handed to the log so far

    # Beginning

    def begin(self, record: Header | Claim, appended: Callable[[int | BaseException], None]) -> None:
        """Append a header or claim through a new writer; call `appended` with its offset, or the error."""
        self.close()
        self._writer = self._log.writer(self._partition, self)
        self.alone((Record(None, encode_unchained(record)),), appended)

    def alone(self, records: Sequence[Record], appended: Callable[[int | BaseException], None]) -> None:
        """Append a batch before there are entries; call `appended` with its first offset, or the error."""
        if self._writer is None:
            appended(
                OutcomeUnknown(
                    f"the writer of partition {self._partition} was lost before a record was appended"
                )
            )
            return
        self._alone, self._appended = records, appended
        self._writer.request()

    def own(self, position: Position) -> None:
        """The claim was read back: entries follow `position`."""
        self.position = position

    def close(self) -> None:
        """Append nothing more and forget what waits."""
        if self._writer is not None:
            self._writer.close()
        self._writer, self._batch, self._appended, self._alone = None, None, None, ()
        self._clean = False
        self._base = None
        self._barriers = 0
        self._waiting.clear()
        self._answered = []

    # Adding

    def add(self, item: Item) -> None:
        """Append the entry of a turn that has ended, or its offset as done; a caller waits for the append."""
        waiting = self._waiting
        waiting.append(item)
        if len(waiting) == 1:  # otherwise one is requested, or will be when the batch under way is settled
            self.request_commit()

    def add_answered(self, offset: int) -> None:
        """Append the offset of a command that is done without an entry; no caller waits for the append."""
        answered = self._answered
        if not answered:  # otherwise one is requested, or will be when the batch under way is settled
            assert self._writer is not None, "an owner that does not own appended"
            self._writer.request(urgent=False)
        elif answered[-2] + answered[-1] == offset:
            answered[-1] += 1
            return
        answered += (offset, 1)

    def add_barrier(self, passed: Callable[[], None]) -> None:
        """Call `passed` when all that was added so far is durable, by an append that is sent from now on.

        A no-op is appended if nothing else is. If this epoch ends first, `passed` is not called.
        """
        self._barriers += 1
        self._waiting.append(DurabilityBarrier(passed))
        self.request_commit()

    def add_base(self, base: Base, passed: Callable[[], None]) -> None:
        """Append that the journal may begin at `base.start`; call `passed` as `add_barrier` does."""
        self._base = base
        self.add_barrier(passed)

    def request_commit(self) -> None:
        """Have what was added appended soon: a caller waits for it."""
        assert self._writer is not None, "an owner that does not own appended"
        self._writer.request()

    def sign_off(self) -> None:
        """Append a last record that says that the stop was clean."""
        self._clean = True
        self.request_commit()

    @property
    def open(self) -> bool:
        """True if there is a writer to append through; False after an append of unknown outcome."""
        return self._writer is not None

    @property
    def idle(self) -> bool:
        """True if nothing waits and nothing is under way."""
        return not self._waiting and not self._answered and self._batch is None and not self._clean

    # What the log's writer calls

    def fill(self, max_bytes: int) -> Sequence[Record]:
        if self._alone:
            return self._alone
        if self._batch is not None or not (self._waiting or self._answered or self._clean):
            return ()
        try:
            return self._encode(self._take(max_bytes))
        except Exception as error:  # noqa: BLE001 - a fault of perdure itself stops this partition, not the log
            self.broke(error)
            return ()

    def _take(self, max_bytes: int) -> list[Item]:
        waiting, size = self._waiting, 0
        taken: list[Item] = []
        while waiting:
            size += len(waiting[0].encoded) + 128
            if taken and size > max_bytes:
                break
            taken.append(waiting.popleft())
        return taken

    def _encode(self, items: list[Item]) -> list[Record]:
        barriers: list[DurabilityBarrier] = []
        if self._barriers:
            barriers = [item for item in items if type(item) is DurabilityBarrier]
            items = [item for item in items if type(item) is not DurabilityBarrier]
            self._barriers -= len(barriers)
        entries = [item for item in items if item.entry is not None]
        completions = [item for item in items if item.entry is None]
        answered, self._answered = self._answered, []
        self._batch = batch = JournalBatch(entries, completions, answered)
        batch.barriers = barriers
        done = runs([item.offset for item in completions], answered) if completions or answered else ()
        low, out = self._marks.marks()
        _, epoch, seq, chain = self.position
        clean, self._clean = self._clean and not self._waiting, self._clean and bool(self._waiting)
        base, self._base = self._base, None
        alone = clean or base is not None  # the marks are in a record of their own
        batch.marks = marks = NoOp(epoch, seq + len(entries) + (base is not None), done, low, out, clean)
        records: list[Record] = []
        last = len(entries) - 1
        newest = self._marks.newest_entry
        in_batch: dict[str, int] = {}  # all before this batch is folded, since one is under way at a time
        for at, item in enumerate(entries):
            entry = item.entry
            assert entry is not None
            link, key = NO_LINK, entry.key
            if entry.outcome not in OUTSIDE and key:  # `in_history`, without a call
                before = in_batch.get(key)
                link = newest(key) if before is None else before - at
                in_batch[key] = at
            if at == last and not alone:
                value, chain = encode_raw_entry(epoch, seq, item.encoded, chain, done, low, out, link)
            else:
                value, chain = encode_raw_entry(epoch, seq, item.encoded, chain, link=link)
            seq += 1
            batch.folded.append(entry)
            records.append(Record(key.encode(), value))
        if base is not None:
            batch.base = base = replace(base, epoch=epoch, seq=seq)
            value, chain = encode_chained(base, chain)
            seq += 1
            records.append(Record(None, value))
        if last < 0 or alone:
            value, chain = encode_chained(marks, chain)
            seq += 1
            records.append(Record(None, value))
        batch.count = len(records)
        batch.position = self.position = Position(self.position.offset, epoch, seq, chain)
        return records

    def acked(self, first_offset: int) -> None:
        if self._alone:
            appended, self._alone, self._appended = self._appended, (), None
            if appended is not None:
                appended(first_offset)
            return
        if self._batch is not None and self._acknowledged(self._batch, first_offset):
            self.proceed()

    def proceed(self) -> None:
        """The batch that was under way is settled: append the next."""
        self._batch = None
        if self._waiting or self._clean:
            self.request_commit()
        elif self._answered and self._writer is not None:
            self._writer.request(urgent=False)  # no caller waits for them: they need no commit of their own

    def broke(self, error: BaseException) -> None:
        """The outcome of what was added, or is under way, is no longer certain: end this epoch."""
        self.close()
        self._lost(error)

    def failed(self, error: BaseException) -> None:
        appended = self._appended
        self.close()
        if appended is not None:
            appended(error)
        else:
            if not isinstance(error, OperatorError):  # which would fail each time: a new claim does not help
                error = OutcomeUnknown(f"an append to the journal of partition {self._partition}: {error}")
            self._lost(error)
