"""The logs that the contract suite runs against, and what its stories are told with.

A new log joins with one `LogMaker` in `MAKERS`.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.kafka import or_skip, session_kafka

from perdure.schemas.errors import PerdureError
from perdure.streams.log.base import Log, LogRecord, Receipt, Record, Topic
from perdure.streams.log.embedded.log import EmbeddedLog
from perdure.streams.log.kafka.log import KafkaLog
from perdure.streams.log.memory.log import MemoryBroker, MemoryLog

PATIENCE_S = 30.0  # an upper bound for what is waited for, never a pause


@dataclass(frozen=True)
class LogMaker:
    """`make(path, partitions, clock_ms)` gives a log not yet started; it may call `pytest.skip`.

    `path` is new for each test: where the log lies, or what its name comes from. `persistent`: made again
    with the same path it holds what it held. `clocked`: its log time comes from `clock_ms`.
    """

    name: str
    make: Callable[[Path, int, Callable[[], int]], Log]
    persistent: bool = True
    clocked: bool = True


def _embedded(path: Path, partitions: int, clock_ms: Callable[[], int]) -> Log:
    return EmbeddedLog(path / "log", partitions, clock_ms=clock_ms)


_SESSION = uuid.uuid4().hex  # a Kafka that outlives the tests has the topics of earlier ones


def _kafka(path: Path, partitions: int, clock_ms: Callable[[], int]) -> Log:
    bootstrap = or_skip(session_kafka).bootstrap
    app = "test-" + hashlib.sha256(f"{_SESSION}{path}".encode()).hexdigest()[:12]
    return KafkaLog(bootstrap, app, partitions, clock_ms=clock_ms)


def _memory(ordered: bool) -> Callable[[Path, int, Callable[[], int]], Log]:
    return lambda path, partitions, clock_ms: MemoryLog(
        MemoryBroker(partitions, ordered=ordered, exclusive=ordered, clock_ms=clock_ms)
    )


MAKERS = [
    LogMaker("embedded", _embedded),
    LogMaker("memory, ordered", _memory(True), persistent=False),
    LogMaker("memory", _memory(False), persistent=False),
    LogMaker("kafka", _kafka, clocked=False),
]


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.ms


@asynccontextmanager
async def running(
    maker: LogMaker, path: Path, partitions: int = 1, clock: Clock | None = None
) -> AsyncIterator[Log]:
    """A started log that must not stop by itself, closed at the end."""
    log = maker.make(path, partitions, clock or Clock())
    stopped: list[BaseException] = []
    log.on_stopped = stopped.append
    await log.start()
    try:
        yield log
    finally:
        await log.close()
    assert not stopped, f"the log stopped: {stopped}"


class Inbox:
    """Receives what a tail delivers, and can be waited on."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []
        self._came = asyncio.Event()

    def __call__(self, record: LogRecord) -> None:
        self.records.append(record)
        self._came.set()

    async def has(self, count: int) -> list[bytes | None]:
        """Wait for `count` records; gives the values of all that came."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.records) < count:
                self._came.clear()
                await self._came.wait()
        return self.values

    @property
    def values(self) -> list[bytes | None]:
        return [record.value for record in self.records]


class Source:
    """A journal's source: gives what `add` queued, notes what it is asked and told."""

    def __init__(self, limit: int = 1_000_000) -> None:
        self.queued: list[Record] = []
        self.under_way: list[Record] = []
        self.limit = limit  # of records in one batch
        self.batches: list[tuple[int, list[bytes | None]]] = []  # acknowledged: first offset, values
        self.failure: BaseException | None = None
        self.fills = 0
        self.on_acked: Callable[[], None] = lambda: None
        self._told = asyncio.Event()

    def add(self, *values: bytes) -> None:
        self.queued += [Record(b"key", value) for value in values]

    def fill(self, max_bytes: int) -> Sequence[Record]:
        assert not self.under_way, "asked for a batch while one was outstanding"
        assert max_bytes > 0
        self.fills += 1
        self.under_way, self.queued = self.queued[: self.limit], self.queued[self.limit :]
        return self.under_way

    def acked(self, first_offset: int) -> None:
        self.batches.append((first_offset, [record.value for record in self.under_way]))
        self.under_way = []
        self._told.set()
        self.on_acked()

    def failed(self, error: BaseException) -> None:
        self.failure = error
        self._told.set()

    async def has_acked(self, records: int) -> None:
        """Wait until as many records are acknowledged, or the writer has failed."""
        async with asyncio.timeout(PATIENCE_S):
            while self.failure is None and sum(len(values) for _, values in self.batches) < records:
                self._told.clear()
                await self._told.wait()


async def outcome(receipt: Receipt) -> BaseException | None:
    """Wait until it is known: None if the record is durable."""
    known: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    receipt.when_durable(known.set_result)
    async with asyncio.timeout(PATIENCE_S):
        return await known


async def add(log: Log, topic: Topic, partition: int, *records: Record) -> list[int]:
    """Append durably; gives the offsets."""
    receipts = [log.append(topic, partition, record) for record in records]
    for receipt in receipts:
        error = await outcome(receipt)
        if error is not None:
            assert isinstance(error, PerdureError)
            raise error
    offsets = [receipt.offset for receipt in receipts]
    assert all(offset is not None for offset in offsets)
    return [offset for offset in offsets if offset is not None]


def numbered(*numbers: int) -> list[Record]:
    return [Record(b"key", b"%d" % number) for number in numbers]


async def contents(log: Log, topic: Topic, partition: int, start: int | None = None) -> list[LogRecord]:
    """All durable records, from `start` on if given."""
    bounds = await log.bounds(topic, partition)
    found: list[LogRecord] = []
    first = bounds.start if start is None else start
    async with asyncio.timeout(PATIENCE_S):
        async for chunk in log.read(topic, partition, first, bounds.end):
            found += chunk
    return found
