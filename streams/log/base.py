"""The contract of a log, which everything above it uses, whichever log is configured.

A command is appended to a log, read from it by its owner's tail, and its entry is
appended to the journal by a `Writer`.

Laws
- A record's offset never changes; offsets of one (topic, partition) rise, with gaps on some logs.
- `append` never blocks. Its receipt becomes durable, or fails: `Unavailable` means certainly not written,
  `OutcomeUnknown` that it may be written, now or later. Nothing is appended twice.
- The journal is written through one `Writer` per partition, one batch at a time. The records of a batch are
  contiguous and in order; after `failed` they may be on the log or not, now or later.
- `tail` delivers accepted records in order from an offset, to one receiver; `read` returns only durable ones.
- `ordered`: a durable record implies that all earlier ones, of any topic, are durable.
- `exclusive`: no other process can write.
- A record's stamp (`LogRecord.time_ms`) is the time by the log's clock when it was appended. It may be wrong,
  and may fall: what counts is the log time that an owner makes of it (log_time.py). [all:
  tests/contract/test_log.py]
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

import msgspec

Headers = tuple[tuple[str, bytes], ...]
Progress = Callable[[int, int, int], None]  # of a long read: partition, how many records, of how many


class Topic(StrEnum):
    """The four topics of an app. On Kafka they are named `{app}.commands` and so on."""

    COMMANDS = "commands"
    JOURNAL = "journal"
    REPLIES = "replies"
    DEAD = "dead"


class Record(msgspec.Struct, gc=False, frozen=True):
    """A record to append, before the log has given it an offset and a time."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()


def size_bytes(record: Record | LogRecord) -> int:
    """The record's size in a batch on Kafka, or a little more; on any log bounds are compared with it."""
    size = 40 + (len(record.key) if record.key else 0) + (len(record.value) if record.value else 0)
    for name, value in record.headers:
        size += 4 * len(name) + len(value) + 10
    return size


class LogRecord(msgspec.Struct, eq=False):
    """A record on the log, at its offset.

    `memo` may carry the decoded form of a record that was appended by this process, so that its reader need
    not decode it again. `write` identifies the batch it lies in (see `Log.shares_write`). `packed` is what
    the log wrote for it, the MessagePack of time, key, value and headers, if it was appended by this process
    and is small.
    """

    offset: int
    time_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    memo: Any = None
    write: Any = None
    packed: bytes = b""

    def __repr__(self) -> str:
        return f"LogRecord(offset={self.offset}, key={self.key!r}, value={self.value!r})"


class Receipt(Protocol):
    """The result of `append`: it reports when the record is durable, or that it failed."""

    @property
    def offset(self) -> int | None:
        """The record's offset if the log knows it already (embedded: at once; Kafka: when durable)."""

    def when_durable(self, then: Callable[[BaseException | None], None]) -> None:
        """Call `then(None)` when the record is durable, or `then(error)`; at once if the outcome is known.

        `error` is an `Unavailable` (not written) or an `OutcomeUnknown`.
        """


def durable(receipt: Receipt) -> asyncio.Future[None]:
    """A future that is done when the record is durable, or raises the error that `when_durable` reports."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    receipt.when_durable(settle)
    return future


class WriterSource(Protocol):
    """The journal's side of a `Writer`: it fills batches, and is called back with their outcome.

    All three methods are called from the log's own callbacks and must not block.
    """

    def fill(self, max_bytes: int) -> Sequence[Record]:
        """The next batch: at least one record if there is any, then more up to about `max_bytes`."""

    def acked(self, first_offset: int) -> None:
        """The batch that `fill` returned last is durable, at `first_offset` and the offsets after it."""

    def failed(self, error: BaseException) -> None:
        """The outcome of the batch is unknown; or, with an `OperatorError`, it was
        not and cannot be appended.

        The writer has ended; `Log.writer` makes a new one.
        """


class Writer(Protocol):
    """Appends batches to one journal partition, one at a time."""

    def request(self, *, urgent: bool = True) -> None:
        """Request that the source is called to fill a batch; if not urgent, it may
        wait a few ms for further records.
        """

    def close(self) -> None:
        """Send nothing more. A batch in flight may still be written; the source is not called back."""


class Tail(Protocol):
    """A reader of accepted records.

    `blocked`: why records on the log cannot be read at present, nor any behind them; empty if they can.
    """

    @property
    def blocked(self) -> str: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None: ...


class Trouble(NamedTuple):
    """A problem of a topic that does not stop any partition by itself; a node with one is not ready.

    `state` names it in two or three words, `reason` says what to do. `partition`:
    None if it concerns the whole topic.
    """

    topic: str
    partition: int | None
    state: str
    reason: str


class Stamped(NamedTuple):
    """An offset and the log time of the record there."""

    offset: int
    time_ms: int


class Bounds(NamedTuple):
    """The first offset that is kept, and the offset after the last durable record."""

    start: int
    end: int


def silent(partition: int, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


class Readable(Protocol):
    """A log that is only read."""

    @property
    def exclusive(self) -> bool:
        """See `Log`."""

    @property
    def partitions(self) -> int:
        """How many partitions each of its topics has."""

    async def bounds(self, topic: Topic, partition: int) -> Bounds:
        """As `Log.bounds`."""

    async def since(self, topic: Topic, partition: int, time_ms: int) -> Stamped | None:
        """As `Log.since`."""

    def read(self, topic: Topic, partition: int, start: int, end: int) -> AsyncIterator[Sequence[LogRecord]]:
        """As `Log.read`."""

    async def close(self) -> None: ...


class Followed(Protocol):
    """A log that a process follows which is not a node: it is read while nodes write it.

    `generation` names its topics: after a rescale there are others, with records of their own.
    """

    exclusive: bool
    partitions: int
    generation: str

    async def all_bounds(self, topic: Topic) -> dict[int, Bounds]:
        """The bounds of each partition of a topic; empty while the log does not exist."""

    def read(self, topic: Topic, partition: int, start: int, end: int) -> AsyncIterator[Sequence[LogRecord]]:
        """As `Log.read`; `end` is at most that of `all_bounds`."""

    async def close(self) -> None: ...


class ReplyTopics(Protocol):
    """Topics of other systems on the log's brokers, which replies may go to."""

    def append(
        self,
        topic: str,
        partition: int | None,
        record: Record,
        then: Callable[[BaseException | None], None],
    ) -> None:
        """Send a reply once, and call `then` with None, or the error if it is given up.

        Args:
            topic: the topic's name.
            partition: None to choose one by the record's key.
            record: the reply.
            then: receives the outcome, never before this returns.
        """


class Log(Protocol):
    """The log of one app. Call `start` first; `close` flushes what was accepted."""

    partitions: int
    ordered: bool
    exclusive: bool
    generation: str  # see `Followed`
    reply_topics: ReplyTopics | None

    async def start(self) -> None:
        """Open or connect, create topics that do not exist.

        Raises `LogUnreachable`, `LogCorrupt`, `DataDirError` or `ConfigError` (partition count differs).
        """

    async def close(self) -> None: ...

    def append(self, topic: Topic, partition: int, record: Record, memo: Any = None) -> Receipt:
        """Append one record.

        topic: commands, replies or dead; the journal has its `writer`.
        partition: one of the topic.
        record: key, value and headers; the log adds offset and time.
        memo: what a tail of this process gets with the record; None for nothing.

        Raises `TooLarge`, without appending, where the size of records is limited.
        """

    def writer(self, partition: int, source: WriterSource) -> Writer:
        """A new writer for a journal partition; it closes the previous one of this process."""

    def shares_write(self, record: LogRecord) -> bool:
        """True if a journal record requested now would survive a crash exactly when `record` does."""

    def tail(self, topic: Topic, partition: int, start: int, deliver: Callable[[LogRecord], None]) -> Tail:
        """Deliver accepted records: first those that exist, then each that is appended.

        topic, partition: where to read.
        start: the first offset.
        deliver: called with each record, in order.

        If offsets from `start` on were removed or never existed, no record is skipped silently: the log calls
        its `on_stopped` with a `LogCorrupt` that names topic, partition and offset.
        """

    def read(self, topic: Topic, partition: int, start: int, end: int) -> AsyncIterator[Sequence[LogRecord]]:
        """Durable records in chunks. Waits until all of the range are durable.

        topic, partition: where to read.
        start: the first offset.
        end: the first offset behind the range.
        """

    async def bounds(self, topic: Topic, partition: int) -> Bounds: ...

    async def since(self, topic: Topic, partition: int, time_ms: int) -> Stamped | None:
        """The first durable record that is not older than `time_ms`, by one request; None if there is none.

        Only logs that are not `exclusive` have it: the others are searched as quickly by reading.
        """

    async def trim(self, topic: Topic, partition: int, before: int) -> None:
        """Remove records below `before`. Those of the journal only behind a verified snapshot."""

    async def sizes(self) -> dict[Topic, int]:
        """Approximate bytes on disk per topic; empty if the log cannot say."""

    @property
    def topic_ids(self) -> Mapping[str, str]:
        """The id of each topic, which no other topic of that name ever has, by
        `Topic`; empty where there are none.
        """

    @property
    def troubles(self) -> Sequence[Trouble]:
        """The present problems of the topics."""

    on_stopped: Callable[[BaseException], None]
    """Set by the node. Called if the log as a whole cannot go on (an I/O error, or corruption)."""


def recreated(topic: str, was: str, is_: str) -> str:
    """The text of the error for a topic whose id is not the one that the app knows."""
    return (
        f"the topic of the {topic} is not the one that this app was served with: its id was {was} and is {is_}. It was "
        "deleted and created again, or these are the brokers of another cluster; nothing was changed. Restore the topic "
        "or correct the address. If it is to be used as it is (restored from a backup, say), run `perdure state adopt`"
    )


class Local:
    """The parts of `Log` that a log of one process does not need: ids and problems
    of topics, an index by time.
    """

    generation = "log"
    topic_ids: Mapping[str, str] = {}
    troubles: Sequence[Trouble] = ()
    reply_topics: ReplyTopics | None = None

    async def since(self, topic: Topic, partition: int, time_ms: int) -> Stamped | None:
        """See `Log.since`."""
        raise NotImplementedError("a log of one process is searched by reading")
