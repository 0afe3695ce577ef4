"""The owner's side of one journal partition: what waits to be appended, and what came of it.

Laws
- One batch is outstanding; its items keep the order in which their turns ended.
- An acked offset that is the expected one settles the batch. A larger one is a gap, to be read first; a
  smaller one is an unknown outcome. Nothing is settled but through `settled`.
- A batch's last record carries the offsets done without an entry, the low mark and the out mark.
- Of a done that was answered already only its offset is kept; it goes with the very next batch, and hurries none.
- After `failed` or `close` nothing computed before is appended again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from perdure.schemas.errors import OperatorError, OutcomeUnknown
from perdure.schemas.journal import (
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
    """A turn that has ended: with an entry (and its encoded form), or as a `done` that waits for its answer."""

    offset: int
    entry: Entry | None
    encoded: bytes


class Proof:
    """A place in the queue: `told()` when what was added before it is durable. Nothing is written for it."""

    __slots__ = ("encoded", "entry", "offset", "told")

    def __init__(self, told: Callable[[], None]) -> None:
        self.offset = -1
        self.entry: Entry | None = None
        self.encoded = b""
        self.told = told


class Marks(Protocol):
    """Who knows how far things have been let out."""

    def marks(self) -> tuple[int, int]:
        """(low mark, out mark) as they stand now."""


class JournalBatch:
    """What is under way: the items it settles, and what folding its records leads to."""

    __slots__ = ("answered", "count", "dones", "entries", "folded", "marks", "position", "proofs")

    def __init__(self, entries: list[Item], dones: list[Item], answered: Sequence[int]) -> None:
        self.entries = entries
        self.dones = dones
        self.answered = answered  # offsets done, whose answers have gone, as runs
        self.count = 0  # records
        self.folded: list[Entry] = []
        self.marks = NoOp(0, 0)  # what its last record says of the batch
        self.proofs: list[Proof] = []  # whom it proves what they wait for
        self.position = Position()  # after its last record; the offset is known when it is acknowledged


class Journal:
    """Appends what an owner's turns did. `settled(batch, first_offset)` and `lost(error)` tell the owner.

    `settled` gives False if it cannot say yet (a gap is to be read); the owner calls `proceed` later.
    """

    def __init__(
        self,
        log: Log,
        partition: int,
        marks: Marks,
        settled: Callable[[JournalBatch, int], bool],
        lost: Callable[[BaseException], None],
    ) -> None:
        self._log = log
        self._partition = partition
        self._marks = marks
        self._settled = settled
        self._lost = lost
        self._writer: Writer | None = None
        self._waiting: deque[Item] = deque()
        self._answered: list[int] = []  # as runs
        self._batch: JournalBatch | None = None
        self._alone: Sequence[Record] = ()  # records that are appended before there are entries of turns
        self._told: Callable[[int | BaseException], None] | None = None
        self._clean = False
        self._proofs = 0  # how many of those that wait are proofs
        self.position = Position()  # after everything handed to the log so far

    # Beginning

    def begin(self, record: Header | Claim, told: Callable[[int | BaseException], None]) -> None:
        """Append a header or claim through a new writer; `told` hears its offset, or the error."""
        self.close()
        self._writer = self._log.writer(self._partition, self)
        self.alone((Record(None, encode_unchained(record)),), told)

    def alone(self, records: Sequence[Record], told: Callable[[int | BaseException], None]) -> None:
        """Append a batch before there are entries of turns; `told` hears the first one's offset, or the error."""
        if self._writer is None:
            told(
                OutcomeUnknown(
                    f"the writer of partition {self._partition} was lost before a record was appended"
                )
            )
            return
        self._alone, self._told = records, told
        self._writer.request()

    def own(self, position: Position) -> None:
        """The claim was read back: entries follow `position`."""
        self.position = position

    def close(self) -> None:
        """Append nothing more and forget what waits."""
        if self._writer is not None:
            self._writer.close()
        self._writer, self._batch, self._told, self._alone = None, None, None, ()
        self._clean = False
        self._proofs = 0
        self._waiting.clear()
        self._answered = []

    # Adding

    def add(self, item: Item) -> None:
        """A turn has ended: its entry, or its offset as done, is to be appended, and somebody waits for that."""
        waiting = self._waiting
        waiting.append(item)
        if len(waiting) == 1:  # else it has been requested, or is when the batch under way is settled
            self.hurry()

    def add_answered(self, offset: int) -> None:
        """A command is done and needs no entry, and nobody waits to hear it."""
        answered = self._answered
        if not answered:  # else it has been requested, or is when the batch under way is settled
            assert self._writer is not None, "an owner that does not own appended"
            self._writer.request(urgent=False)
        elif answered[-2] + answered[-1] == offset:
            answered[-1] += 1
            return
        answered += (offset, 1)

    def prove(self, told: Callable[[], None]) -> None:
        """Call `told` when all that was added so far is durable, by an append that is sent from now on.

        A no-op goes if nothing else does. Whoever waits when this reign ends is told nothing.
        """
        self._proofs += 1
        self._waiting.append(Proof(told))
        self.hurry()

    def hurry(self) -> None:
        """Somebody waits for what was added."""
        assert self._writer is not None, "an owner that does not own appended"
        self._writer.request()

    def sign_off(self) -> None:
        """Append one last record that says the stop was clean."""
        self._clean = True
        self.hurry()

    @property
    def open(self) -> bool:
        """Is there a writer to append through? It goes when an append's outcome is unknown."""
        return self._writer is not None

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is under way."""
        return not self._waiting and not self._answered and self._batch is None and not self._clean

    # What the log's writer calls

    def fill(self, max_bytes: int) -> Sequence[Record]:
        if self._alone:
            return self._alone
        if self._batch is not None or not (self._waiting or self._answered or self._clean):
            return ()
        try:
            return self._encode(self._take(max_bytes))
        except Exception as error:  # noqa: BLE001 - a fault of perdure's own is this partition's, not the log's
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
        proofs: list[Proof] = []
        if self._proofs:
            proofs = [item for item in items if type(item) is Proof]
            items = [item for item in items if type(item) is not Proof]
            self._proofs -= len(proofs)
        entries = [item for item in items if item.entry is not None]
        dones = [item for item in items if item.entry is None]
        answered, self._answered = self._answered, []
        self._batch = batch = JournalBatch(entries, dones, answered)
        batch.proofs = proofs
        done = runs([item.offset for item in dones], answered)
        low, out = self._marks.marks()
        _, epoch, seq, chain = self.position
        clean, self._clean = self._clean and not self._waiting, self._clean and bool(self._waiting)
        batch.marks = marks = NoOp(epoch, seq + len(entries), done, low, out, clean)
        records: list[Record] = []
        last = len(entries) - 1
        for at, item in enumerate(entries):
            entry = item.entry
            assert entry is not None
            if at == last and not clean:
                value, chain = encode_raw_entry(epoch, seq, item.encoded, chain, done, low, out)
            else:
                value, chain = encode_raw_entry(epoch, seq, item.encoded, chain)
            seq += 1
            batch.folded.append(entry)
            records.append(Record(entry.key.encode(), value))
        if last < 0 or clean:
            value, chain = encode_chained(marks, chain)
            seq += 1
            records.append(Record(None, value))
        batch.count = len(records)
        batch.position = self.position = Position(self.position.offset, epoch, seq, chain)
        return records

    def acked(self, first_offset: int) -> None:
        if self._alone:
            told, self._alone, self._told = self._told, (), None
            if told is not None:
                told(first_offset)
            return
        if self._batch is not None and self._settled(self._batch, first_offset):
            self.proceed()

    def proceed(self) -> None:
        """The batch that was under way is settled: the next may go."""
        self._batch = None
        if self._waiting or self._clean:
            self.hurry()
        elif self._answered and self._writer is not None:
            self._writer.request(
                urgent=False
            )  # nobody waits for them: a commit of their own would be for nobody

    def broke(self, error: BaseException) -> None:
        """What was added, or is under way, is not certain any more: this reign is over."""
        self.close()
        self._lost(error)

    def failed(self, error: BaseException) -> None:
        told = self._told
        self.close()
        if told is not None:
            told(error)
        else:
            if not isinstance(error, OperatorError):  # else it would fail each time: no new claim helps
                error = OutcomeUnknown(f"an append to the journal of partition {self._partition}: {error}")
            self._lost(error)
