"""Generations of an app's topics: after a rescale there are new ones, and the old ones are kept.

The topics of generation 1 are `{app}.commands` and so on, those of generation 2 `{app}.g2.commands`. The
journal of partition 0 ends with the step that leads to the next one (`moved_to` of schemas/migrations.py).

Law: a generation is in force once that step counts: a step behind a rival's claim leads nowhere.
[test_kafka_rescale.py]
"""

from __future__ import annotations

from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import TopicPartition

from perdure.schemas.errors import LogCorrupt
from perdure.schemas.journal import Claim, Header, Migration, decode_record
from perdure.schemas.migrations import moved_to
from perdure.streams.log.base import Topic
from perdure.streams.log.kafka.clients import UNREACHED, Endpoint, close_client
from perdure.streams.log.kafka.metadata import described
from perdure.streams.log.kafka.probe import unreachable
from perdure.streams.log.kafka.reads import Reads
from perdure.streams.log.kafka.topics import partitions_of

SEARCHED = 1_000  # records at the end of a journal: behind the step there are at most some void ones


def base_of(app: str, generation: int) -> str:
    """What the names of a generation's topics begin with."""
    return app if generation == 1 else f"{app}.g{generation}"


async def current_generation(endpoint: Endpoint, app: str) -> int:
    """The generation in force. Raises `LogUnreachable` or `ConfigError`."""
    generation = 1
    admin: Any = AIOKafkaAdminClient(**endpoint.options("generation"))
    try:
        await admin.start()
        while True:
            journal = f"{base_of(app, generation + 1)}.{Topic.JOURNAL.value}"
            if journal not in await described(admin, [journal]):
                return generation
            if not await _leads_on(endpoint, f"{base_of(app, generation)}.{Topic.JOURNAL.value}"):
                return generation
            generation += 1
    except UNREACHED as error:
        raise await unreachable(endpoint, error) from error
    finally:
        await close_client(admin._client)


async def partitions_in_header(endpoint: Endpoint, journal: str) -> int:
    """The number of partitions that the app was made with, by its journal; 0: it has none, or is empty."""
    place = TopicPartition(journal, 0)
    start, end = await _bounds(endpoint, place)
    if not end:
        return 0
    if start:  # behind a snapshot the journal is trimmed, and with it its header
        return await partitions_of(endpoint, journal)
    async for record in _records(endpoint, place, 0, 1):
        header = decode_record(record.value)
        if isinstance(header, Header):
            return header.partitions
    raise LogCorrupt(f"topic {journal} does not begin with a header: it is not a journal of perdure")


async def _leads_on(endpoint: Endpoint, journal: str) -> bool:
    """True if the journal ends with a step to the next generation that counts."""
    place = TopicPartition(journal, 0)
    start, end = await _bounds(endpoint, place)
    marks = []
    async for record in _records(endpoint, place, max(end - SEARCHED, start), end):
        decoded = decode_record(record.value)
        if isinstance(decoded, Migration) and moved_to(decoded.step) is not None:
            marks.append((record.offset, decoded.epoch))
    for offset, epoch in marks:
        if not [
            1 async for each in _records(endpoint, place, epoch + 1, offset) if _is_rival(each.value, epoch)
        ]:
            return True
    return False


def _is_rival(value: bytes | None, epoch: int) -> bool:
    record = decode_record(value)
    return isinstance(record, Claim) and record.after in (None, epoch)


async def _bounds(endpoint: Endpoint, place: TopicPartition) -> tuple[int, int]:
    consumer: Any = AIOKafkaConsumer(enable_auto_commit=False, **endpoint.options("generation"))
    try:
        await consumer.start()
        if consumer.partitions_for_topic(place.topic) is None and place.topic not in await consumer.topics():
            return 0, 0
        starts, ends = await consumer.beginning_offsets([place]), await consumer.end_offsets([place])
        return starts[place], ends[place]
    finally:
        await consumer.stop()


async def _records(endpoint: Endpoint, place: TopicPartition, start: int, end: int) -> Any:
    reads = Reads(endpoint, [place.topic])
    try:
        await reads.start()
        async for chunk in reads.read(place, start, end):
            for record in chunk:
                yield record
    finally:
        await reads.close()
