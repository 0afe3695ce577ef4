"""The log in memory, from the broker's side: its streams, its one commit for all, and how it misbehaves.

Laws
- A `MemoryBroker` outlives its clients (streams/log/memory/log.py). What is durable here is never forgotten.
- `ordered`: records are accepted at once, into one open write; a write is sealed with the journal's records
  behind the commands, and becomes durable whole. A crash of the process forgets the open write, and may or
  may not forget the one under way.
- `exclusive`: a second client is refused while the first lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, Protocol

from perdure.schemas.errors import DataDirError
from perdure.streams.log.base import LogRecord, Record, Topic
from perdure.streams.log.log_time import log_time

OnOutcome = Callable[[BaseException | None], None]


class Client(Protocol):
    """A process's client of the log, as the broker sees it."""

    name: str
    alive: bool

    @property
    def wants(self) -> bool: ...

    def fill_all(self, write: Write) -> None: ...


class Waker(Protocol):
    """A tail, as the broker sees it."""

    def wake(self) -> None: ...


class Faults:
    """The faults of a log. Here there are none: everything takes one pass of the loop."""

    def delay_s(self, step: str) -> float:
        """How long a step takes: append, ack, deliver, commit, sync, read."""
        return 0.0

    def fate(self, step: str) -> str:
        """What becomes of a request: `ok`; `lost` lands, its ack doesn't; `never`
        lands; `late` lands after it was given up."""
        return "ok"

    timeout_s = 1.0
    queued_max = (
        20_000  # records of a partition that wait at a client, where it is not ordered: more are refused
    )

    def late_s(self) -> float:
        """How long after it was given up a late batch lands."""
        return 0.0


class Write:
    """Records that become durable together (ordered logs)."""

    def __init__(self) -> None:
        self.starts: dict[MemoryStream, int] = {}
        self.waiters: list[OnOutcome] = []
        self.over = False


class MemoryStream:
    """One partition of one topic."""

    def __init__(self, topic: Topic, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.start = 0
        self.records: list[LogRecord] = []
        self.durable = 0
        self.last_time_ms = 0
        self.tails: list[Waker] = []

    @property
    def end(self) -> int:
        return self.start + len(self.records)

    def place(self, record: Record, time_ms: int, memo: Any, write: Any) -> LogRecord:
        self.last_time_ms = log_time(self.last_time_ms, time_ms, time_ms)
        placed = LogRecord(self.end, self.last_time_ms, record.key, record.value, record.headers, memo, write)
        self.records.append(placed)
        return placed

    def between(self, start: int, end: int) -> list[LogRecord]:
        return self.records[max(start - self.start, 0) : max(end - self.start, 0)]


class MemoryBroker:
    """The log, shared by its clients; it outlives them.

    partitions: of each topic.
    ordered, exclusive: as in `perdure.streams.log.base.Log`.
    clock_ms: the clock that stamps records, in ms since 1970.
    faults: what goes wrong, and how long steps take; None for nothing.
    """

    def __init__(
        self,
        partitions: int = 1,
        *,
        ordered: bool = True,
        exclusive: bool = True,
        clock_ms: Callable[[], int],
        faults: Faults | None = None,
    ) -> None:
        self.partitions = partitions
        self.ordered = ordered
        self.exclusive = exclusive
        self.clock_ms = clock_ms
        self.faults = faults or Faults()
        self.streams = {(topic, p): MemoryStream(topic, p) for topic in Topic for p in range(partitions)}
        self.topic_ids: dict[str, str] = {}
        self.clients: list[Client] = []
        self.open = Write()
        self.in_flight: Write | None = None
        self._committing = False
        self._crashes = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def join(self, client: Client) -> None:
        """A client comes. Raises `DataDirError` if the log is exclusive and in use."""
        living = [each for each in self.clients if each.alive]
        if self.exclusive and living:
            raise DataDirError(f"the log is in use by {living[0].name}: one process at a time")
        self.clients.append(client)

    def accept(self, stream: MemoryStream, records: Sequence[Record], memo: Any = None) -> int:
        """Take records in; the first one's offset."""
        first = stream.end
        if self.ordered:
            self.open.starts.setdefault(stream, first)
        now_ms = self.clock_ms()
        for record in records:
            stream.place(record, now_ms, memo, self.open if self.ordered else None)
        if not self.ordered:
            stream.durable = stream.end
        for tail in stream.tails:
            tail.wake()
        return first

    # One commit for all (ordered)

    def request(self) -> None:
        """Commit soon."""
        if not self._committing:
            self._committing = True
            delay_s = self.faults.delay_s("commit")
            self.loop.call_later(delay_s, self._seal, self._crashes, context=Context())

    def _seal(self, crashes: int) -> None:
        if crashes != self._crashes:
            return  # what was to be sealed is gone
        write = self.open
        for client in [each for each in self.clients if each.alive]:
            client.fill_all(write)
        self.open, self.in_flight = Write(), write
        self.loop.call_later(self.faults.delay_s("sync"), self._synced, write, context=Context())

    def _synced(self, write: Write) -> None:
        if self.in_flight is not write:
            return  # a crash came first
        self.in_flight, self._committing, write.over = None, False, True
        for stream in write.starts:
            stream.durable = max(stream.durable, self._sealed_end(stream))
        waiters, write.waiters = write.waiters, []
        for on_outcome in waiters:
            on_outcome(None)
        if self.open.starts or any(client.wants for client in self.clients if client.alive):
            self.request()

    def _sealed_end(self, stream: MemoryStream) -> int:
        return self.open.starts.get(stream, stream.end)

    def crash(self, *, keep_in_flight: bool) -> None:
        """The process that holds an ordered log dies: what was not written is
        forgotten, whole writes at a time.
        """
        self._crashes += 1
        lost = [self.open] if keep_in_flight or self.in_flight is None else [self.open, self.in_flight]
        for write in lost:
            for stream, start in write.starts.items():
                del stream.records[max(start - stream.start, 0) :]
        self.open, self.in_flight, self._committing = Write(), None, False
        for stream in self.streams.values():
            stream.durable = stream.end
            for record in stream.records:
                record.memo = None  # it was in the memory of the dead process
