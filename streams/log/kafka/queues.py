"""Appending to Kafka: a queue for each partition of commands, replies and dead, and the writers of journals.

Both fill one batch at a time, send it through the producer of the node (`producer.py`), and are called back
with its outcome. A record that is appended to a queue gets a `KafkaReceipt`; a writer asks its source for
records.

Laws
- At most one batch of a (topic, partition) is in flight; later records wait in
  order until it has its outcome.
- Records of a queue that were not sent go to the next producer, until they are `append_timeout_s` old. What a
  writer has filled is sent through one producer, or never. [test_kafka_producer.py]
- At most 20,000 records wait in a queue, and 64 MiB in all queues. Above that a
  receipt fails with `Overloaded`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from aiokafka.structs import TopicPartition

from perdure.schemas.errors import OutcomeUnknown, Overloaded, StorageFailed, TooLarge, Unavailable
from perdure.streams import failpoints
from perdure.streams.log.base import Record, WriterSource, size_bytes
from perdure.streams.log.kafka.clients import MAX_MESSAGE_BYTES, named
from perdure.streams.log.kafka.producer import ProducerManager

MAX_RECORD_BYTES = MAX_MESSAGE_BYTES - 64 * 1024  # the rest is for what a batch adds to its only record
BATCH_BYTES = 1024 * 1024  # approximately; a larger record makes a larger batch
MAX_QUEUED_RECORDS = 20_000
MAX_QUEUED_BYTES = 64 * 1024 * 1024
RIDE_ALONG_S = 0.003  # for so long a writer's request that is not urgent waits for further records


class KafkaReceipt:
    """`perdure.streams.log.base.Receipt`: settled once, by the offset or by an error."""

    __slots__ = ("_error", "_settled", "_then", "offset", "queued_s", "size_bytes")

    def __init__(self, size_bytes: int, queued_s: float) -> None:
        self.offset: int | None = None
        self.size_bytes = size_bytes
        self.queued_s = queued_s
        self._settled = False
        self._error: BaseException | None = None
        self._then: list[Callable[[BaseException | None], None]] = []

    def when_durable(self, then: Callable[[BaseException | None], None]) -> None:
        if self._settled:
            then(self._error)
        else:
            self._then.append(then)

    def settle(self, offset: int | None, error: BaseException | None) -> None:
        assert not self._settled
        self.offset, self._error, self._settled = offset, error, True
        waiting, self._then = self._then, []
        for then in waiting:
            then(error)


class QueuedRecord(NamedTuple):
    """A record in a queue; `memo` is for its readers in this process."""

    record: Record
    memo: Any
    receipt: KafkaReceipt


Acknowledged = Callable[[TopicPartition, int, int, Sequence[QueuedRecord]], None]  # see `Tails.acknowledged`


class Queued:
    """The size of all records in the queues of a log, sent or not."""

    size_bytes = 0


class PartitionQueue:
    """The queue of one partition of commands, replies or dead: it sends what waits, one batch at a time."""

    def __init__(
        self, manager: ProducerManager, place: TopicPartition, queued: Queued, acknowledged: Acknowledged
    ) -> None:
        self._manager = manager
        self._acknowledged = acknowledged
        manager.users[self] = None
        self._queued = queued
        self._place = place
        self._waiting: list[QueuedRecord] = []
        self._in_flight: list[QueuedRecord] = []
        self._woken = False
        self._floor = 0  # the lowest offset that the next record can have
        self._age_timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._in_flight

    def add(self, record: Record, memo: Any, size: int) -> KafkaReceipt:
        """Queue a record of `size` bytes. The receipt fails at once if the log is
        closed or a bound is reached.
        """
        manager = self._manager
        receipt = KafkaReceipt(size, manager.loop.time())
        if manager.closed:
            receipt.settle(None, Unavailable("the log is closed"))
        elif (
            len(self._waiting) >= MAX_QUEUED_RECORDS
            or self._queued.size_bytes + receipt.size_bytes > MAX_QUEUED_BYTES
        ):
            reason = f"{len(self._waiting)} records wait for {named(self._place)}, {self._queued.size_bytes} bytes in all"
            receipt.settle(None, Overloaded(reason))
        else:
            self._queued.size_bytes += receipt.size_bytes
            self._waiting.append(QueuedRecord(record, memo, receipt))
            if not self._woken and not self._in_flight:
                self._woken = True
                manager.loop.call_soon(self.send)  # what is appended in this step of the loop shares a batch
        return receipt

    def send(self) -> None:
        """Send what waits, if nothing is in flight and there is a producer."""
        self._woken = False
        producer = self._manager.producer
        if self._in_flight or not self._waiting:
            return
        if producer is None:
            self._watch_age()
            return
        self._in_flight = self._take()
        batch = producer.batch([each.record for each in self._in_flight], self._manager.clock_ms())
        self._manager.send(producer, self._place, batch, self._floor, self._on_outcome)

    def _take(self) -> list[QueuedRecord]:
        count = size = 0
        for _, _, receipt in self._waiting:
            size += receipt.size_bytes
            if count and size > BATCH_BYTES:
                break
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def _on_outcome(self, offset: int, time_ms: int, error: BaseException | None) -> None:
        sent, self._in_flight = self._in_flight, []
        if isinstance(error, Unavailable):
            self._waiting[:0] = sent  # nothing was sent: they keep their place until they are too old
            self._age_out()
        else:
            if error is None:
                self._floor = offset + len(sent)
                self._acknowledged(self._place, offset, time_ms, sent)
            for at, (_, _, receipt) in enumerate(sent, offset):
                self._queued.size_bytes -= receipt.size_bytes
                receipt.settle(at if error is None else None, error)
        self.send()
        self._manager.check_drained()

    def _watch_age(self) -> None:
        """While there is no producer, a timer limits how long records wait."""
        if self._age_timer is None and self._waiting:
            oldest_s = self._waiting[0].receipt.queued_s
            self._age_timer = self._manager.loop.call_at(
                oldest_s + self._manager.append_timeout_s, self._aged
            )

    def _aged(self) -> None:
        self._age_timer = None
        if self._manager.producer is None:
            self._age_out()
            self._watch_age()

    def _age_out(self) -> None:
        oldest_s = self._manager.loop.time() - self._manager.append_timeout_s
        while self._waiting and self._waiting[0].receipt.queued_s <= oldest_s:
            count = sum(1 for _, _, receipt in self._waiting if receipt.queued_s <= oldest_s)
            self._give_up(
                count, f"{named(self._place)} could not be reached for {self._manager.append_timeout_s} s"
            )

    def lost(self, why: str) -> None:
        """There is no producer: what waits goes on waiting until it is too old."""
        self._watch_age()

    def end(self, why: str) -> None:
        self._give_up(len(self._waiting), why)

    def _give_up(self, count: int, why: str) -> None:
        unsent, self._waiting = self._waiting[:count], self._waiting[count:]
        for _, _, receipt in unsent:
            self._queued.size_bytes -= receipt.size_bytes
            receipt.settle(None, Unavailable(f"{why}; nothing was sent"))
        self._manager.check_drained()


class KafkaWriter:
    """`perdure.streams.log.base.Writer`: it ends with the producer through which it sends."""

    def __init__(self, manager: ProducerManager, place: TopicPartition, source: WriterSource) -> None:
        self._manager = manager
        manager.users[self] = None
        self._place = place
        self._source: WriterSource | None = source
        self._in_flight = 0
        self._floor = 0
        self._wanted: bool | None = None  # a request that is not yet sent: True if it is urgent
        self._timer: asyncio.Handle | None = None

    def request(self, *, urgent: bool = True) -> None:
        if self._source is None:
            return
        if self._timer is not None:
            if self._wanted or not urgent:
                return
            self._timer.cancel()
        self._wanted = urgent or bool(self._wanted)
        if not self._in_flight:
            loop = self._manager.loop
            self._timer = loop.call_soon(self.send) if urgent else loop.call_later(RIDE_ALONG_S, self.send)

    @property
    def idle(self) -> bool:
        return not self._in_flight and self._wanted is None

    def send(self) -> None:
        """Send what the source has, if it has requested that, nothing is in
        flight and there is a producer.
        """
        self._timer = None
        producer = self._manager.producer
        if self._source is None or self._in_flight or producer is None or self._wanted is None:
            return
        self._wanted = None
        records = self._source.fill(BATCH_BYTES)
        if not records:
            self._manager.check_drained()
            return
        for record in records:
            if len(record.value or b"") > BATCH_BYTES and (size := size_bytes(record)) > MAX_RECORD_BYTES:
                self._refuse(size)
                return
        batch = producer.batch(records, self._manager.clock_ms())
        self._in_flight = len(records)
        failpoints.hit("log.before_write")
        self._manager.send(producer, self._place, batch, self._floor, self._on_outcome)

    def _refuse(self, size: int) -> None:
        """End this writer: the broker would refuse the batch, which would end the
        node's producer, every time.
        """
        source = self._source
        self.close()
        assert source is not None
        source.failed(
            StorageFailed(
                f"{named(self._place)}: a record has {size} bytes, and at most {MAX_RECORD_BYTES} fit. "
                "Nothing was appended; this is a fault in perdure: please report it"
            )
        )

    def _on_outcome(self, offset: int, time_ms: int, error: BaseException | None) -> None:
        count, self._in_flight = self._in_flight, 0
        if error is not None:
            self.lost(str(error))
            return
        self._floor = offset + count
        failpoints.hit("log.after_sync")
        if self._source is not None:
            self._source.acked(offset)
        if self._wanted is not None and self._timer is None:
            wanted, self._wanted = self._wanted, None
            self.request(urgent=wanted)
        self._manager.check_drained()

    def lost(self, why: str) -> None:
        """End the writer, and report it to the source (once)."""
        source = self._source
        self.close()
        if source is not None:
            source.failed(OutcomeUnknown(why))

    def end(self, why: str) -> None:
        self.close()

    def close(self) -> None:
        self._source = None
        self._wanted = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._manager.users.pop(self, None)


class Appends:
    """The queues and writers of a log, by partition.

    `acknowledged` is called with what the queues have appended.
    """

    def __init__(self, manager: ProducerManager, acknowledged: Acknowledged) -> None:
        self._manager = manager
        self._acknowledged = acknowledged
        self._queues: dict[TopicPartition, PartitionQueue] = {}
        self._writers: dict[TopicPartition, KafkaWriter] = {}
        self.queued = Queued()

    def append(self, place: TopicPartition, record: Record, memo: Any = None) -> KafkaReceipt:
        """Queue one record. Raises `TooLarge`."""
        size = size_bytes(record)
        if size > MAX_RECORD_BYTES:
            raise TooLarge(f"a record of {size} bytes for {named(place)}: at most {MAX_RECORD_BYTES} fit")
        queue = self._queues.get(place)
        if queue is None:
            queue = self._queues[place] = PartitionQueue(
                self._manager, place, self.queued, self._acknowledged
            )
        return queue.add(record, memo, size)

    def writer(self, place: TopicPartition, source: WriterSource) -> KafkaWriter:
        """A new writer; the previous one of the partition is closed."""
        before = self._writers.get(place)
        if before is not None:
            before.close()
        writer = self._writers[place] = KafkaWriter(self._manager, place, source)
        return writer
