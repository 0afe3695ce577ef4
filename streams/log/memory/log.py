"""The log in memory: for tests and simulation, with the faults a real one has. Ships with the product.

A `MemoryBroker` is the log itself; a `MemoryLog` is one process's client of it.

Laws
- Not `ordered`: as on Kafka. A record is accepted when it is durable; requests land after a delay, their
  acknowledgements may be lost, a batch given up for unknown may land late, after whatever came in between.
- `ordered`: as on disk. Records are accepted at once, into one open write; a write is sealed with the
  journal's records behind the commands, and becomes durable whole. A crash of the process forgets the open
  write, and may or may not forget the one under way.
- `exclusive`: a second client is refused while the first lives.
- A killed client hears nothing and sends nothing more; what it has sent may still land.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextvars import Context, copy_context
from typing import Any

from perdure.schemas.errors import LogCorrupt, OutcomeUnknown, Overloaded, Unavailable
from perdure.streams.log.base import Bounds, LogRecord, Record, Stamped, Topic, Trouble, WriterSource
from perdure.streams.log.memory.broker import Faults, MemoryBroker, MemoryStream, OnOutcome, Write

__all__ = ["Faults", "MemoryBroker", "MemoryLog", "MemoryTail"]

FILL_BYTES = 1 << 40
READ_CHUNK = 500
READ_AGAIN_S = 0.001


class _MemoryReceipt:
    __slots__ = ("_error", "_over", "_then", "_write", "offset")

    def __init__(self, offset: int | None = None, write: Write | None = None) -> None:
        self.offset = offset
        self._write = write
        self._then: list[OnOutcome] = []
        self._over = False
        self._error: BaseException | None = None

    def when_durable(self, then: OnOutcome) -> None:
        if self._write is not None and not self._write.over:
            self._write.waiters.append(then)
        elif self._over or self._write is not None:
            then(self._error)
        else:
            self._then.append(then)

    def settle(self, offset: int | None, error: BaseException | None) -> None:
        self.offset, self._error, self._over = offset, error, True
        for then in self._then:
            then(error)
        self._then.clear()


class MemoryTail:
    """See `perdure.streams.log.base.Tail`."""

    def __init__(
        self, log: MemoryLog, stream: MemoryStream, start: int, deliver: Callable[[LogRecord], None]
    ) -> None:
        self.log = log
        self._stream = stream
        self._next = start
        self._deliver = deliver
        self._paused = self._closed = False
        self._delivering = False
        self.blocked = ""
        self._woken = False

    def wake(self) -> None:
        """There may be something to deliver."""
        if self._closed or self._paused or self._delivering:
            return
        if self.log.ordered:
            self._pass_on()
        elif not self._woken:
            self._woken = True
            self.log.later("deliver", self._pass_on)

    def _pass_on(self) -> None:
        self._woken = False
        if self._delivering:
            return
        self._delivering = True
        try:
            while not (self._closed or self._paused) and self._next < self._stream.end:
                if self._next < self._stream.start:
                    self.log.trimmed_away(self._stream, self._next)
                    return
                record = self._stream.records[self._next - self._stream.start]
                self._next += 1
                self._deliver(record)
        finally:
            self._delivering = False

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self.wake()

    def close(self) -> None:
        self._closed = True
        if self in self._stream.tails:
            self._stream.tails.remove(self)


class _MemoryWriter:
    """See `perdure.streams.log.base.Writer`."""

    def __init__(self, log: MemoryLog, stream: MemoryStream, source: WriterSource) -> None:
        self._log = log
        self._stream = stream
        self._source = source
        self._busy = False
        self.wants = False
        self.closed = False

    def request(self, *, urgent: bool = True) -> None:
        if self.closed or not self._log.alive:
            return
        self.wants = True
        if self._log.ordered:
            self._log.broker.request()
        elif not self._busy:
            self._busy = True
            self._log.later("fill", self._send)

    def close(self) -> None:
        self.closed = True

    def fill_into(self, write: Write) -> None:
        """Ordered: the journal's records, behind the commands of the same write."""
        if not self.wants or self.closed:
            return
        self.wants = False
        records = self._source.fill(FILL_BYTES)
        if records:
            first = self._log.broker.accept(self._stream, records)
            write.waiters.append(lambda error: self._acked(first))

    def _send(self) -> None:
        """Not ordered: one request of its own."""
        if self.closed:
            self._busy = False
            return
        self.wants = False
        records = self._source.fill(FILL_BYTES)
        if not records:
            self._busy = False
            return
        broker, faults = self._log.broker, self._log.broker.faults
        fate = faults.fate("journal")
        if fate in ("ok", "lost"):
            broker.loop.call_later(faults.delay_s("append"), self._land, records, fate, context=Context())
            return
        self._log.after(faults.timeout_s, self._give_up)
        if fate == "late":
            when = faults.timeout_s + faults.late_s()
            broker.loop.call_later(when, broker.accept, self._stream, records, context=Context())

    def _land(self, records: Sequence[Record], fate: str) -> None:
        first = self._log.broker.accept(self._stream, records)
        if fate == "lost":
            self._log.after(self._log.broker.faults.timeout_s, self._give_up)
        else:
            self._log.later("ack", self._acked, first)

    def _acked(self, first: int) -> None:
        if not self._log.alive:
            return
        self._busy = False
        if not self.closed:
            self._source.acked(first)
            if self.wants:
                self.request()

    def _give_up(self) -> None:
        self._log.drop_producer(OutcomeUnknown("the log did not answer in time"))

    def fail(self, error: BaseException) -> None:
        """The producer was dropped."""
        if not self.closed:
            self.closed = True
            self._source.failed(error)


class MemoryLog:
    """One process's client. See `perdure.streams.log.base.Log`."""

    def __init__(self, broker: MemoryBroker, name: str = "client") -> None:
        self.broker, self.name, self.generation = broker, name, "log"
        self.partitions = broker.partitions
        self.ordered = broker.ordered
        self.exclusive = broker.exclusive
        self.topic_ids: Mapping[str, str] = broker.topic_ids
        self.troubles: Sequence[Trouble] = ()
        self.reply_topics: Any = None
        self.alive = True
        self.stalled_until_s = 0.0
        self.on_stopped: Callable[[BaseException], None] = lambda error: None
        self._writers: dict[int, _MemoryWriter] = {}
        self._queues: dict[MemoryStream, deque[tuple[Record, _MemoryReceipt]]] = {}
        self._context = copy_context()
        broker.join(self)

    async def start(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        if self.ordered and self.alive and (self.broker.open.starts or self.wants):
            done = self.broker.loop.create_future()
            self.broker.open.waiters.append(lambda error: done.set_result(None))
            self.broker.request()
            await done
        self.alive = False

    def kill(self) -> None:
        """The process dies here and now."""
        self.alive = False
        for stream in self.broker.streams.values():
            stream.tails = [tail for tail in stream.tails if getattr(tail, "log", None) is not self]

    # Time, as this client sees it

    def later(self, step: str, call: Callable[..., None], *args: Any) -> None:
        """Call after the step's delay, unless this client dies first; not while it is stalled."""
        self.after(self.broker.faults.delay_s(step), call, *args)

    def after(self, delay_s: float, call: Callable[..., None], *args: Any) -> None:
        self.broker.loop.call_later(delay_s, self._run, call, args, context=self._context)

    def _run(self, call: Callable[..., None], args: tuple[Any, ...]) -> None:
        if not self.alive:
            return
        stall_s = self.stalled_until_s - self.broker.loop.time()
        if stall_s > 0:
            self.after(stall_s, call, *args)
        else:
            call(*args)

    # The interface

    @property
    def wants(self) -> bool:
        return any(writer.wants and not writer.closed for writer in self._writers.values())

    def fill_all(self, write: Write) -> None:
        """Ask every writer that wants to for its records."""
        for writer in self._writers.values():
            self._context.run(writer.fill_into, write)

    def append(self, topic: Topic, partition: int, record: Record, memo: Any = None) -> _MemoryReceipt:
        """See `Log.append`."""
        assert topic is not Topic.JOURNAL, "the journal has its writer"
        stream = self.broker.streams[topic, partition]
        if not self.alive:
            return _MemoryReceipt()
        if self.ordered:
            write = self.broker.open
            self.broker.request()
            offset = self.broker.accept(stream, (record,), memo)
            return _MemoryReceipt(offset, write)
        receipt = _MemoryReceipt()
        queue = self._queues.setdefault(stream, deque())
        if len(queue) >= self.broker.faults.queued_max:
            full = Overloaded(f"{len(queue)} records wait for {topic} of partition {partition}")
            receipt.settle(None, full)
            return receipt
        queue.append((record, receipt))
        if len(queue) == 1:
            self.later("send", self._send, stream)
        return receipt

    def _send(self, stream: MemoryStream) -> None:
        queue, faults = self._queues[stream], self.broker.faults
        if not queue:
            return
        record, receipt = queue[0]
        fate = faults.fate("append")
        if fate in ("ok", "lost"):
            self.broker.loop.call_later(
                faults.delay_s("append"), self._land, stream, record, receipt, fate, context=Context()
            )
            return
        self.after(faults.timeout_s, self._over, stream, receipt, None, OutcomeUnknown("no answer in time"))
        if fate == "late":
            when = faults.timeout_s + faults.late_s()
            self.broker.loop.call_later(when, self.broker.accept, stream, (record,), context=Context())

    def _land(self, stream: MemoryStream, record: Record, receipt: _MemoryReceipt, fate: str) -> None:
        offset = self.broker.accept(stream, (record,))
        if fate == "lost":
            error = OutcomeUnknown("no answer in time")
            self.after(self.broker.faults.timeout_s, self._over, stream, receipt, None, error)
        else:
            self.later("ack", self._over, stream, receipt, offset, None)

    def _over(
        self, stream: MemoryStream, receipt: _MemoryReceipt, offset: int | None, error: BaseException | None
    ) -> None:
        queue = self._queues[stream]
        queue.popleft()
        if queue:
            self.later("send", self._send, stream)
        receipt.settle(offset, error)

    def writer(self, partition: int, source: WriterSource) -> _MemoryWriter:
        earlier = self._writers.get(partition)
        if earlier is not None:
            earlier.close()
        made = _MemoryWriter(self, self.broker.streams[Topic.JOURNAL, partition], source)
        self._writers[partition] = made
        return made

    def drop_producer(self, error: BaseException) -> None:
        """All writers of a client share one producer: what happens to one happens to all."""
        for writer in list(self._writers.values()):
            writer.fail(error)

    def shares_write(self, record: LogRecord) -> bool:
        return record.write is not None and record.write is self.broker.open

    def tail(
        self, topic: Topic, partition: int, start: int, deliver: Callable[[LogRecord], None]
    ) -> MemoryTail:
        """See `Log.tail`."""
        stream = self.broker.streams[topic, partition]
        tail = MemoryTail(self, stream, start, deliver)
        if self.alive:
            stream.tails.append(tail)
            self.after(0.0, tail.wake)
        return tail

    def trimmed_away(self, stream: MemoryStream, offset: int) -> None:
        """A tail stands where records were removed."""
        self.on_stopped(
            LogCorrupt(
                f"{stream.topic} of partition {stream.partition}: offset {offset} is gone, "
                f"the log begins at {stream.start}"
            )
        )

    async def read(
        self, topic: Topic, partition: int, start: int, end: int
    ) -> AsyncIterator[Sequence[LogRecord]]:
        """See `Log.read`."""
        stream = self.broker.streams[topic, partition]
        if start < stream.start and start < end:
            raise LogCorrupt(
                f"{topic} of partition {partition}: offset {start} is gone, the log begins at {stream.start}"
            )
        while start < end:
            await self._pass("read")
            chunk = stream.between(start, min(start + READ_CHUNK, end, stream.durable))
            if chunk:
                yield chunk
                start = chunk[-1].offset + 1
            elif stream.durable <= start:
                await asyncio.sleep(READ_AGAIN_S)  # until it is durable, as the law says
            else:
                return

    async def _pass(self, step: str) -> None:
        delay_s = max(self.broker.faults.delay_s(step), self.stalled_until_s - self.broker.loop.time())
        await asyncio.sleep(delay_s)
        if not self.alive:
            raise Unavailable("this client was killed")

    async def bounds(self, topic: Topic, partition: int) -> Bounds:
        await self._pass("read")
        stream = self.broker.streams[topic, partition]
        return Bounds(stream.start, stream.durable)

    async def since(self, topic: Topic, partition: int, time_ms: int) -> Stamped | None:
        """See `Log.since`."""
        await self._pass("read")
        stream = self.broker.streams[topic, partition]
        kept = stream.between(stream.start, stream.durable)
        return next((Stamped(each.offset, each.time_ms) for each in kept if each.time_ms >= time_ms), None)

    async def trim(self, topic: Topic, partition: int, before: int) -> None:
        await self._pass("read")
        stream = self.broker.streams[topic, partition]
        before = min(before, stream.durable)
        if before > stream.start:
            del stream.records[: before - stream.start]
            stream.start = before

    async def sizes(self) -> dict[Topic, int]:
        totals = dict.fromkeys(Topic, 0)
        for (topic, _), stream in self.broker.streams.items():
            totals[topic] += sum(len(r.key or b"") + len(r.value or b"") for r in stream.records)
        return totals
