"""Client libraries of Kafka with nothing configured: each keyed call takes effect once and is answered.

Which client hashes keys by what, and in which versions this was seen, is the table of docs/kafka.md. A few
clients run each time; all of them under `PERDURE_SOAK=1`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer
from tests.acceptance.harness import Deployment, deploy
from tests.kafka import Kafka, console_producer, or_skip, session_kafka, tools_or_skip
from tests.kafka_clients import CLIENTS, ORDINARY, Client, NoClient

EXAMPLE = Path(__file__).parents[2] / "examples" / "counter.py"
CALLS = 40
PATIENCE_S = 60
SOAK = os.environ.get("PERDURE_SOAK") == "1"


@contextmanager
def served(kafka: Kafka, path: Path, partitions: int) -> Iterator[Deployment]:
    name = f"t{uuid4().hex[:12]}"
    log = f"kafka://{kafka.bootstrap}"
    deployment = deploy(path, log=log, name=name, partitions=partitions, app=EXAMPLE)
    with deployment.serve() as server:
        yield deployment
        assert server.stop() == 0, server.stderr()
    deployment.verify()


async def answers(kafka: Kafka, app: str, prefix: str, count: int) -> dict[str, list[str]]:
    """The results of each object's calls, when `count` objects have one; more of them are waited for a
    moment.
    """
    found: dict[str, list[str]] = {}
    consumer = AIOKafkaConsumer(
        f"{app}.replies", bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest"
    )
    async with consumer, asyncio.timeout(PATIENCE_S):
        while True:
            batches = await consumer.getmany(timeout_ms=500)
            for record in (each for batch in batches.values() for each in batch):
                key = record.key.decode()
                if key.startswith(f"Counter/{prefix}-"):
                    found.setdefault(key, []).append(record.value.decode())
            if not batches and len(found) >= count:
                return found


def check(kafka: Kafka, app: str, prefix: str) -> None:
    """Each of the calls took effect once: its one answer says that the count is 1."""
    found = asyncio.run(answers(kafka, app, prefix, CALLS))
    wrong = {
        key: results for key, results in found.items() if [json.loads(e) for e in results] != [{"result": 1}]
    }
    assert len(found) == CALLS
    assert not wrong


def through(kafka: Kafka, deployment: Deployment, client: Client) -> None:
    """Call through a client, and see what became of it; skips if it cannot be had here."""
    app, prefix = deployment.config.name, f"c{uuid4().hex[:8]}"
    try:
        lines = client.run(kafka.bootstrap, app, prefix, CALLS)
    except NoClient as error:
        if os.environ.get("PERDURE_REQUIRE_CLIENTS") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
    check(kafka, app, prefix)
    if client.reads:
        seen = Counter(line.split(" ", 2)[0] for line in lines)
        assert {line.split(" ", 2)[1:] == ["ok", '{"result":1}'] for line in lines} == {True}
        assert len(seen) == CALLS


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with served(or_skip(session_kafka), tmp_path_factory.mktemp("twelve"), 12) as deployment:
        yield deployment


@pytest.mark.parametrize("client", ORDINARY, ids=str)
def test_a_client_with_nothing_configured_reaches_every_object(
    kafka: Kafka, deployment: Deployment, client: Client
) -> None:
    """With 12 partitions: some partitioners agree with Java's for powers of two only."""
    through(kafka, deployment, client)


@pytest.mark.soak
@pytest.mark.parametrize("partitions", [8, 12])
def test_every_client_of_the_table_reaches_every_object(
    kafka: Kafka, tmp_path: Path, partitions: int
) -> None:
    """40 of 40 calls, for each of them, and for Kafka's console producer."""
    tools_or_skip(kafka)
    missing = []
    with served(kafka, tmp_path, partitions) as deployment:
        app = deployment.config.name
        lines = [f'Counter/console-{n}|{{"method":"increment","args":[1]}}' for n in range(CALLS)]
        properties = {"parse.key": "true", "key.separator": "|"}
        console_producer(kafka, f"{app}.commands", lines, properties=properties)
        check(kafka, app, "console")
        for client in CLIENTS:
            try:
                client.install()
            except NoClient as error:
                missing.append(str(error))
                continue
            through(kafka, deployment, client)
    assert not missing or os.environ.get("PERDURE_REQUIRE_CLIENTS") != "1", missing
