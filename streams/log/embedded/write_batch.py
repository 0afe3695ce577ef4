"""The records that the embedded log commits together, the receipts of these
records, and the journal's writers.

Each appended record goes into the open `CommitBatch`. When it is sealed, `log.py` writes it with one write
and one fsync, and then calls back everything that waits for its outcome.

Laws
- A batch is open, then sealed, then over. Each callback that waits for its outcome is called once.
- Callbacks are called in log order, and one that raises does not prevent the others. [test_embedded_tail.py]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import itemgetter

import msgspec
from rocksdict import WriteBatch

from perdure.streams.log.base import LogRecord, WriterSource
from perdure.streams.log.embedded.tail import EmbeddedStream

Outcome = Callable[[BaseException | None], None]
_place_of = itemgetter(0)


class CommitBatch(msgspec.Struct, eq=False):
    """Records that become durable together, and the callbacks that wait for that."""

    request_commit: Callable[[], None] | None  # None once it is sealed
    write: WriteBatch = msgspec.field(default_factory=partial(WriteBatch, raw_mode=True))
    count: int = 0
    last_change: int = 0  # the number that RocksDB gave to its last change, once it is written
    touched: list[EmbeddedStream] = []  # each has one of its own, as with all defaults
    waiters: list[tuple[int, Outcome]] = []  # with their place in the batch
    over: bool = False
    error: BaseException | None = None

    def when_over(self, place: int, then: Outcome) -> None:
        """Call `then` when the outcome is known, and request a commit, so that this is soon."""
        if self.over:
            then(self.error)
            return
        self.waiters.append((place, then))
        if self.request_commit is not None:
            self.request_commit()

    def finish(self, error: BaseException | None) -> Exception | None:
        """Call back all that wait, in log order; returns the first exception that one of them raised."""
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
    """A record that was appended, and its own `perdure.streams.log.base.Receipt`;
    `place` is its place in the batch `write`.
    """

    place: int = 0

    def when_durable(self, then: Outcome) -> None:
        self.write.when_over(self.place, then)


class RefusedReceipt:
    """The receipt of a record that was certainly not written."""

    __slots__ = ("_error",)
    offset = None

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def when_durable(self, then: Outcome) -> None:
        then(self._error)


class EmbeddedWriter:
    """See `perdure.streams.log.base.Writer`. `request` is the log's, for this writer."""

    __slots__ = ("closed", "request", "source", "stream")
    request: Callable[..., None]

    def __init__(self, stream: EmbeddedStream, source: WriterSource) -> None:
        self.stream = stream
        self.source = source
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def finished(self, first_offset: int, error: BaseException | None) -> None:
        """The batch that lies at `first_offset` is durable, or failed with `error`."""
        if self.closed:
            return
        if error is None:
            self.source.acked(first_offset)
        else:
            self.closed = True
            self.source.failed(error)
