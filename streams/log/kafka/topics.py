"""The four topics of an app on Kafka: made if absent, checked if present, trimmed, measured.

Laws
- A topic is made only for an app that was never served: in place of one that is missing none is made.
- A topic that exists is never changed: what is wrong with it is a `ConfigError` naming topic and setting.
- Nothing is deleted by age or size by the broker; only `trim` deletes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.errors import KafkaError, LeaderNotAvailableError, NotLeaderForPartitionError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Int64, Schema, String
from aiokafka.structs import TopicPartition

from perdure.schemas.backoff import Backoff
from perdure.schemas.errors import ConfigError, LogCorrupt, LogUnreachable, PerdureError
from perdure.schemas.findings import REFUSED, WARNING, Finding
from perdure.streams.log.base import Topic
from perdure.streams.log.kafka.checks import KEPT_DAYS, LOOKED_AT, SETTINGS, setting_findings
from perdure.streams.log.kafka.clients import UNREACHED, Endpoint, close_client
from perdure.streams.log.kafka.metadata import (
    TOPIC_DENIED,
    Described,
    described,
    has_delete_records,
    settings_in_force,
)
from perdure.streams.log.kafka.probe import Diagnosis, diagnose, unreachable
from perdure.streams.log.kafka.rights import WANTED, grant, missing_rights

TOPIC_ALREADY_EXISTS, CLUSTER_DENIED = 36, 31
JOURNAL = list(Topic).index(Topic.JOURNAL)
TRIM_TIMEOUT_MS = 30_000  # a slow replica delays the answer
RETRY_S = (0.1, 1.0)  # first and longest pause between attempts

_logger = logging.getLogger("perdure")  # in a command without a log of its own: stderr


class _DescribeLogDirsResponse(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 35
    API_VERSION = 1
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "log_dirs",
            Array(
                ("error_code", Int16),
                ("log_dir", String("utf-8")),
                (
                    "topics",
                    Array(
                        ("topic", String("utf-8")),
                        (
                            "partitions",
                            Array(
                                ("partition", Int32),
                                ("size", Int64),
                                ("offset_lag", Int64),
                                ("is_future", Boolean),
                            ),
                        ),
                    ),
                ),
            ),
        ),
    )


class _DescribeLogDirsStruct(RequestStruct):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 35
    API_VERSION = 1
    RESPONSE_TYPE = _DescribeLogDirsResponse
    SCHEMA = Schema(("topics", Array(("topic", String("utf-8")), ("partitions", Array(Int32)))))


class _DescribeLogDirs(Request[_DescribeLogDirsStruct]):  # type: ignore[misc]  # aiokafka ships no types
    """A request to one broker for the sizes of its replicas (aiokafka does not have it)."""

    API_KEY: ClassVar[int] = 35

    def __init__(self, topics: Sequence[tuple[str, Sequence[int]]]) -> None:
        self._topics = topics

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class(self._topics)


async def partitions_of(endpoint: Endpoint, topic: str) -> int:
    """How many partitions a topic has; 0: there is none of that name. Raises `LogUnreachable`."""
    admin: Any = AIOKafkaAdminClient(**endpoint.options("asking"))
    try:
        await admin.start()
        existing = (await described(admin, [topic])).get(topic)
    except UNREACHED as error:
        raise await unreachable(endpoint, error) from error
    finally:
        await close_client(admin)
    if existing is None:
        return 0
    if existing.error_code:
        raise LogUnreachable(f"Kafka at {endpoint.bootstrap} on {topic}: {for_code(existing.error_code)!r}")
    return len(existing.leaders)


async def ends_of(endpoint: Endpoint, counts: Mapping[str, int], purpose: str) -> dict[str, int]:
    """How many records each topic was ever given, by name. Raises one of `UNREACHED`.

    `counts`: the partitions of each topic; `purpose` names the client.
    """
    consumer: Any = AIOKafkaConsumer(enable_auto_commit=False, **endpoint.options(purpose))
    try:
        await consumer.start()
        places = [TopicPartition(name, n) for name, count in counts.items() for n in range(count)]
        ends = await consumer.end_offsets(places)
    finally:
        await consumer.stop()
    return {name: sum(end for place, end in ends.items() if place.topic == name) for name in counts}


def misfit(
    journal: str, counts: Mapping[str, int], ends: Mapping[str, int], wanted: int, where: str
) -> PerdureError | None:
    """The error for topics that are missing, or do not all have `wanted`
    partitions; None if they can be used or made.

    `counts` are the partitions of the topics that exist, `ends` how many records each was ever given. Each
    text names a way out, which depends on whether the app was served before: its journal says so, and so does
    what the others hold.
    """
    delete = f"kafka-topics.sh --bootstrap-server {where} --delete --topic"
    odd = {name: count for name, count in counts.items() if count != wanted}
    missing = [
        name for name in (f"{journal.rpartition('.')[0]}.{topic}" for topic in Topic) if name not in counts
    ]
    if odd and not missing and len(set(counts.values())) == 1:
        return ConfigError(
            f"topic {journal} has {counts[journal]} partitions, but {wanted} are configured. Configure "
            f"{counts[journal]}; or, to change the number, stop the app and run perdure rescale --partitions {wanted}"
        )
    if not ends.get(journal):
        return _unserved(
            journal, counts, odd, [name for name in counts if name != journal and ends[name]], wanted, delete
        )
    if missing:
        return LogCorrupt(
            f"topic {missing[0]} is gone, and {journal} has records: it was deleted. Restore it from a backup. If it is "
            "lost for good, create it empty with the settings of the others, and run `perdure state adopt`"
        )
    made = counts[journal]
    for name, count in counts.items():
        if count > made:
            return ConfigError(partitions_added(name, made, count))
        if count < made:
            return LogCorrupt(
                f"topic {name} has {count} partitions, the journal {made}: it was deleted and made again. Delete it "
                f"({delete} {name}) and restore it from a backup"
            )
    return None


def _unserved(
    journal: str,
    counts: Mapping[str, int],
    odd: Mapping[str, int],
    held: Sequence[str],
    wanted: int,
    delete: str,
) -> PerdureError | None:
    """As `misfit`, where the journal has no record, so that the app was never served, or has lost it."""
    if not odd:
        return None  # whether what the others hold is from an app that was served is seen record by record
    if journal in odd and held:
        return LogCorrupt(
            f"topic {journal} is empty and has {odd[journal]} partitions, but {held[0]} holds records: the journal was "
            f"deleted and made again, and state cannot be rebuilt without it. Delete it ({delete} {journal}) and "
            "restore it from a backup; or delete all topics of the app, which loses everything"
        )
    name, count = next(iter(odd.items()))
    return ConfigError(
        f"topic {name} has {count} partitions, {wanted} are configured, and perdure did not make it: this app was "
        "never served. A client that produced before the first start makes the brokers create it "
        f"(auto.create.topics.enable). Delete it ({delete} {name}), start perdure, then the clients; or, if the "
        f"number is on purpose, set partitions = {count}"
    )


def partitions_added(name: str, made: int, count: int) -> str:
    """The text of the error for a topic with more partitions than the app has."""
    return (
        f"partitions were added to topic {name}: it has {count}, the app was created with {made}. What clients produce into "
        f"the added ones is never read. Kafka takes no partitions away. Stop the clients and the app, and run perdure "
        f"rescale --partitions {count}, which copies the state to topics of their own (docs/operations.md)"
    )


class Topics:
    """The administrative side of one app's topics; `names` are Kafka's."""

    def __init__(
        self,
        endpoint: Endpoint,
        names: Sequence[str],
        partitions: int,
        replication_factor: int | None,
        *,
        leaving: bool = False,
    ) -> None:
        self._endpoint = endpoint
        self._bootstrap = endpoint.bootstrap
        self.ids: Mapping[
            str, str
        ] = {}  # of the topics by name, as they were at the start; none of old brokers
        self._names = names
        self._partitions = partitions
        self._copies = replication_factor
        self._leaving = leaving  # topics that were given more partitions do as well
        self.trims = True  # False: the brokers have no DeleteRecords
        self._admin: Any = AIOKafkaAdminClient(**endpoint.options("admin"))
        self._trimmer: Any = None
        self._loop = asyncio.get_running_loop()

    async def start(self, timeout_s: float) -> None:
        """Connect, make what is absent, check what is there. Raises `LogUnreachable`, `ConfigError`."""
        until_s, backoff = self._loop.time() + timeout_s, Backoff(*RETRY_S, Random())
        last: object = "no broker answered"
        before: Diagnosis | None = None  # why the previous attempt failed
        while self._loop.time() < until_s:
            try:
                async with asyncio.timeout_at(until_s):
                    await self._admin.start()
                    if await self._ready():
                        return
                    last = "not every partition has a leader"
            except UNREACHED as error:
                last, diagnosis = repr(error), await diagnose(self._endpoint)
                if diagnosis.certain and diagnosis == before:
                    raise ConfigError(
                        f"Kafka at {self._bootstrap} cannot be used: {diagnosis.text}"
                    ) from None
                before = diagnosis
            await asyncio.sleep(min(backoff.failed(), max(until_s - self._loop.time(), 0)))
        raise LogUnreachable(
            f"Kafka at {self._bootstrap} was not ready within {timeout_s:.0f} s: {last}. "
            f"{(await diagnose(self._endpoint)).text}"
        )

    async def _ready(self) -> bool:
        """One attempt: True if all topics exist, have the right settings, and
        every partition has a leader.
        """
        existing = await self.described()
        if lacking := missing_rights(self._endpoint, existing):
            raise ConfigError(lacking)
        if any(each.error_code for each in existing.values()):
            return False
        counts = {name: len(each.leaders) for name, each in existing.items()}
        absent = [name for name in self._names if name not in existing]
        if self._leaving:
            counts = {name: min(count, self._partitions) for name, count in counts.items()}
        if any(count != self._partitions for count in counts.values()) or (absent and existing):
            (journal,) = [name for name in self._names if name.endswith(".journal")]
            ends = await ends_of(self._endpoint, counts, "ends")
            if (error := misfit(journal, counts, ends, self._partitions, self._bootstrap)) is not None:
                raise error
        if absent:
            await self._create(absent)
            return False
        if any(leader < 0 for each in existing.values() for leader in each.leaders):
            return False
        self._judge(await self._findings(existing))
        if not self._leaving and (lacking := missing_rights(self._endpoint, existing, WANTED)):
            _logger.warning("Kafka does not allow all that perdure wants to do: %s", lacking)
        self.ids = {name: each.id for name, each in existing.items() if each.id}
        return True

    async def described(self) -> Mapping[str, Described]:
        """What the brokers say of the topics, now. Raises one of `UNREACHED`."""
        return await described(self._admin, self._names)

    async def _create(self, names: Sequence[str]) -> None:
        copies = self._copies
        if copies is None:
            copies = min(3, len((await self._admin.describe_cluster())["brokers"]))
        settings = {**SETTINGS, "min.insync.replicas": "2" if copies >= 3 else "1"}
        by_age = settings | {"retention.ms": str(KEPT_DAYS * 86_400_000)}
        trims = has_delete_records(self._admin)
        new = [
            NewTopic(
                name,
                self._partitions,
                copies,
                topic_configs=settings if trims or name.endswith(".journal") else by_age,
            )
            for name in names
        ]
        for name, error_code, *text in (await self._admin.create_topics(new)).topic_errors:
            if error_code in (0, TOPIC_ALREADY_EXISTS):
                continue
            error = for_code(error_code)
            if error.retriable:
                raise error(f"creating topic {name}: {text}")
            reason = text[0] if text and text[0] else error.__name__
            if error_code in (TOPIC_DENIED, CLUSTER_DENIED):
                reason = f"not allowed. Make the topics by docs/deploy/make-topics.sh, or {grant(self._endpoint, name, ('Create',))}"
            raise ConfigError(f"topic {name} could not be created with replication factor {copies}: {reason}")

    async def _findings(self, existing: Mapping[str, Described]) -> Sequence[Finding]:
        """What the settings in force mean. Topics whose settings may not be seen are the operator's
        business."""
        self.trims = has_delete_records(self._admin)
        settings = await settings_in_force(self._admin, self._names, LOOKED_AT)
        return [
            finding
            for name, values in settings.items()
            for finding in setting_findings(self._endpoint, name, values, existing[name], trims=self.trims)
        ]

    def _judge(self, findings: Sequence[Finding]) -> None:
        """Raise `ConfigError` for the first refusal; log each warning."""
        for finding in findings:
            if finding.state == REFUSED:
                raise ConfigError(str(finding))
        weak = [finding for finding in findings if finding.state == WARNING and not self._leaving]
        journal = [each for each in weak if each.check == f"copies of {self._names[JOURNAL]}"]
        for finding in [each for each in weak if not each.check.startswith("copies of ")] + journal:
            text = "a topic's settings weaken a promise; perdure doctor shows all: %s"
            _logger.warning(text, finding)  # of the copies one line: the topics are usually made alike

    async def trim(self, place: TopicPartition, before: int) -> None:
        """Delete the records below an offset; nothing where brokers remove them by age. Raises one of
        `UNREACHED`.

        Brokers answer when every live replica has removed them, and answer the requests of one connection in
        order: so this is a client of its own.
        """
        if not self.trims:
            return
        if self._trimmer is None:
            trimmer: Any = AIOKafkaAdminClient(
                **(self._endpoint.options("trim") | {"request_timeout_ms": TRIM_TIMEOUT_MS})
            )
            try:
                await trimmer.start()
            except BaseException:
                await close_client(trimmer._client)
                raise
            self._trimmer = trimmer
        for again in (True, False):
            try:
                await self._trimmer.delete_records({place: RecordsToDelete(before)})
            except (NotLeaderForPartitionError, LeaderNotAvailableError):
                if not again:
                    raise
            else:
                return

    async def sizes(self) -> Mapping[str, int]:
        """Bytes of one copy of each topic. Raises one of `UNREACHED`."""
        every = list(range(self._partitions))
        largest: dict[tuple[str, int], int] = {}
        for broker in (await self._admin.describe_cluster())["brokers"]:
            request = _DescribeLogDirs([(name, every) for name in self._names])
            response = await self._admin._send_request(request, broker["node_id"])
            for error_code, _, topics in response.log_dirs:
                if error_code:
                    raise KafkaError(
                        f"the sizes of broker {broker['node_id']}: {for_code(error_code).__name__}"
                    )
                for name, partitions in topics:
                    for partition, size, *_ in partitions:
                        largest[name, partition] = max(size, largest.get((name, partition), 0))
        sums = dict.fromkeys(self._names, 0)
        for (name, _), size in largest.items():
            sums[name] += size
        return sums

    async def close(self) -> None:
        for admin in (self._admin, self._trimmer):
            if admin is not None:
                await close_client(admin._client)
