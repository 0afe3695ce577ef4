"""The embedded log's write batch, and what `append` and `writer` give out for it.

Laws
- A batch is open, then sealed, then over; whoever asks for its outcome is told once.
- All are told in log order, and one that raises does not keep the others from being told.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter

from rocksdict import WriteBatch

from perdure.streams.log.base import LogRecord, WriterSource
from perdure.streams.log.embedded.tail import EmbeddedStream

Outcome = Callable[[BaseException | None], None]
_place_of = itemgetter(0)
SMALL_RECORDS, SMALL_BYTES = 2, 64 * 1024


class CommitBatch:
    """Records that become durable together, and who is to be told."""

    __slots__ = ("count", "error", "hurry", "last_change", "over", "touched", "waiters", "write")

    def __init__(self, hurry: Callable[[], None]) -> None:
        self.write = WriteBatch(raw_mode=True)
        self.count = 0
        self.last_change = 0  # the number that RocksDB gave its last change, once it is written
        self.touched: list[EmbeddedStream] = []
        self.waiters: list[tuple[int, Outcome]] = []  # with their place in the batch
        self.hurry: Callable[[], None] | None = hurry  # None once it is sealed
        self.over = False
        self.error: BaseException | None = None

    @property
    def small(self) -> bool:
        """Is it about one command and its entry, and not a large one? Ask before it is written."""
        return self.count <= SMALL_RECORDS and self.write.size_in_bytes() <= SMALL_BYTES

    def tell(self, place: int, then: Outcome) -> None:
        """Call `then` when the outcome is known, and see to it that this is soon."""
        if self.over:
            then(self.error)
            return
        self.waiters.append((place, then))
        if self.hurry is not None:
            self.hurry()

    def finish(self, error: BaseException | None) -> Exception | None:
        """Tell all, in log order; returns what the first of them to fail raised."""
        self.over, self.error = True, error
        waiters, self.waiters = self.waiters, []
        waiters.sort(key=_place_of)
        first: Exception | None = None
        for _, then in waiters:
            try:
                then(error)
            except Exception as raised:  # noqa: BLE001 - whatever a callback raises
                first = first or raised
        return first


class Appended(LogRecord, eq=False):
    """A record in memory, and its own `perdure.streams.log.base.Receipt`; it stands at this place in the batch `write`."""

    place: int = 0

    def when_durable(self, then: Outcome) -> None:
        self.write.tell(self.place, then)


class RefusedReceipt:
    """The receipt of a record that was certainly not written."""

    __slots__ = ("_error",)
    offset = None

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def when_durable(self, then: Outcome) -> None:
        then(self._error)


class EmbeddedWriter:
    """See `perdure.streams.log.base.Writer`. `ask(writer, urgent)` asks the log for a fill."""

    __slots__ = ("_ask", "closed", "source", "stream")

    def __init__(
        self, stream: EmbeddedStream, source: WriterSource, ask: Callable[[EmbeddedWriter, bool], None]
    ) -> None:
        self.stream = stream
        self.source = source
        self.closed = False
        self._ask = ask

    def request(self, *, urgent: bool = True) -> None:
        if not self.closed:
            self._ask(self, urgent)

    def close(self) -> None:
        self.closed = True

    def told(self, first_offset: int, error: BaseException | None) -> None:
        """The outcome of the batch that lies at `first_offset`."""
        if self.closed:
            return
        if error is None:
            self.source.acked(first_offset)
        else:
            self.closed = True
            self.source.failed(error)
