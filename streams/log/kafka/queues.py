"""Appending to Kafka: a queue per partition, callbacks all the way, and the journal's writers.

Laws
- At most one batch of a (topic, partition) is under way; records gather behind it and keep their order.
- Unsent records of a queue go out through the next producer, until they are `append_timeout_s` old; what a
  writer filled goes through the producer it began with, or never.
- Bounds: 20,000 records wait per queue, 64 MiB in all; beyond them `append` answers `Overloaded`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiokafka.structs import TopicPartition

from perdure.schemas.errors import OutcomeUnknown, Overloaded, StorageFailed, TooLarge, Unavailable
from perdure.streams import failpoints
from perdure.streams.log.base import Record, WriterSource, size_bytes
from perdure.streams.log.kafka.clients import MAX_MESSAGE_BYTES, named
from perdure.streams.log.kafka.producer import Line

MAX_RECORD_BYTES = MAX_MESSAGE_BYTES - 64 * 1024  # what a batch adds to its only record fits in the rest
BATCH_BYTES = 1024 * 1024  # about; one larger record makes a larger batch
MAX_QUEUED_RECORDS = 20_000
MAX_QUEUED_BYTES = 64 * 1024 * 1024
RIDE_ALONG_S = 0.003  # how long a writer's request that is not urgent waits for company


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


class Queued:
    """What the queues of a log hold together, sent or not."""

    size_bytes = 0


class Lane:
    """The queue of one partition of commands, replies or dead."""

    def __init__(self, line: Line, place: TopicPartition, queued: Queued) -> None:
        self._line = line
        line.users[self] = None
        self._queued = queued
        self._place = place
        self._waiting: list[tuple[Record, KafkaReceipt]] = []
        self._flying: list[tuple[Record, KafkaReceipt]] = []
        self._woken = False
        self._floor = 0  # the next offset cannot be smaller
        self._age_timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._flying

    def add(self, record: Record, size: int) -> KafkaReceipt:
        line = self._line
        receipt = KafkaReceipt(size, line.loop.time())
        if line.closed:
            receipt.settle(None, Unavailable("the log is closed"))
        elif (
            len(self._waiting) >= MAX_QUEUED_RECORDS
            or self._queued.size_bytes + receipt.size_bytes > MAX_QUEUED_BYTES
        ):
            reason = f"{len(self._waiting)} records wait for {named(self._place)}, {self._queued.size_bytes} bytes in all"
            receipt.settle(None, Overloaded(reason))
        else:
            self._queued.size_bytes += receipt.size_bytes
            self._waiting.append((record, receipt))
            if not self._woken and not self._flying:
                self._woken = True
                line.loop.call_soon(self.send)  # what is appended in this step of the loop goes in one batch
        return receipt

    def send(self) -> None:
        self._woken = False
        link = self._line.link
        if self._flying or not self._waiting:
            return
        if link is None:
            self._watch_age()
            return
        self._flying = self._take()
        batch, stamp = link.batch(), self._line.clock_ms()
        for record, _ in self._flying:
            fits = batch.append(
                timestamp=stamp, key=record.key, value=record.value, headers=list(record.headers)
            )
            assert fits is not None, (
                f"a batch of more than {MAX_MESSAGE_BYTES} bytes for {named(self._place)}"
            )
        self._line.launch(link, self._place, batch, self._floor, self._told)

    def _take(self) -> list[tuple[Record, KafkaReceipt]]:
        count = size = 0
        for _, receipt in self._waiting:
            size += receipt.size_bytes
            if count and size > BATCH_BYTES:
                break
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def _told(self, offset: int, error: BaseException | None) -> None:
        flown, self._flying = self._flying, []
        if isinstance(error, Unavailable):
            self._waiting[:0] = flown  # nothing was sent: they keep their place until they are too old
            self._age_out()
        else:
            if error is None:
                self._floor = offset + len(flown)
            for at, (_, receipt) in enumerate(flown, offset):
                self._queued.size_bytes -= receipt.size_bytes
                receipt.settle(at if error is None else None, error)
        self.send()
        self._line.check_drained()

    def _watch_age(self) -> None:
        """While there is no producer, records must still not wait for longer than they may."""
        if self._age_timer is None and self._waiting:
            oldest_s = self._waiting[0][1].queued_s
            self._age_timer = self._line.loop.call_at(oldest_s + self._line.append_timeout_s, self._aged)

    def _aged(self) -> None:
        self._age_timer = None
        if self._line.link is None:
            self._age_out()
            self._watch_age()

    def _age_out(self) -> None:
        oldest_s = self._line.loop.time() - self._line.append_timeout_s
        while self._waiting and self._waiting[0][1].queued_s <= oldest_s:
            count = sum(1 for _, receipt in self._waiting if receipt.queued_s <= oldest_s)
            self._give_up(
                count, f"{named(self._place)} could not be reached for {self._line.append_timeout_s} s"
            )

    def lost(self, why: str) -> None:
        """What was under way was told; what waits does so until it is too old."""
        self._watch_age()

    def end(self, why: str) -> None:
        self._give_up(len(self._waiting), why)

    def _give_up(self, count: int, why: str) -> None:
        unsent, self._waiting = self._waiting[:count], self._waiting[count:]
        for _, receipt in unsent:
            self._queued.size_bytes -= receipt.size_bytes
            receipt.settle(None, Unavailable(f"{why}; nothing was sent"))
        self._line.check_drained()


class KafkaWriter:
    """`perdure.streams.log.base.Writer`: bound to the producer it began with (or the next, if there is none)."""

    def __init__(self, line: Line, place: TopicPartition, source: WriterSource) -> None:
        self._line = line
        line.users[self] = None
        self._place = place
        self._source: WriterSource | None = source
        self._flying = 0
        self._floor = 0
        self._wanted: bool | None = None  # asked for and not yet sent: urgently or not
        self._timer: asyncio.Handle | None = None

    def request(self, *, urgent: bool = True) -> None:
        if self._source is None:
            return
        if self._timer is not None:
            if self._wanted or not urgent:
                return
            self._timer.cancel()
        self._wanted = urgent or bool(self._wanted)
        if not self._flying:
            loop = self._line.loop
            self._timer = loop.call_soon(self.send) if urgent else loop.call_later(RIDE_ALONG_S, self.send)

    @property
    def idle(self) -> bool:
        return not self._flying and self._wanted is None

    def send(self) -> None:
        """Send what the source has, if it asked for that and there is a producer."""
        self._timer = None
        link = self._line.link
        if self._source is None or self._flying or link is None or self._wanted is None:
            return
        self._wanted = None
        records = self._source.fill(BATCH_BYTES)
        if not records:
            self._line.check_drained()
            return
        if (largest := max(map(size_bytes, records))) > MAX_RECORD_BYTES:
            self._refuse(largest)
            return
        batch, stamp = link.batch(), self._line.clock_ms()
        for record in records:
            fits = batch.append(
                timestamp=stamp, key=record.key, value=record.value, headers=list(record.headers)
            )
            assert fits is not None, f"more than {MAX_MESSAGE_BYTES} bytes at once for {named(self._place)}"
        self._flying = len(records)
        failpoints.hit("log.before_write")
        self._line.launch(link, self._place, batch, self._floor, self._told)

    def _refuse(self, size: int) -> None:
        """The broker would refuse this batch each time, and take the node's producer along: only this writer ends."""
        source = self._source
        self.close()
        assert source is not None
        source.failed(
            StorageFailed(
                f"{named(self._place)}: a record of {size} bytes is to be appended, at most {MAX_RECORD_BYTES} fit. "
                "Nothing was appended; this is a fault in perdure: please report it"
            )
        )

    def _told(self, offset: int, error: BaseException | None) -> None:
        count, self._flying = self._flying, 0
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
        self._line.check_drained()

    def lost(self, why: str) -> None:
        """Finish, and tell the source (once)."""
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
        self._line.users.pop(self, None)


class Appends:
    """The queues and writers of a log, by place."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._lanes: dict[TopicPartition, Lane] = {}
        self._writers: dict[TopicPartition, KafkaWriter] = {}
        self.queued = Queued()

    def append(self, place: TopicPartition, record: Record) -> KafkaReceipt:
        """Queue one record. Raises `TooLarge`."""
        size = size_bytes(record)
        if size > MAX_RECORD_BYTES:
            raise TooLarge(f"a record of {size} bytes for {named(place)}: at most {MAX_RECORD_BYTES} fit")
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = Lane(self._line, place, self.queued)
        return lane.add(record, size)

    def writer(self, place: TopicPartition, source: WriterSource) -> KafkaWriter:
        """A new writer; the one before it is closed."""
        before = self._writers.get(place)
        if before is not None:
            before.close()
        writer = self._writers[place] = KafkaWriter(self._line, place, source)
        return writer
