"""The audit feed: `{app}.events`, a topic with each entry of the journal as a CloudEvent in JSON.

The journal is binary and chained; this topic is for consumers and consoles of any kind. `perdure project
--events` writes it, for the partitions that the process has: an event lies in the partition of its entry, in
order.

Laws [test_events.py, tests/acceptance/test_projections.py]
- Each event carries the position in the journal that it leads to, and a process goes on behind the last one
  in the topic: rows and position are one record. After a crash each entry is there once, unless a batch of
  the process that died was still on its way; an event's `id` tells a copy.
- What is secret is masked, as in everything that reads the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code
from aiokafka.structs import TopicPartition

from perdure.schemas.config import Config
from perdure.schemas.errors import ConfigError, LogUnreachable
from perdure.schemas.journal import EntryRecord
from perdure.schemas.replies import FORWARDED
from perdure.streams.audit.decoding import entry_record
from perdure.streams.audit.records import AuditRecord
from perdure.streams.journal.reader import START, JournalReader, Position
from perdure.streams.log.base import Bounds, Followed, LogRecord, Topic
from perdure.streams.log.kafka.clients import UNREACHED, Endpoint
from perdure.streams.log.kafka.security import security_options

POSITION = "perdure-position"
CONTENT_TYPE = b"application/cloudevents+json"
REPLICATION_FACTOR = 3  # or the number of brokers, if there are fewer
PIECE_RECORDS = 5_000  # of a partition, before the next one has its turn
_NOT_DATA = frozenset(
    ("topic", "partition", "offset", "time", "time_ms", "type", "epoch", "seq", "done", "void")
)
_logger = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder().encode


def cloud_event(app: str, record: AuditRecord) -> bytes:
    """An entry as a CloudEvent 1.0 in structured JSON; `data` is what `perdure log` shows of it."""
    fields = record.as_json()
    event = {
        "specversion": "1.0",
        "id": f"{record.partition}:{record.offset}",
        "source": f"/{app}/journal/{record.partition}",
        "type": f"perdure.turn.{record.outcome}",
        "subject": record.object,
        "time": record.time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": {name: value for name, value in fields.items() if name not in _NOT_DATA},
    }
    return _encode(event)


class EventFeed:
    """The feed of one app.

    app: its name.
    brokers: host:port[,host:port] of the Kafka brokers, or of the embedded log's listener.
    partitions: how many the app has; the topic gets as many.
    security: as `security_options` makes it; None for neither TLS nor SASL.
    """

    def __init__(
        self, app: str, brokers: str, partitions: int, *, security: Mapping[str, Any] | None = None
    ) -> None:
        self.topic = f"{app}.events"
        self._app = app
        self._endpoint = Endpoint(brokers, "perdure-events", security or {})
        self._partitions = partitions
        self._producer: Any = None
        self._readers: dict[int, JournalReader] = {}

    async def _start(self) -> None:
        """Connect, and make the topic if there is none. Raises one of `UNREACHED`, or `ConfigError`."""
        admin: Any = AIOKafkaAdminClient(**self._endpoint.options("events-admin"))
        try:
            await admin.start()
            copies = min(len((await admin.describe_cluster())["brokers"]), REPLICATION_FACTOR)
            made = await admin.create_topics([NewTopic(self.topic, self._partitions, copies)])
            for _, error_code, *text in made.topic_errors:
                if error_code not in (0, TopicAlreadyExistsError.errno):
                    why = text[0] if text and text[0] else for_code(error_code).__name__
                    raise ConfigError(f"the topic {self.topic} could not be created: {why}")
        finally:
            await admin.close()
        producer: Any = AIOKafkaProducer(
            acks="all", enable_idempotence=True, linger_ms=5, **self._endpoint.options("events")
        )
        await producer.start()
        there = await producer.partitions_for(self.topic)
        if len(there) != self._partitions:
            await producer.stop()
            raise ConfigError(
                f"the topic {self.topic} has {len(there)} partitions, the app has {self._partitions}: delete it, or "
                "give it as many"
            )
        self._producer = producer

    async def _last(self, partition: int) -> Position:
        """The position of the last event in a partition; the journal's start if there is none."""
        place = TopicPartition(self.topic, partition)
        consumer: Any = AIOKafkaConsumer(enable_auto_commit=False, **self._endpoint.options("events-end"))
        await consumer.start()
        try:
            consumer.assign([place])
            start, end = await consumer.beginning_offsets([place]), await consumer.end_offsets([place])
            if start[place] == end[place]:
                return START
            consumer.seek(place, end[place] - 1)
            event = await consumer.getone(place)
        finally:
            await consumer.stop()
        return msgspec.msgpack.decode(dict(event.headers)[POSITION], type=Position)

    async def advance(self, log: Followed, partition: int, bounds: Bounds) -> int:
        """Send the events of a piece of a partition; returns how many records of the journal that were.

        Raises `LogUnreachable` if the brokers do not answer; then it begins again behind the last event.
        """
        try:
            if self._producer is None:
                await self._start()
            if partition not in self._readers:
                position = await self._last(partition)
                self._readers[partition] = JournalReader(
                    f"journal partition {partition}", position, exclusive=log.exclusive
                )
            return await self._send(log, self._readers[partition], partition, bounds)
        except UNREACHED as error:
            await self.close()
            raise LogUnreachable(f"the topic {self.topic} cannot be written: {error!r}") from error

    async def _send(self, log: Followed, reader: JournalReader, partition: int, bounds: Bounds) -> int:
        start, end = reader.offset, min(bounds.end, reader.offset + PIECE_RECORDS)
        async for records in log.read(Topic.JOURNAL, partition, start, end):
            sent = [await self._one(reader, partition, record) for record in records]
            await asyncio.gather(*(each for each in sent if each is not None))
        return end - start

    async def _one(self, reader: JournalReader, partition: int, record: LogRecord) -> Any:
        counted = reader.step(record.offset, record.value)
        if type(counted) is not EntryRecord or not counted.entry.key or counted.entry.outcome == FORWARDED:
            return None
        shown = entry_record(partition, record.offset, counted)
        return await self._producer.send(
            self.topic,
            cloud_event(self._app, shown),
            key=counted.entry.key.encode(),
            partition=partition,
            timestamp_ms=counted.entry.time_ms,
            headers=[
                ("content-type", CONTENT_TYPE),
                (POSITION, msgspec.msgpack.encode(reader.position)),
            ],
        )

    def forget(self, partition: int) -> None:
        """Another process has the partition now."""
        self._readers.pop(partition, None)

    async def close(self) -> None:
        """Send what is under way, and disconnect; the next `advance` begins behind the last event."""
        producer, self._producer = self._producer, None
        self._readers.clear()
        if producer is not None:
            try:
                async with asyncio.timeout(5):
                    await producer.stop()
            except UNREACHED as error:
                _logger.warning("the producer of events did not close in time", error=repr(error))


def feed_of(config: Config, partitions: int, to: str = "") -> EventFeed:
    """The feed of an app.

    config: the app's configuration.
    partitions: how many the app has.
    to: the brokers, if they are not the app's own: host:port, for the embedded log that of its listener.

    Raises `ConfigError` if there are none.
    """
    if to:
        return EventFeed(config.name, to.removeprefix("kafka://"), partitions)
    if not config.kafka_brokers:
        raise ConfigError(
            "--events writes to Kafka: on the embedded log, name the listener of its server (--events-to 127.0.0.1:9092)"
        )
    security = security_options(config.kafka)
    return EventFeed(config.name, ",".join(config.kafka_brokers), partitions, security=security)
