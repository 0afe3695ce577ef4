"""Client libraries of Kafka with nothing configured: each keyed call takes effect once and is answered.

Which client hashes keys by what, and in which versions this was seen, is the table of docs/kafka.md. A few
clients run each time; all of them under `PERDURE_SOAK=1`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from tests.acceptance.harness import deploy
from tests.kafka import console_producer, or_skip, session_kafka, tools_or_skip
from tests.kafka_clients import CACHE, CLIENTS, ORDINARY, PROGRAMS, Client, NoClient, table

EXAMPLE = Path(__file__).parents[2] / "examples" / "counter.py"
CALLS = 40
PATIENCE_S = 60
ALLOWING = '[kafka]\nreply_topics = ["spring-*", "mine-*"]\n'


@contextmanager
def served(log: str, path: Path, partitions: int, settings: str = "") -> Iterator[tuple[str, str]]:
    """An app on Kafka or on the embedded log: the address of its Kafka, and its name."""
    name = f"t{uuid4().hex[:12]}"
    deployment = deploy(path, log=log, name=name, partitions=partitions, app=EXAMPLE, settings=settings)
    with deployment.serve(*(("--kafka", "127.0.0.1:0") if log == "embedded" else ())) as server:
        address = server.kafka if log == "embedded" else log.removeprefix("kafka://")
        yield address, name
        assert server.stop() == 0, server.stderr()
    deployment.verify()


async def answers(
    address: str, app: str, prefix: str, count: int, *, once: bool = False
) -> dict[str, list[str]]:
    """The results of each object's calls, when `count` objects have one; more of them are waited for a
    moment. `once`: those that came again, as after a crash, count once by their message id.
    """
    found: dict[str, list[str]] = {}
    seen = set[bytes]()
    consumer = AIOKafkaConsumer(f"{app}.replies", bootstrap_servers=address, auto_offset_reset="earliest")
    async with consumer, asyncio.timeout(PATIENCE_S):
        while True:
            batches = await consumer.getmany(timeout_ms=500)
            for record in (each for batch in batches.values() for each in batch):
                key = record.key.decode()
                again = dict(record.headers).get("message-id", b"") in seen
                if key.startswith(f"Counter/{prefix}-") and not (once and again):
                    seen.add(dict(record.headers)["message-id"])
                    found.setdefault(key, []).append(record.value.decode())
            if not batches and len(found) >= count:
                return found


async def make_topic(address: str, name: str, partitions: int) -> None:
    """Create a topic."""
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    await admin.create_topics([NewTopic(name, partitions, 1)])
    await admin.close()


def check(address: str, app: str, prefix: str) -> None:
    """Each of the calls took effect once: its one answer says that the count is 1."""
    found = asyncio.run(answers(address, app, prefix, CALLS))
    wrong = {
        key: results for key, results in found.items() if [json.loads(e) for e in results] != [{"result": 1}]
    }
    assert len(found) == CALLS
    assert not wrong


def through(address: str, app: str, client: Client) -> None:
    """Call through a client, and see what became of it; skips if it cannot be had here."""
    prefix = f"c{uuid4().hex[:8]}"
    try:
        lines = client.run(address, app, prefix, CALLS)
    except NoClient as error:
        if os.environ.get("PERDURE_REQUIRE_CLIENTS") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
    check(address, app, prefix)
    if client.reads:
        seen = Counter(line.split(" ", 2)[0] for line in lines)
        assert {line.split(" ", 2)[1:] == ["ok", '{"result":1}'] for line in lines} == {True}
        assert len(seen) == CALLS


def test_the_table_of_the_document_is_that_of_this_test() -> None:
    """Each client, in the versions that are run here."""
    text = (EXAMPLE.parents[1] / "docs" / "kafka.md").read_text()
    shown = text.partition("| client | versions | its partitioner |\n|---|---|---|\n")[2].partition("\n\n")[0]
    assert shown.splitlines() == table()


@pytest.fixture(scope="module", params=["kafka", "embedded"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    log = f"kafka://{or_skip(session_kafka).bootstrap}" if request.param == "kafka" else "embedded"
    with served(log, tmp_path_factory.mktemp("twelve"), 12, ALLOWING) as place:
        yield place


def test_a_reply_in_a_topic_of_the_client(place: tuple[str, str]) -> None:
    """With its correlation id, as raw bytes; and in the app's replies where there is no such partition."""
    address, app = place
    mine, asked = f"mine-{uuid4().hex[:8]}", uuid4().bytes

    async def tell() -> list[ConsumerRecord]:
        await make_topic(address, mine, 2)
        async with AIOKafkaProducer(bootstrap_servers=address) as producer:
            for partition in (1, 7):
                headers = [
                    ("kafka_replyTopic", mine.encode()),
                    ("kafka_replyPartition", partition.to_bytes(4, "big")),
                    ("kafka_correlationId", asked),
                ]
                call = b'{"method":"increment","args":[1]}'
                key = f"Counter/{mine}".encode()
                await producer.send_and_wait(f"{app}.commands", call, key=key, headers=headers)
        found: list[ConsumerRecord] = []
        consumer = AIOKafkaConsumer(
            mine, f"{app}.replies", bootstrap_servers=address, auto_offset_reset="earliest"
        )
        async with consumer, asyncio.timeout(PATIENCE_S):
            while len(found) < 2:
                record = await consumer.getone()
                if dict(record.headers).get("kafka_correlationId") == asked:
                    found.append(record)
        return sorted(found, key=lambda record: record.value)

    first, second = asyncio.run(tell())
    assert (first.topic, first.partition, json.loads(first.value)) == (mine, 1, {"result": 1})
    assert (second.topic, json.loads(second.value)) == (f"{app}.replies", {"result": 2})
    assert mine.encode() in dict(second.headers)["undelivered"]


@pytest.mark.parametrize("client", ORDINARY, ids=str)
def test_a_client_with_nothing_configured_reaches_every_object(
    place: tuple[str, str], client: Client
) -> None:
    """With 12 partitions: some partitioners agree with Java's for powers of two only."""
    through(*place, client)


@pytest.mark.soak
@pytest.mark.parametrize("partitions", [8, 12])
def test_every_client_of_the_table_reaches_every_object(log: str, tmp_path: Path, partitions: int) -> None:
    """40 of 40 calls, for each of them, and for Kafka's console producer."""
    kafka = or_skip(session_kafka)
    tools_or_skip(kafka)
    missing = []
    with served(log, tmp_path, partitions) as (address, app):
        lines = [f'Counter/console-{n}|{{"method":"increment","args":[1]}}' for n in range(CALLS)]
        properties = {"parse.key": "true", "key.separator": "|"}
        console_producer(Elsewhere(address, kafka.libs), f"{app}.commands", lines, properties=properties)
        check(address, app, "console")
        for client in CLIENTS:
            try:
                client.install()
            except NoClient as error:
                missing.append(str(error))
                continue
            through(address, app, client)
    assert not missing or os.environ.get("PERDURE_REQUIRE_CLIENTS") != "1", missing


class Elsewhere(NamedTuple):
    """The jars of a Kafka, for its tools, and another address."""

    bootstrap: str
    libs: Path | None

    def stop(self) -> None:
        """It is not ours."""


def spring() -> Path:
    """The folder of Spring's jars and the program, compiled once."""
    return _compiled("spring", "spring-kafka-4.0.0")


def smallrye() -> Path:
    """The same of SmallRye, which implements MicroProfile."""
    return _compiled("smallrye", "smallrye-reactive-messaging-kafka-4.28.0")


def _compiled(program: str, version: str) -> Path:
    if absent := [each for each in ("java", "javac", "mvn") if shutil.which(each) is None]:
        raise NoClient(f"not installed: {', '.join(absent)}")
    source, place = PROGRAMS / program, CACHE / version
    if not (place / "done").exists():
        place.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, place, dirs_exist_ok=True)
        for command in (
            ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=libs"],
            ["javac", "-cp", "libs/*", "Ask.java"],
        ):
            subprocess.run(command, cwd=place, check=True, timeout=PATIENCE_S * 10, capture_output=True)
        (place / "done").touch()
    return place


@pytest.mark.soak
@pytest.mark.parametrize("client", [spring, smallrye], ids=["spring", "smallrye"])
def test_request_and_reply_in_java_gets_its_answers(
    log: str, tmp_path: Path, client: Callable[[], Path]
) -> None:
    """In a topic of its own that is allowed, and in the app's replies; errors are answers too."""
    try:
        place = client()
    except NoClient as error:
        pytest.skip(str(error))
    replies = f"spring-{uuid4().hex[:8]}"
    calls = ['{"method":"increment","args":[1]}', '{"method":"increment","args":[2]}', '{"method":"none"}']
    with served(log, tmp_path, 12, settings=ALLOWING) as (address, app):
        asyncio.run(make_topic(address, replies, 3))
        for topic, due in ((replies, [1, 3]), (f"{app}.replies", [4, 6])):
            command = ["java", "-cp", f"{place}:{place}/libs/*", "Ask", address, app, topic, "Counter/s"]
            done = subprocess.run(
                [*command, *calls], capture_output=True, text=True, timeout=PATIENCE_S * 3, check=False
            )
            assert done.returncode == 0, done.stderr[-3000:]
            lines = [each for each in done.stdout.splitlines() if each.startswith(("ok ", "rejected "))]
            assert lines[:2] == [f'ok {{"result":{each}}}' for each in due]
            assert "unknown-method" in lines[2]
