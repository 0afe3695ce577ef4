"""The examination of a Kafka cluster for `perdure doctor`: settings, rights, and experiments.

The promises rest on what brokers do: offsets of one producer's batches are consecutive, an append of another
producer in between is seen as a gap, and DeleteRecords moves the beginning. Brokers that speak Kafka differ
in this, so it is tried.

Laws
- Nothing is written but the scratch topic, which is deleted again. [test_doctor.py]
- Each finding that is not in order says how to mend it. [test_kafka_checks.py]
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from time import time
from typing import Any, NamedTuple
from uuid import uuid4

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.errors import for_code
from aiokafka.structs import TopicPartition

from perdure.schemas.findings import OK, REFUSED, WARNING, Finding
from perdure.streams.log.base import Record, Topic
from perdure.streams.log.kafka.checks import KEPT_DAYS, LOOKED_AT, SETTINGS, setting_findings
from perdure.streams.log.kafka.clients import UNREACHED, Endpoint, Producer, close_client
from perdure.streams.log.kafka.generations import base_of, current_generation
from perdure.streams.log.kafka.metadata import (
    Described,
    described,
    has_delete_records,
    settings_in_force,
)
from perdure.streams.log.kafka.probe import diagnose
from perdure.streams.log.kafka.rights import WANTED, missing_rights
from perdure.streams.log.kafka.topics import ends_of, misfit

TIMEOUT_S = 10.0
CLOCK_S = 1.0  # a difference of clocks above this is worth a warning


async def examine(endpoint: Endpoint, app: str, partitions: int) -> list[Finding]:
    """The findings about a cluster and the app's topics on it. `partitions`: as configured. Never raises for
    what it finds."""
    admin: Any = AIOKafkaAdminClient(**endpoint.options("doctor"))
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await admin.start()
    except UNREACHED:
        await close_client(admin._client)
        return [Finding("connection", REFUSED, (await diagnose(endpoint)).text)]
    app = base_of(app, await current_generation(endpoint, app))
    findings = [Finding("connection", OK, f"{endpoint.bootstrap} answers")]
    try:
        async with asyncio.timeout(2 * TIMEOUT_S):
            findings += await _topics(endpoint, admin, app, partitions)
        async with asyncio.timeout(4 * TIMEOUT_S):
            findings += await _experiments(endpoint, admin, app)
    except UNREACHED as error:
        text = f"the examination ended early: {error!r}. {(await diagnose(endpoint)).text}"
        findings.append(Finding("connection", REFUSED, text))
    finally:
        await close_client(admin._client)
    return findings


async def _topics(endpoint: Endpoint, admin: Any, app: str, partitions: int) -> list[Finding]:
    names = [f"{app}.{topic.value}" for topic in Topic]
    topics = await described(admin, names)
    brokers = len((await admin.describe_cluster())["brokers"])
    findings = [_brokers(brokers)]
    if not topics:
        return [*findings, Finding("topics", OK, f"none yet: the first start of {app} makes them")]
    if lacking := missing_rights(endpoint, topics):
        return [*findings, Finding("rights", REFUSED, lacking)]
    lacking = missing_rights(endpoint, topics, WANTED)
    findings.append(
        Finding("rights", WARNING, lacking) if lacking else Finding("rights", OK, "all that perdure needs")
    )
    findings.append(await _counts(endpoint, names, topics, partitions))
    findings.append(_ids(topics))
    settings = await settings_in_force(admin, list(topics), LOOKED_AT)
    trims = has_delete_records(admin)
    for name, values in settings.items():
        findings += setting_findings(endpoint, name, values, topics[name], trims=trims)
    return findings


def _brokers(count: int) -> Finding:
    if count >= 3:
        return Finding("brokers", OK, f"{count} brokers")
    text = (
        f"{count} broker{'s' if count > 1 else ''}: acknowledged writes do not survive the loss of one's disk"
    )
    return Finding("brokers", WARNING, text, "use three brokers for production")


async def _counts(
    endpoint: Endpoint, names: Sequence[str], topics: Mapping[str, Described], partitions: int
) -> Finding:
    counts = {name: len(topic.leaders) for name, topic in topics.items()}
    if len(counts) < len(names) or any(count != partitions for count in counts.values()):
        ends = await ends_of(endpoint, counts, "doctor")
        journal = next(name for name in names if name.endswith(f".{Topic.JOURNAL.value}"))
        error = misfit(journal, counts, {journal: 0} | ends, partitions, endpoint.bootstrap)
        if error is not None:
            return Finding("partitions", REFUSED, str(error))
    leaderless = [name for name, topic in topics.items() if any(leader < 0 for leader in topic.leaders)]
    if leaderless:
        mend = "start the brokers that hold its replicas"
        return Finding("partitions", REFUSED, f"a partition of {leaderless[0]} has no leader", mend)
    return Finding("partitions", OK, f"{partitions} in each topic, each with a leader")


def _ids(topics: Mapping[str, Described]) -> Finding:
    if all(topic.id for topic in topics.values()):
        return Finding("topic ids", OK, "a topic that is deleted and created again is refused")
    return Finding(
        "topic ids",
        WARNING,
        "the brokers give none: of a topic that is deleted and created again, only an empty journal is noticed",
        "upgrade the brokers to Kafka 2.8 or later",
    )


class ScratchRecord(NamedTuple):
    """A record on the scratch topic."""

    offset: int
    time_ms: int


def offset_findings(first: Sequence[int], other: int, after: int) -> list[Finding]:
    """What offsets say: `first` of one producer's batches, `other` of another's, `after` of the first one's
    next."""
    expected = list(range(first[0], first[0] + len(first)))
    if list(first) != expected:
        consecutive = Finding(
            "consecutive offsets",
            REFUSED,
            f"batches of one producer lie at {', '.join(map(str, first))}: an owner could not tell them from a gap",
            "use a broker that gives consecutive offsets, such as Apache Kafka",
        )
    else:
        consecutive = Finding("consecutive offsets", OK, "batches of one producer follow each other")
    if other != first[-1] + 1 or after != other + 1:
        gap = Finding(
            "second producer",
            REFUSED,
            f"its record lies at {other}, between {first[-1]} and {after}: another owner would not be noticed",
            "use a broker that gives each record an offset of its own, such as Apache Kafka",
        )
    else:
        gap = Finding("second producer", OK, "its append is seen as a gap")
    return [consecutive, gap]


async def _experiments(endpoint: Endpoint, admin: Any, app: str) -> list[Finding]:
    place = TopicPartition(f"{app}.doctor-{uuid4().hex[:12]}", 0)
    (created,) = (
        await admin.create_topics([NewTopic(place.topic, 1, 1, topic_configs=SETTINGS)])
    ).topic_errors
    if created[1]:
        text = (
            f"scratch topic {place.topic} could not be made ({for_code(created[1]).__name__}): no experiments"
        )
        mend = f"grant Create and Delete on topics that begin with {app}. (docs/deploy/make-acls.sh)"
        return [Finding("experiments", WARNING, text, mend)]
    try:
        async with AsyncExitStack() as opened:
            one = await _producer(endpoint, place, opened)
            other = await _producer(endpoint, place, opened)
            batches = [await _append(one, place) for _ in range(3)]
            between = await _append(other, place)
            last = await _append(one, place)
        offsets = [each.offset for each in batches]
        findings = offset_findings(offsets, between.offset, last.offset)
        findings.append(_clock(last.time_ms))
        findings.append(await _trimming(endpoint, admin, place, last.offset))
    finally:
        with suppress(*UNREACHED):
            await admin.delete_topics([place.topic])
    return findings


async def _producer(endpoint: Endpoint, place: TopicPartition, opened: AsyncExitStack) -> Producer:
    producer = Producer(endpoint)
    opened.push_async_callback(producer.drop)
    await producer.start([place.topic], TIMEOUT_S)
    return producer


async def _append(producer: Producer, place: TopicPartition) -> ScratchRecord:
    batch = producer.batch([Record(None, b"perdure doctor")], None)
    acknowledged = await producer.send(batch, place)
    return ScratchRecord(acknowledged.offset, acknowledged.timestamp)


def _clock(stamp_ms: int) -> Finding:
    apart_s = abs(time() - stamp_ms / 1000)
    if stamp_ms < 0 or apart_s <= CLOCK_S:
        return Finding("clock", OK, f"the broker's and this machine's differ by {apart_s:.1f} s at most")
    text = (
        f"the broker's and this machine's differ by {apart_s:.1f} s: alarms and deadlines are off by as much"
    )
    return Finding("clock", WARNING, text, "synchronize both (NTP)")


async def _trimming(endpoint: Endpoint, admin: Any, place: TopicPartition, before: int) -> Finding:
    if not has_delete_records(admin):
        return Finding(
            "trimming",
            WARNING,
            "the broker has no DeleteRecords: commands and replies are removed by age, done or not",
            f"set retention.ms of {{app}}.commands, .replies and .dead to {KEPT_DAYS} days or more "
            f"({KEPT_DAYS * 86_400_000}); a command that waits for longer is lost, and its partition stops",
        )
    try:
        await admin.delete_records({place: RecordsToDelete(before)})
    except UNREACHED as error:
        return Finding(
            "trimming",
            WARNING,
            f"DeleteRecords fails with {type(error).__name__}: commands and replies are never removed",
            "grant Delete on the topics (docs/deploy/make-acls.sh), or check the brokers",
        )
    consumer: Any = AIOKafkaConsumer(enable_auto_commit=False, **endpoint.options("doctor"))
    try:
        await consumer.start()
        begins = (await consumer.beginning_offsets([place]))[place]
    finally:
        await consumer.stop()
    if begins == before:
        return Finding("trimming", OK, "DeleteRecords moves the beginning of a partition")
    text = f"after DeleteRecords below {before} the partition begins at {begins}"
    return Finding(
        "trimming", WARNING, f"{text}: commands and replies are never removed", "check the brokers"
    )
