"""Real Kafka clients at the embedded log of a server: they produce calls, read replies, commit and resume."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition as AioPartition
from confluent_kafka import Consumer, Producer, TopicPartition
from tests.kafka import free_ports
from tests.process import COMMAND, Server, serve

APP = """
from perdure import DurableObject

class Counter(DurableObject):
    async def increment(self, by: int = 1) -> int:
        count = await self.state.get("count", 0) + by
        await self.state.put("count", count)
        return count
"""
CALL = b'{"method":"increment","args":[1]}'
MURMUR2 = {"partitioner": "murmur2_random"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("wire")
    (folder / "shop.py").write_text(APP)
    with serve(folder / "shop.py", folder / "data", "--kafka", "127.0.0.1:0") as running:
        yield running


def count(server: Server, name: str) -> Any:
    """The count of a counter, over HTTP."""
    return httpx.post(f"{server.url}/rpc/Counter/{name}/increment", json={"args": [0]}).json()["result"]


def keys(client: str) -> list[bytes]:
    return [f"Counter/{client}-{n}".encode() for n in range(40)]


def read(consumer: Consumer, wanted: int, prefix: bytes) -> list[tuple[bytes, bytes]]:
    """The replies to a client's calls: at least so many, in a time that is long enough."""
    replies: list[tuple[bytes, bytes]] = []
    patience = 100
    while len(replies) < wanted and patience:
        message = consumer.poll(0.1)
        if message is None or message.error() is not None:
            patience -= 1
        elif message.key().startswith(prefix):
            replies.append((message.key(), message.value()))
    return replies


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_librdkafka(server: Server, idempotent: bool, codec: str) -> None:
    """confluent-kafka: 40 keyed calls, their replies by assignment and by a group that resumes."""
    name, common = f"rd-{idempotent}-{codec}", {"bootstrap.servers": server.kafka}
    settings = {"enable.idempotence": idempotent, "compression.type": codec, "linger.ms": 50}
    failed = []
    producer = Producer(common | MURMUR2 | settings)
    for key in keys(name):
        producer.produce(
            "shop.commands", key=key, value=CALL, on_delivery=lambda error, _: error and failed.append(error)
        )
    assert producer.flush(20) == 0
    assert failed == []
    assert [count(server, key.decode().partition("/")[2]) for key in keys(name)] == [1] * 40
    group = common | {"group.id": name, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    consumer = Consumer(group)
    partitions = consumer.list_topics("shop.replies", timeout=10).topics["shop.replies"].partitions
    consumer.assign([TopicPartition("shop.replies", each, 0) for each in partitions])
    assert sorted(read(consumer, 40, f"Counter/{name}-".encode())) == sorted(
        (key, b'{"result":1}') for key in keys(name)
    )
    consumer.close()
    if codec != "none":
        return
    seen = set()
    for part in (15, 25):
        consumer = Consumer(group)
        consumer.subscribe(["shop.replies"])
        replies = read(consumer, part, f"Counter/{name}-".encode())
        assert len(replies) == part
        seen |= {key for key, _ in replies}
        consumer.commit(asynchronous=False)
        consumer.close()
    assert seen == set(keys(name))


def test_aiokafka(server: Server) -> None:
    """The same, by a client of other code: with acks=1 and with idempotence."""

    async def main() -> None:
        for name, settings in (("aio", {}), ("aio-once", {"enable_idempotence": True})):
            async with AIOKafkaProducer(bootstrap_servers=server.kafka, **settings) as producer:
                for key in keys(name):
                    await producer.send_and_wait("shop.commands", key=key, value=CALL)
            replies = [AioPartition("shop.replies", each) for each in range(8)]
            async with AIOKafkaConsumer(bootstrap_servers=server.kafka) as consumer:
                consumer.assign(replies)
                await consumer.seek_to_beginning()
                assert await some(consumer, 40, name) == set(keys(name))
            seen: set[bytes] = set()
            for part in (15, 25):
                async with AIOKafkaConsumer(
                    "shop.replies",
                    bootstrap_servers=server.kafka,
                    group_id=name,
                    auto_offset_reset="earliest",
                    enable_auto_commit=False,
                ) as consumer:
                    replies_read = await some(consumer, part, name)
                    assert not replies_read & seen
                    seen |= replies_read
                    await consumer.commit()
            assert seen == set(keys(name))

    asyncio.run(main())


async def some(consumer: AIOKafkaConsumer, wanted: int, name: str) -> set[bytes]:
    """The keys of the next replies to a client's calls, until there are so many."""
    read_keys: set[bytes] = set()
    async with asyncio.timeout(60):
        while len(read_keys) < wanted:
            record = await consumer.getone()
            if record.key.startswith(f"Counter/{name}-".encode()):
                read_keys.add(record.key)
    return read_keys


def test_a_client_at_the_wrong_topic_is_refused(server: Server) -> None:
    """Replies and the journal are perdure's to write."""
    failed: list[str] = []
    producer = Producer({"bootstrap.servers": server.kafka})
    for topic in ("shop.replies", "shop.journal"):
        producer.produce(topic, b"x", on_delivery=lambda error, _: failed.append(error.name()))
    assert producer.flush(20) == 0
    assert failed == ["TOPIC_AUTHORIZATION_FAILED"] * 2


def test_a_batch_that_is_sent_again_after_a_kill_runs_once(tmp_path: Path) -> None:
    """An idempotent producer goes on over kills of the server: each call has run exactly once."""
    (tmp_path / "shop.py").write_text(APP)
    address = f"127.0.0.1:{free_ports(1)[0]}"
    arguments = (tmp_path / "shop.py", tmp_path / "data", "--kafka", address)
    rounds, failed = 3, []
    producer = Producer(
        {"bootstrap.servers": address, "enable.idempotence": True, "linger.ms": 2, "retry.backoff.ms": 20}
        | MURMUR2
    )
    for number in range(rounds):
        with serve(*arguments) as running:
            for n in range(3_000):
                key = f"Counter/k-{n % 40}".encode()
                producer.produce(
                    "shop.commands",
                    key=key,
                    value=CALL,
                    on_delivery=lambda error, _: error and failed.append(error),
                )
                if n == 1_500 * (number + 1) // rounds:
                    producer.poll(0.05)
            if number < rounds - 1:
                running.stop(signal.SIGKILL)
            else:
                assert producer.flush(60) == 0
                assert failed == []
                assert sum(count(running, f"k-{n}") for n in range(40)) == rounds * 3_000


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A server with a token for Kafka clients, and the token."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "shop.py").write_text(APP)
    create = ["token", "create", "shop", "--scope", "call:*", "--scope", "read:*", "--scram", "--json"]
    made = subprocess.run([*COMMAND, *create], check=True, capture_output=True, text=True)
    token = json.loads(made.stdout)
    lines = [f"{key} = {json.dumps(token[key])}" for key in ("name", "sha256", "scopes", "scram")]
    (folder / "perdure.toml").write_text("\n".join(["[[tokens]]", *lines]))
    with serve(folder / "shop.py", folder / "data", "--kafka", "127.0.0.1:0") as running:
        yield running, token["token"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_clients_authenticate(guarded: tuple[Server, str], mechanism: str) -> None:
    """librdkafka and aiokafka, by each mechanism; with another token nothing is produced."""
    server, token = guarded
    security = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": mechanism, "sasl.username": "shop"}
    common = {"bootstrap.servers": server.kafka, "log_level": 0} | security
    failed: list[Any] = []
    producer = Producer(common | MURMUR2 | {"sasl.password": token})
    producer.produce("shop.commands", key=f"Counter/{mechanism}", value=CALL)
    assert producer.flush(20) == 0
    wrong = {"sasl.password": token[:-1], "message.timeout.ms": 1000}
    denied = Producer(common | wrong | {"error_cb": failed.append})
    denied.produce("shop.commands", key=f"Counter/{mechanism}", value=CALL)
    denied.flush(20)
    assert any(error.name() == "_AUTHENTICATION" for error in failed)

    async def main() -> None:
        consumer = AIOKafkaConsumer(
            "shop.replies",
            bootstrap_servers=server.kafka,
            group_id=mechanism,
            auto_offset_reset="earliest",
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism=mechanism,
            sasl_plain_username="shop",
            sasl_plain_password=token,
        )
        async with asyncio.timeout(60), consumer:
            while (await consumer.getone()).key != f"Counter/{mechanism}".encode():
                pass

    asyncio.run(main())
    headers = {"Authorization": f"Bearer {token}"}
    address = f"{server.url}/rpc/Counter/{mechanism}/increment"
    assert httpx.post(address, json={"args": [0]}, headers=headers).json() == {"result": 1}
