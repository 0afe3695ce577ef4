"""What the listener answers: producing, fetching, metadata, topics of clients."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from random import Random

import pytest
from aiokafka.record.memory_records import MemoryRecords
from tests.wire_client import COMMANDS, JOURNAL, REPLIES, Listening, batch, fetch_of, run

from perdure.streams.log.base import Record, Topic, durable
from perdure.streams.log.embedded.tail import CHUNK
from perdure.streams.wire.errors import Code
from perdure.streams.wire.requests import APIS


def values(data: bytes | None) -> list[bytes | None]:
    """The values of the records of a fetch response."""
    found, records = [], MemoryRecords(data or b"")
    while records.has_next():
        found += [each.value for each in records.next_batch()]
    return found


@pytest.mark.parametrize("version", range(3, 9))
@pytest.mark.parametrize("acks", [-1, 1])
def test_what_is_produced_is_on_the_log(tmp_path: Path, version: int, acks: int) -> None:
    """What is produced is on the log."""

    async def test(one: Listening) -> None:
        client = await one.connect()
        first = await client.produce(batch(b"a", b"b"), partition=1, acks=acks, version=version)
        second = await client.produce(batch(b"c"), partition=1, acks=acks, version=version)
        assert (first["error"], first["base_offset"], second["base_offset"]) == (0, 0, 2)
        assert first["log_append_time_ms"] == 1_700_000_000_000
        kept = [record async for chunk in one.log.read(Topic.COMMANDS, 1, 0, 3) for record in chunk]
        assert [(each.key, each.value, each.headers) for each in kept] == [
            (b"K/a", value, (("h", b"x"),)) for value in (b"a", b"b", b"c")
        ]

    run(tmp_path, test)


@pytest.mark.parametrize("version", range(4, 13))
def test_durable_records_are_fetched(tmp_path: Path, version: int) -> None:
    """Durable records are fetched."""

    async def test(one: Listening) -> None:
        client = await one.connect()
        for value in (b"0", b"1", b"2"):
            await durable(one.log.append(Topic.REPLIES, 0, Record(b"k", value)))
        part = await client.fetch(REPLIES, 0, 1, version=version)
        assert values(part["records"]) == [b"1", b"2"]
        assert (part["high_watermark"], part["last_stable_offset"], part["aborted"]) == (3, 3, [])
        assert values((await client.fetch(REPLIES, 0, 0, version=version, max_bytes=1))["records"]) == [b"0"]
        assert values((await client.fetch(REPLIES, 0, 3, version=version))["records"]) == []
        assert (await client.fetch(REPLIES, 0, 4, version=version))["error"] == Code.OFFSET_OUT_OF_RANGE
        assert (await client.fetch(REPLIES, 9, 0, version=version))[
            "error"
        ] == Code.UNKNOWN_TOPIC_OR_PARTITION
        assert (await client.fetch("other", 0, 0, version=version))[
            "error"
        ] == Code.UNKNOWN_TOPIC_OR_PARTITION

    run(tmp_path, test)


def test_a_fetch_waits_for_the_next_record_and_not_longer(tmp_path: Path) -> None:
    """A fetch waits for the next record and not longer."""

    async def test(one: Listening) -> None:
        client, other = await one.connect(), await one.connect()
        client.send("Fetch", 11, fetch_of(REPLIES, 0, 0, wait_ms=60_000))
        for _ in range(3):  # the other partition wakes nobody
            await durable(one.log.append(Topic.REPLIES, 1, Record(b"k", b"elsewhere")))
        await other.ask("Metadata", 9, topics=[])  # other connections are answered meanwhile
        await durable(one.log.append(Topic.REPLIES, 0, Record(b"k", b"here")))
        _, response = await client.receive("Fetch", 11)
        assert values(response["topics"][0]["partitions"][0]["records"]) == [b"here"]
        assert values((await client.fetch(REPLIES, 0, 1, wait_ms=20))["records"]) == []
        stream = one.listener.broker.log.stream(Topic.REPLIES, 0)
        assert not stream.watchers

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("topic", "code"),
    [
        (JOURNAL, Code.TOPIC_AUTHORIZATION_FAILED),
        (REPLIES, Code.TOPIC_AUTHORIZATION_FAILED),
        ("app.dead", Code.TOPIC_AUTHORIZATION_FAILED),
        ("app.other", Code.UNKNOWN_TOPIC_OR_PARTITION),
    ],
)
def test_only_commands_are_written_by_clients(tmp_path: Path, topic: str, code: Code) -> None:
    """Only commands are written by clients."""

    async def test(one: Listening) -> None:
        client = await one.connect()
        result = await client.produce(batch(b"x"), topic=topic)
        assert (result["error"], result["base_offset"]) == (code, -1)
        assert result["error_message"]
        assert all([(await one.log.bounds(each, 0)).end == 0 for each in Topic])

    run(tmp_path, test)


def test_no_client_takes_the_answer_of_a_door(tmp_path: Path) -> None:
    """A command to be answered in this process belongs to one of its doors."""

    async def test(one: Listening) -> None:
        client = await one.connect()
        result = await client.produce(batch(b"x", header=("reply-to", b"local")))
        assert result["error"] == Code.INVALID_RECORD
        assert (await client.produce(batch(b"x", header=("reply-to", b"0/mine"))))["error"] == 0

    run(tmp_path, test)


def test_a_batch_that_is_refused_leaves_nothing_and_the_others_are_kept(tmp_path: Path) -> None:
    """A batch that is refused leaves nothing and the others are kept."""

    async def test(one: Listening) -> None:
        client = await one.connect()
        broken = bytearray(batch(b"x", b"y"))
        broken[-1] ^= 1
        parts = [{"index": 0, "records": bytes(broken)}, {"index": 1, "records": batch(b"z")}]
        response = await client.ask(
            "Produce", 8, acks=-1, timeout_ms=1, topics=[{"name": COMMANDS, "partitions": parts}]
        )
        errors = [part["error"] for part in response["topics"][0]["partitions"]]
        assert errors == [Code.CORRUPT_MESSAGE, 0]
        assert [(await one.log.bounds(Topic.COMMANDS, each)).end for each in (0, 1)] == [0, 1]
        assert (await client.produce(batch(b"x"), acks=2))["error"] == Code.INVALID_REQUIRED_ACKS

    run(tmp_path, test)


def test_nothing_is_answered_without_acks(tmp_path: Path) -> None:
    """Nothing is answered without acks."""

    async def test(one: Listening) -> None:
        client = await one.connect()
        topics = [{"name": COMMANDS, "partitions": [{"index": 0, "records": batch(b"x")}]}]
        client.send("Produce", 7, {"acks": 0, "timeout_ms": 1, "topics": topics})
        assert (await client.produce(batch(b"y"), version=7))["base_offset"] == 1

    run(tmp_path, test)


def test_answers_come_in_the_order_of_the_requests(tmp_path: Path) -> None:
    """Answers come in the order of the requests."""

    async def test(one: Listening) -> None:
        client = await one.connect()
        numbers = []
        for n in range(30):
            topics = [{"name": COMMANDS, "partitions": [{"index": 0, "records": batch(b"%d" % n)}]}]
            numbers.append(client.send("Produce", 8, {"acks": -1, "timeout_ms": 1, "topics": topics}))
        numbers.append(client.send("ApiVersions", 0, {}))
        for n in range(30):
            correlation, response = await client.receive("Produce", 8)
            assert (correlation, response["topics"][0]["partitions"][0]["base_offset"]) == (numbers[n], n)
        assert (await client.receive("ApiVersions", 0))[0] == numbers[-1]

    run(tmp_path, test)


class TestIdempotence:
    """Batches of an idempotent producer."""

    def test_a_batch_that_is_sent_again_has_its_first_offset(self, tmp_path: Path) -> None:
        """A batch that is sent again has its first offset."""

        async def test(one: Listening) -> None:
            client = await one.connect()
            made = await client.ask("InitProducerId", 3, timeout_ms=1)
            who = {"producer": made["producer_id"], "epoch": made["producer_epoch"]}
            sent = [batch(b"%d" % n, b"and", sequence=2 * n, **who) for n in range(8)]
            assert [(await client.produce(each))["base_offset"] for each in sent] == list(range(0, 16, 2))
            for again in range(3, 8):  # the last five are known
                assert (await client.produce(sent[again]))["base_offset"] == 2 * again
            assert (await client.produce(sent[0]))["error"] == Code.DUPLICATE_SEQUENCE_NUMBER
            assert (await client.produce(sent[0], partition=1))[
                "base_offset"
            ] == 0  # numbers are by partition
            assert (await one.log.bounds(Topic.COMMANDS, 0)).end == 16

        run(tmp_path, test)

    def test_a_gap_and_an_old_epoch_are_refused(self, tmp_path: Path) -> None:
        """A gap and an old epoch are refused."""

        async def test(one: Listening) -> None:
            client = await one.connect()
            assert (await client.produce(batch(b"0", producer=5, epoch=1, sequence=0)))["error"] == 0
            for data, code in (
                (batch(b"2", producer=5, epoch=1, sequence=2), Code.OUT_OF_ORDER_SEQUENCE_NUMBER),
                (batch(b"1", producer=5, epoch=0, sequence=1), Code.INVALID_PRODUCER_EPOCH),
                (batch(b"1", producer=5, epoch=2, sequence=1), Code.OUT_OF_ORDER_SEQUENCE_NUMBER),
                (batch(b"1", producer=5, epoch=2, sequence=0), 0),
            ):
                assert (await client.produce(data))["error"] == code

        run(tmp_path, test)

    def test_it_is_known_after_a_restart(self, tmp_path: Path) -> None:
        """It is known after a restart."""
        data = batch(b"x", b"y", producer=9, epoch=0, sequence=2**31 - 1)

        async def first(one: Listening) -> None:
            assert (await (await one.connect()).produce(data))["base_offset"] == 0

        async def second(one: Listening) -> None:
            client = await one.connect()
            assert (await client.produce(data))["base_offset"] == 0
            following = await client.produce(batch(b"z", producer=9, epoch=0, sequence=1))  # numbers wrap
            assert following["base_offset"] == 2

        run(tmp_path, first)
        run(tmp_path, second)

    def test_few_producers_are_remembered(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Few producers are remembered."""
        monkeypatch.setattr("perdure.streams.wire.producers.MAX_KNOWN", 3)

        async def test(one: Listening) -> None:
            client = await one.connect()
            for producer in range(10):
                await client.produce(batch(b"x", producer=producer, epoch=0, sequence=0))
            assert len(list(one.listener.broker.log.rows(b"producer/"))) == 3
            assert (await client.produce(batch(b"x", producer=9, epoch=0, sequence=0)))["base_offset"] == 9
            assert (await client.produce(batch(b"x", producer=0, epoch=0, sequence=0)))["base_offset"] == 10

        run(tmp_path, test)


@pytest.mark.parametrize("version", range(10))
def test_metadata_names_one_broker_and_the_topics(tmp_path: Path, version: int) -> None:
    """Metadata names one broker and the topics."""

    async def test(one: Listening) -> None:
        client = await one.connect()
        everything = [] if version == 0 else None
        response = await client.ask("Metadata", version, topics=everything)
        assert [(each["host"], each["port"]) for each in response["brokers"]] == [("127.0.0.1", one.port)]
        assert {topic["name"]: len(topic["partitions"]) for topic in response["topics"]} == dict.fromkeys(
            ("app.commands", "app.journal", "app.replies", "app.dead"), 2
        )
        named = await client.ask("Metadata", version, topics=[{"name": COMMANDS}, {"name": "gone"}])
        assert [topic["error"] for topic in named["topics"]] == [0, Code.UNKNOWN_TOPIC_OR_PARTITION]
        if version:
            assert (await client.ask("Metadata", version, topics=[]))["topics"] == []

    run(tmp_path, test)


@pytest.mark.parametrize("version", range(1, 6))
def test_offsets_are_listed_by_time(tmp_path: Path, version: int) -> None:
    """Offsets are listed by time."""
    now = [1_000]

    async def test(one: Listening) -> None:
        client = await one.connect()

        async def offset(timestamp: int) -> tuple[int, int]:
            parts = [{"index": 0, "current_leader_epoch": -1, "timestamp": timestamp}]
            response = await client.ask(
                "ListOffsets", version, topics=[{"name": REPLIES, "partitions": parts}]
            )
            part = response["topics"][0]["partitions"][0]
            return part["offset"], part["timestamp"]

        assert [await offset(each) for each in (-2, -1, 0)] == [(0, -1), (0, -1), (-1, -1)]
        for now[0] in (1_000, 1_000, 2_000, 5_000):
            await durable(one.log.append(Topic.REPLIES, 0, Record(b"k", b"v")))
        assert [await offset(each) for each in (-2, -1)] == [(0, -1), (4, -1)]
        assert [(await offset(each)) for each in (0, 1_000, 1_001, 5_000)] == [
            (0, 1_000),
            (0, 1_000),
            (2, 2_000),
            (3, 5_000),
        ]
        assert await offset(5_001) == (-1, -1)

    run(tmp_path, test, clock_ms=lambda: now[0])


@pytest.mark.parametrize("version", range(2, 5))
def test_clients_have_topics_of_their_own(tmp_path: Path, version: int) -> None:
    """Clients have topics of their own."""

    async def create(one: Listening, name: str, partitions: int = 3, **more: object) -> int:
        topic = {
            "name": name,
            "partitions": partitions,
            "replication_factor": 1,
            "assignments": [],
            "configs": [],
        }
        response = await (await one.connect()).ask(
            "CreateTopics", version, topics=[topic | more], timeout_ms=1
        )
        code: int = response["topics"][0]["error"]
        return code

    async def first(one: Listening) -> None:
        client = await one.connect()
        assert await create(one, "mine") == 0
        assert await create(one, "mine") == Code.TOPIC_ALREADY_EXISTS
        assert await create(one, "no/name") == Code.INVALID_TOPIC
        assert await create(one, "none", partitions=0) == Code.INVALID_PARTITIONS
        assert await create(one, "three", replication_factor=3) == Code.INVALID_REPLICATION_FACTOR
        assert await create(one, "app.own") == Code.POLICY_VIOLATION
        assert await create(one, "many", partitions=100_000) == Code.POLICY_VIOLATION
        assert await create(one, "kept", configs=[{"name": "cleanup.policy", "value": "compact"}]) == 0
        assert (await client.produce(batch(b"a", b"b"), topic="mine", partition=2))["base_offset"] == 0
        assert values((await client.fetch("mine", 2, 0))["records"]) == [b"a", b"b"]

    async def second(one: Listening) -> None:
        client = await one.connect()
        assert (await client.produce(batch(b"c"), topic="mine", partition=2))["base_offset"] == 2
        assert values((await client.fetch("mine", 2, 1))["records"]) == [b"b", b"c"]
        assert [(await client.fetch("kept", each, 0))["high_watermark"] for each in range(3)] == [0, 0, 0]
        assert (await one.log.bounds(Topic.COMMANDS, 0)).end == 0

    run(tmp_path, first)
    run(tmp_path, second)


def test_what_is_too_old_leaves_topics_of_clients(tmp_path: Path) -> None:
    """What is too old leaves topics of clients."""
    now = [0]

    async def test(one: Listening) -> None:
        client, access = await one.connect(), one.listener.broker.log
        await durable(access.create("short", 1, compacted=False))
        await durable(access.create("long", 1, compacted=True))
        for topic in ("short", "long"):
            for now[0] in (100_000, 200_000, 300_000):
                await client.produce(batch(b"x"), topic=topic)
        now[0] = 340_000
        one.listener.trim()
        assert (await client.fetch("short", 0, 3))["log_start_offset"] == 2
        assert (await client.fetch("long", 0, 1))["log_start_offset"] == 0

    run(tmp_path, test, clock_ms=lambda: now[0], keep_ms=100_000)


@pytest.mark.parametrize("version", [1, 2])
def test_settings_of_topics_are_described(tmp_path: Path, version: int) -> None:
    """Settings of topics are described."""

    async def test(one: Listening) -> None:
        client = await one.connect()
        wanted = [
            {"type": 2, "name": COMMANDS, "keys": None},
            {"type": 2, "name": "gone", "keys": ["cleanup.policy"]},
        ]
        response = await client.ask("DescribeConfigs", version, resources=wanted)
        named = {each["name"]: each["value"] for each in response["results"][0]["configs"]}
        assert (named["cleanup.policy"], named["retention.ms"]) == ("delete", "5000")
        assert response["results"][1]["error"] == Code.UNKNOWN_TOPIC_OR_PARTITION

    run(tmp_path, test, keep_ms=5_000)


@pytest.mark.parametrize("version", range(4))
def test_the_versions_are_those_that_are_answered(tmp_path: Path, version: int) -> None:
    """The versions are those that are answered."""

    async def test(one: Listening) -> None:
        response = await (await one.connect()).ask(
            "ApiVersions", version, software_name="x", software_version="1"
        )
        assert {each["key"]: (each["first"], each["last"]) for each in response["apis"]} == {
            key: (api.first, api.last) for key, api in APIS.items() if key not in (17, 36)
        }

    run(tmp_path, test)


def test_a_version_that_is_too_new_is_answered_in_the_oldest(tmp_path: Path) -> None:
    """A version that is too new is answered in the oldest."""

    async def test(one: Listening) -> None:
        client = await one.connect()
        client.raw(b"\x00\x00\x00\x0f\x00\x12\x00\x05\x00\x00\x00\x07\x00\x04test\x00")
        assert await client.receive("ApiVersions", 0) == (
            7,
            {"error": 35, "apis": [{"key": 18, "first": 0, "last": 3}], "throttle_ms": None},
        )
        assert (await client.ask("ApiVersions", 3, software_name="x", software_version="1"))["error"] == 0

    run(tmp_path, test)


def test_the_log_that_stops_is_an_error_of_each_batch(tmp_path: Path) -> None:
    """The log that stops is an error of each batch."""

    async def test(one: Listening) -> None:
        client = await one.connect()
        one.log._stop(OSError("the disk is gone"))
        assert (await client.produce(batch(b"x")))["error"] == Code.KAFKA_STORAGE_ERROR
        await asyncio.sleep(0)

    run(tmp_path, test)


def test_the_reader_of_a_large_batch_gets_it_in_pieces(tmp_path: Path) -> None:
    """Between them the event loop does other work; small batches before and behind it keep their order."""

    async def test(one: Listening) -> None:
        seen: list[bytes | None] = []
        passes: list[int] = []
        loop = asyncio.get_running_loop()

        def count() -> None:
            passes.append(len(seen))
            if len(seen) < 3_002:
                loop.call_soon(count)

        one.log.tail(Topic.COMMANDS, 0, 0, lambda record: seen.append(record.value))
        client = await one.connect()
        large = batch(*[b"%d" % n for n in range(3_000)])
        for data in (batch(b"first"), large, batch(b"last")):
            topics = [{"name": COMMANDS, "partitions": [{"index": 0, "records": data}]}]
            client.send("Produce", 8, {"acks": -1, "timeout_ms": 1, "topics": topics})
        count()
        for base in (0, 1, 3_001):
            _, response = await client.receive("Produce", 8)
            assert response["topics"][0]["partitions"][0]["base_offset"] == base
        while len(seen) < 3_002:  # noqa: ASYNC110 - the last pieces are under way
            await asyncio.sleep(0.01)
        assert seen == [b"first", *[b"%d" % n for n in range(3_000)], b"last"]
        steps = [after - before for before, after in itertools.pairwise(passes)]
        assert max(steps) <= 2 * CHUNK

    run(tmp_path, test)


@pytest.mark.parametrize("seed", range(12))
def test_batches_over_connections_that_break_are_appended_once_in_order(tmp_path: Path, seed: int) -> None:
    """An idempotent producer with five batches in flight, which sends again what was not answered."""
    random = Random(seed)

    async def test(one: Listening) -> None:
        client = await one.connect()
        made = await client.ask("InitProducerId", 3, timeout_ms=1)
        batches, sequence = [], 0
        for n in range(30):
            values = [b"%d.%d" % (n, k) for k in range(random.choice((1, 2, 7, 400)))]
            batches.append((values, batch(*values, producer=made["producer_id"], epoch=0, sequence=sequence)))
            sequence += len(values)
        answered, offsets = 0, {}
        while answered < len(batches):
            in_flight = range(answered, min(answered + 5, len(batches)))
            for n in in_flight:
                topics = [{"name": COMMANDS, "partitions": [{"index": 0, "records": batches[n][1]}]}]
                client.send("Produce", 8, {"acks": -1, "timeout_ms": 1, "topics": topics})
            for n in in_flight[: random.randrange(6)]:
                _, response = await client.receive("Produce", 8)
                part = response["topics"][0]["partitions"][0]
                assert part["error"] == 0
                assert offsets.setdefault(n, part["base_offset"]) == part["base_offset"]
                answered = n + 1
            client.close()
            client = await one.connect()
        kept = [
            record.value async for chunk in one.log.read(Topic.COMMANDS, 0, 0, sequence) for record in chunk
        ]
        assert kept == [value for values, _ in batches for value in values]
        assert (await one.log.bounds(Topic.COMMANDS, 0)).end == sequence

    run(tmp_path, test)
