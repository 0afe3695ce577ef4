"""The log: what everything above it may ask, whichever log it is.

Laws
- A record's offset never changes; offsets of one (topic, partition) rise, with gaps on some logs.
- `append` never blocks. Its receipt becomes durable, or fails: `Unavailable` = certainly not written,
  `OutcomeUnknown` = may or may not be there, now or later. Nothing is appended twice.
- The journal is written through one `Writer` per partition, one batch outstanding. A batch's records
  are contiguous and in order, or (after `failed`) may be there or not, now or later.
- `tail` delivers accepted records in order from an offset, to one receiver; `read` sees only durable ones.
- `ordered`: a durable record implies that all earlier ones, of any topic, are durable.
- `exclusive`: nobody but this process can write.
- A record's stamp (`LogRecord.time_ms`) is the time by the log's clock when it was appended. It may be wrong, and may
  fall: what counts is the log time that an owner makes of it (log_time.py).
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
    """What is appended: a Kafka record before the log has given it a place and a time."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()


def size_bytes(record: Record | LogRecord) -> int:
    """The record's size in a batch on Kafka, or a little more; on any log it is what bounds are compared with."""
    size = 40 + (len(record.key) if record.key else 0) + (len(record.value) if record.value else 0)
    for name, value in record.headers:
        size += 4 * len(name) + len(value) + 10
    return size


class LogRecord(msgspec.Struct, eq=False):
    """A record in its place.

    `memo` may carry the decoded form of a record that was appended by this process, so that the tail
    need not decode it again; `write` identifies the write batch it lies in (see `Log.shares_write`). `packed`: what the log
    wrote for it, the MessagePack of time, key, value and headers, if it was appended by this process and is small.
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
    """What `append` gives at once."""

    @property
    def offset(self) -> int | None:
        """The record's offset if the log knows it already (embedded: at once; Kafka: when durable)."""

    def when_durable(self, then: Callable[[BaseException | None], None]) -> None:
        """Call `then(None)` when the record is durable, `then(error)` if that is not so or not known.

        `error` is an `Unavailable` (not written) or an `OutcomeUnknown`. Called at once if already known.
        """


def durable(receipt: Receipt) -> asyncio.Future[None]:
    """Done when the record is durable; raises what `when_durable` tells else."""
    told: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tell(error: BaseException | None) -> None:
        if told.done():
            return
        if error is None:
            told.set_result(None)
        else:
            told.set_exception(error)

    receipt.when_durable(tell)
    return told


class WriterSource(Protocol):
    """The journal's side of a `Writer`: it is asked for records and told what became of them.

    All three are called from the log's own callbacks and must not block.
    """

    def fill(self, max_bytes: int) -> Sequence[Record]:
        """The next batch: at least one record if there is any, then more up to about `max_bytes`."""

    def acked(self, first_offset: int) -> None:
        """The batch that `fill` gave last is durable, at `first_offset` and the offsets after it."""

    def failed(self, error: BaseException) -> None:
        """The outcome of the batch is unknown; or, with an `OperatorError`, it was not and cannot be appended.

        The writer is finished: ask the log for a new one.
        """


class Writer(Protocol):
    """Appends batches to one journal partition, one outstanding at a time."""

    def request(self, *, urgent: bool = True) -> None:
        """There is something to fill. Not urgent: it may ride along with later records for a few ms."""

    def close(self) -> None:
        """Send nothing more. What is under way may still land; the source hears nothing of it."""


class Tail(Protocol):
    """A reader of accepted records.

    `blocked`: why records that are on the log cannot be read for now, and nothing behind them; empty: they can.
    """

    @property
    def blocked(self) -> str: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None: ...


class Trouble(NamedTuple):
    """Something wrong with a topic that stops no partition by itself: a node with one is not ready.

    `state` is two or three words for it, `reason` says what to do. `partition`: None if it concerns the whole topic.
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
    """First offset kept and the offset after the last durable record."""

    start: int
    end: int


def silent(partition: int, done: int, total: int) -> None:
    """No progress is shown."""


class Readable(Protocol):
    """A log as far as it is only read."""

    @property
    def exclusive(self) -> bool:
        """See `Log`."""

    def read(self, topic: Topic, partition: int, start: int, end: int) -> AsyncIterator[Sequence[LogRecord]]:
        """See `Log.read`."""

    async def close(self) -> None: ...


class Log(Protocol):
    """One app's topics. `start` before anything else; `close` flushes what was accepted."""

    partitions: int
    ordered: bool
    exclusive: bool

    async def start(self) -> None:
        """Open or connect, create topics that do not exist.

        Raises `LogUnreachable`, `LogCorrupt`, `DataDirError` or `ConfigError` (partition count differs).
        """

    async def close(self) -> None: ...

    def append(self, topic: Topic, partition: int, record: Record, memo: Any = None) -> Receipt:
        """Append one record to commands, replies or dead (the journal has its `writer`).

        Raises `TooLarge`, nothing appended, where records have a bound.
        """

    def writer(self, partition: int, source: WriterSource) -> Writer:
        """A new writer for a journal partition; an earlier one of this process is closed by it."""

    def shares_write(self, record: LogRecord) -> bool:
        """Would a journal record requested now survive a crash exactly when `record` does?"""

    def tail(self, topic: Topic, partition: int, start: int, deliver: Callable[[LogRecord], None]) -> Tail:
        """Deliver accepted records from `start` on (first those that exist, then as they come).

        If offsets from `start` on have been removed or never existed, `deliver` is never skipped
        silently: the log calls its `on_stopped` with `LogCorrupt` naming topic, partition and offset.
        """

    def read(self, topic: Topic, partition: int, start: int, end: int) -> AsyncIterator[Sequence[LogRecord]]:
        """Durable records with start <= offset < end, in chunks, until the one before `end` was seen."""

    async def bounds(self, topic: Topic, partition: int) -> Bounds: ...

    async def since(self, topic: Topic, partition: int, time_ms: int) -> Stamped | None:
        """The first durable record that is not older than `time_ms`, by one question; None: there is none.

        Of logs that are not `exclusive`: the others are searched as quickly by reading.
        """

    async def trim(self, topic: Topic, partition: int, before: int) -> None:
        """Remove records below `before` (commands, replies and dead only)."""

    async def sizes(self) -> dict[Topic, int]:
        """Approximate bytes on disk per topic; empty where the log cannot say."""

    @property
    def topic_ids(self) -> Mapping[str, str]:
        """What tells these topics from others that had or get their names, by `Topic`; empty where there is no such."""

    @property
    def troubles(self) -> Sequence[Trouble]:
        """What is wrong with the topics now."""

    on_stopped: Callable[[BaseException], None]
    """Set by the node: the log as a whole cannot go on (I/O error, connection lost for good)."""


def recreated(topic: str, was: str, is_: str) -> str:
    """What an operator is told of a topic that has another id than the app knows."""
    return (
        f"the topic of the {topic} is not the one that this app was served with: its id was {was} and is {is_}. It was "
        "deleted and created again, or these are the brokers of another cluster; nothing was changed. Restore the topic "
        "or correct the address. If it is to be used as it is (restored from a backup, say), run `perdure state adopt`"
    )


class Local:
    """What a log that belongs to one process need not have: topics that could be another's, or an index by time."""

    topic_ids: Mapping[str, str] = {}
    troubles: Sequence[Trouble] = ()

    async def since(self, topic: Topic, partition: int, time_ms: int) -> Stamped | None:
        """See `Log.since`."""
        raise NotImplementedError("a log of one process is searched by reading")
