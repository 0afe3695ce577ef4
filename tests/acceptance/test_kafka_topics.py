"""An app's topics on a real Kafka, deleted, made again, given more partitions, or made by a client first:
what a node then says, and that what it advises leads out."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

import httpx
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewPartitions, NewTopic
from tests.acceptance.harness import Deployment, deploy
from tests.acceptance.wire import PATIENCE_S
from tests.kafka import Kafka, LocalKafka, admin
from tests.process import DidNotStart, Server, run

from perdure.schemas.keys import partition_of

KEYS = [f"Counter/n{n}" for n in range(6)]


def on(kafka: Kafka, act: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    """What an operator does with the topics."""

    async def acted() -> Any:
        async with admin(kafka) as client:
            return await act(client)

    return asyncio.run(acted())


def delete(kafka: Kafka, *topics: str) -> None:
    """Delete topics and wait until the broker no longer knows them."""

    async def gone(client: Any) -> None:
        await client.delete_topics(list(topics))
        async with asyncio.timeout(PATIENCE_S):
            while set(topics) & set(await client.list_topics()):  # noqa: ASYNC110 - a broker has no event for it
                await asyncio.sleep(0.05)

    on(kafka, gone)


def create(kafka: Kafka, topic: str, partitions: int, **settings: str) -> None:
    named = {name.replace("_", "."): value for name, value in settings.items()}
    on(kafka, lambda client: client.create_topics([NewTopic(topic, partitions, 1, topic_configs=named)]))


def on_kafka(
    kafka: Kafka, path: Path, *, partitions: int = 2, name: str = "", settings: str = ""
) -> Deployment:
    path.mkdir(exist_ok=True)
    name = name or f"t{uuid4().hex[:12]}"
    return deploy(path, log=f"kafka://{kafka.bootstrap}", name=name, partitions=partitions, settings=settings)


def add(server: Server) -> list[int]:
    """One more in each counter; what they are then."""
    counts = []
    for key in KEYS:
        answer = httpx.post(f"{server.url}/objects/{key}", timeout=PATIENCE_S)
        assert answer.status_code == 200, answer.text
        counts.append(answer.json()["count"])
    return counts


def refusal(deployment: Deployment) -> str:
    """What a node says that does not start, in one line."""
    with pytest.raises(DidNotStart) as refused, deployment.serve():
        pass
    assert refused.value.returncode == 1 or "config-error" in refused.value.stderr
    return "perdure: " + " ".join(refused.value.stderr.split()).rpartition("perdure: ")[2]


def test_a_deleted_journal_is_refused_also_without_a_data_directory(kafka: Kafka, tmp_path: Path) -> None:
    """Acknowledged writes, then `{app}.journal` and the data directory go: no
    start, empty or with old commands run again.
    """
    deployment = on_kafka(kafka, tmp_path)
    name = deployment.config.name
    with deployment.serve() as server:
        assert add(server) == [1] * len(KEYS)
        assert server.stop() == 0
    delete(kafka, f"{name}.journal")
    shutil.rmtree(deployment.data)
    told = refusal(deployment)
    assert "served before" in told or "is empty" in told, told
    assert "Restore" in told or "restore" in told, told
    assert refusal(deployment) == told, "the second start says the same"
    delete(
        kafka, *(f"{name}.{topic}" for topic in ("commands", "journal", "replies", "dead"))
    )  # as it advises
    with deployment.serve() as server:
        assert add(server) == [1] * len(KEYS)


def test_a_journal_deleted_under_a_node_stops_it(kafka: Kafka, tmp_path: Path) -> None:
    """The node ends, naming the topic; so does the next start."""
    deployment = on_kafka(kafka, tmp_path)
    topic = f"{deployment.config.name}.journal"
    with deployment.serve() as server:
        assert add(server) == [1] * len(KEYS)
        delete(kafka, topic)
        create(kafka, topic, 2, message_timestamp_type="LogAppendTime", retention_ms="-1")
        assert server.wait() != 0
        assert "deleted and created again" in " ".join(server.stderr().split())
    assert "is empty, and this app was served before" in refusal(deployment) or "ahead of its log" in refusal(
        deployment
    )


def test_replies_made_again_are_refused_until_they_are_adopted(kafka: Kafka, tmp_path: Path) -> None:
    """A topic without state of its own, without a data directory: refused by its
    id; `perdure state adopt` leads out.
    """
    deployment = on_kafka(kafka, tmp_path)
    topic = f"{deployment.config.name}.replies"
    with deployment.serve() as server:
        assert add(server) == [1] * len(KEYS)
        assert server.stop() == 0
    delete(kafka, topic)
    shutil.rmtree(deployment.data)
    told = refusal(deployment)
    assert f"{topic} is gone" in told
    assert "create it empty" in told
    create(kafka, topic, 2, message_timestamp_type="LogAppendTime", retention_ms="-1")
    told = refusal(deployment)
    assert "the topic of the replies is not the one that this app was served with" in told
    assert "perdure state adopt" in told
    done = run("state", "adopt", str(deployment.folder), "--data", str(deployment.data), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["partitions"] == 2
    with deployment.serve() as server:
        assert add(server) == [2] * len(KEYS)


def test_a_journal_that_ends_too_early_is_refused_until_it_is_adopted(kafka: Kafka, tmp_path: Path) -> None:
    """A stopped node has left marks of its journals' ends. With one beyond the end, as after a roll-back, and
    without a data directory it does not start; `perdure state adopt` leads out."""
    deployment = on_kafka(kafka, tmp_path)
    topic = f"{deployment.config.name}.replies"
    with deployment.serve() as server:
        assert add(server) == [1] * len(KEYS)
        assert server.stop() == 0
    for partition in range(2):
        asyncio.run(_mark_ahead(kafka, topic, partition))
    shutil.rmtree(deployment.data)
    told = refusal(deployment)
    assert re.search(r"once ended at \d+ or later: a mark of its end in replies at offset", told), told
    done = run("state", "adopt", str(deployment.folder), "--data", str(deployment.data), "--json")
    assert done.returncode == 0, done.stderr
    with deployment.serve() as server:
        assert add(server) == [2] * len(KEYS)


async def _mark_ahead(kafka: Kafka, topic: str, partition: int) -> None:
    """Append a mark 2 ahead of the last one of a partition."""
    place, last = TopicPartition(topic, partition), 0
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    consumer.assign([place])
    end = (await consumer.end_offsets([place]))[place]
    async with asyncio.timeout(PATIENCE_S):
        while await consumer.position(place) < end:
            headers = dict((await consumer.getone()).headers)
            if headers.get("kind") == b"journal-end":
                last = int(headers["journal"].partition(b":")[2])
    await consumer.stop()
    assert last > 2, "no mark"
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap)
    await producer.start()
    mark = [("kind", b"journal-end"), ("journal", f"{partition}:{last + 2}".encode())]
    await producer.send_and_wait(topic, b"", b"journal", partition=partition, headers=mark)
    await producer.stop()


def test_added_partitions_are_noticed_and_the_advice_leads_out(kafka: Kafka, tmp_path: Path) -> None:
    """Under a running node: not ready, a line in the log, both naming the topic; refused at the next start.
    The way out is a rescale [test_kafka_rescale.py]."""
    deployment = on_kafka(kafka, tmp_path / "old")
    name = deployment.config.name
    with deployment.serve() as server:
        assert add(server) == [1] * len(KEYS)
        on(kafka, lambda client: client.create_partitions({f"{name}.commands": NewPartitions(total_count=4)}))
        ready = _until_not_ready(server)
        (trouble,) = ready["topics"]
        assert trouble["topic"] == f"{name}.commands"
        assert "it has 4, the app was created with 2" in trouble["reason"]
        assert ready["partitions"] == []
        assert "partitions were added to a topic" in server.stderr()
        assert server.stop() == 0
    told = refusal(deployment)
    assert f"partitions were added to topic {name}.commands: it has 4, the app was created with 2" in told
    assert "perdure rescale --partitions 4" in told


def _until_not_ready(server: Server) -> Any:
    return asyncio.run(_until(server, lambda status: status != 200))


def _until_ready(server: Server) -> Any:
    return asyncio.run(_until(server, lambda status: status == 200))


async def _until(server: Server, wanted: Callable[[int], bool]) -> Any:
    """Wait for a status of /readyz; what it says then."""
    async with asyncio.timeout(PATIENCE_S), httpx.AsyncClient() as client:
        while not wanted((answer := await client.get(f"{server.url}/readyz")).status_code):  # noqa: ASYNC110 - it is a page
            await asyncio.sleep(0.1)
        return answer.json()


def test_a_topic_that_a_client_made_first_is_named_with_a_way_out(kafka: Kafka, tmp_path: Path) -> None:
    """As brokers make it for a producer, with one partition and their own settings:
    told whose it is; deleted, it starts.
    """
    deployment = on_kafka(kafka, tmp_path)
    topic = f"{deployment.config.name}.commands"
    create(kafka, topic, 1)
    told = refusal(deployment)
    assert f"topic {topic} has 1 partitions, 2 are configured, and perdure did not make it" in told
    assert f"--delete --topic {topic}" in told
    delete(kafka, topic)
    with deployment.serve() as server:
        assert add(server) == [1] * len(KEYS)


def test_commands_produced_before_the_first_start_are_run(kafka: Kafka, tmp_path: Path) -> None:
    """Topics as perdure wants them, and a client that was first: nothing was served, so nothing was lost."""
    deployment = on_kafka(kafka, tmp_path)
    settings = {"message_timestamp_type": "LogAppendTime", "retention_ms": "-1", "retention_bytes": "-1"}
    create(kafka, f"{deployment.config.name}.commands", 2, **settings)

    async def produce() -> None:
        async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
            for key in KEYS:
                await producer.send_and_wait(
                    f"{deployment.config.name}.commands",
                    b'{"method":"increment"}',
                    key.encode(),
                    partition=partition_of(key, 2),
                )

    asyncio.run(produce())
    with deployment.serve() as server:
        assert add(server) == [2] * len(KEYS)


def test_an_open_transaction_is_named_and_the_advice_ends_it(broker: LocalKafka, tmp_path: Path) -> None:
    """Another client's, on one partition: 503 before the append, not ready, a line with the command that
    aborts it; that command leads out, and what was refused was not done."""
    deployment = on_kafka(broker, tmp_path)
    topic = f"{deployment.config.name}.commands"
    place = partition_of(KEYS[0], 2)
    with deployment.serve() as server, ThreadPoolExecutor(1) as pool:
        assert add(server) == [1] * len(KEYS)
        opened, over = Event(), Event()

        async def hold() -> None:
            producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, transactional_id=topic)
            await producer.start()
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b'{"method":"increment"}', KEYS[0].encode(), partition=place)
            opened.set()
            await asyncio.to_thread(over.wait)
            with suppress(Exception):  # it was aborted by the operator
                await producer.stop()

        holding = pool.submit(lambda: asyncio.run(hold()))
        try:
            assert opened.wait(PATIENCE_S)
            (trouble,) = _until_not_ready(server)["topics"]
            assert (trouble["topic"], trouble["partition"]) == (topic, place)
            answer = httpx.post(f"{server.url}/objects/{KEYS[0]}", timeout=PATIENCE_S)
            assert answer.status_code == 503
            assert "a transaction of another client" in answer.json()["detail"]
            (said,) = re.findall(r"kafka-transactions\.sh (.*)$", trouble["reason"])
            assert said in server.stderr()
            tool = broker.tool("org.apache.kafka.tools.TransactionsCommand", *said.split())
            subprocess.run(tool, check=True, capture_output=True, timeout=60)
            _until_ready(server)
            assert add(server) == [2] * len(KEYS)
        finally:
            over.set()
            holding.result(PATIENCE_S)
