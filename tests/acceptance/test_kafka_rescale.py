"""`perdure rescale` on a real Kafka: new topics, deaths in between, and partitions that were added."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewPartitions
from tests.acceptance.harness import SOAK, Deployment
from tests.acceptance.test_kafka_topics import KEYS, add, on, on_kafka, refusal
from tests.kafka import Kafka
from tests.process import run

from perdure.schemas.journal import Claim, Migration, encode_chained
from perdure.schemas.migrations import Step, moved, moved_to
from perdure.streams.journal.bootstrap import append_one
from perdure.streams.log.base import Record
from perdure.streams.log.kafka.clients import Endpoint
from perdure.streams.log.kafka.generations import current_generation
from perdure.streams.log.kafka.log import KafkaLog

pytestmark = pytest.mark.kafka


def configure(deployment: Deployment, partitions: int) -> None:
    file = deployment.folder / "perdure.toml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("partitions")]
    file.write_text("\n".join([*lines, f"partitions = {partitions}"]) + "\n")


def served(kafka: Kafka, path: Path) -> Deployment:
    """An app with two partitions that was served and stopped in order; each counter is 1."""
    deployment = on_kafka(kafka, path)
    with deployment.serve() as server:
        assert add(server) == [1] * len(KEYS)
        assert server.stop() == 0
    return deployment


def rescale(deployment: Deployment, partitions: int, failpoint: str = "") -> tuple[int, str, str]:
    environ = {"PERDURE_FAILPOINT": failpoint} if failpoint else {}
    arguments = ("rescale", str(deployment.folder), "--data", str(deployment.data), "--json")
    done = run(*arguments, "--partitions", str(partitions), environ=environ)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "failpoint",
    [
        "rescale.marked:1",
        *(["", "rescale.copied:1", "rescale.marked:2"] if SOAK else []),
        *(["rescale.appended:1", "rescale.compared:1", "rescale.before_switch:1"] if SOAK else []),
    ],
)
def test_an_app_on_kafka_gets_another_number_of_partitions(
    failpoint: str, kafka: Kafka, tmp_path: Path
) -> None:
    """Killed before the steps it serves as it was; between them it is finished by running it again; behind
    them it has happened. The state is the same, and commands go to the new topics."""
    deployment = served(kafka, tmp_path)
    name = deployment.config.name
    if failpoint:
        code, _, stderr = rescale(deployment, 3, failpoint)
        assert code == -signal.SIGKILL, stderr
    expected = 2
    if failpoint == "rescale.copied:1":
        with deployment.serve() as server:
            assert add(server) == [expected] * len(KEYS)
            assert server.stop() == 0
        expected += 1
    if failpoint == "rescale.marked:1":
        assert "was begun and not finished: run perdure rescale --partitions 3 again" in refusal(deployment)
    code, stdout, stderr = rescale(deployment, 3)
    if failpoint == "rescale.marked:2":
        assert "has 3 partitions already" in stderr
    else:
        assert code == 0, stderr
        assert json.loads(stdout)["objects"] == len(KEYS)
    assert "Configure 3" in refusal(deployment)
    configure(deployment, 3)
    with deployment.serve() as server:
        assert add(server) == [expected] * len(KEYS)
        asyncio.run(produce(kafka, f"{name}.g2.commands"))
        assert server.stop() == 0
    verified = run("verify", str(deployment.folder), "--data", str(deployment.data))
    assert verified.returncode == 0, verified.stderr
    shutil.rmtree(deployment.data)
    if not failpoint:
        with deployment.serve() as server:
            counts = add(server)
            assert counts == [expected + 2] + [expected + 1] * (len(KEYS) - 1)


async def produce(kafka: Kafka, topic: str) -> None:
    """A command from a client of Kafka: one more in the first counter."""
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        call = json.dumps({"method": "increment", "args": [1]}).encode()
        await producer.send_and_wait(topic, call, KEYS[0].encode())


def test_partitions_that_were_added_lead_to_a_rescale(kafka: Kafka, tmp_path: Path) -> None:
    """A grown topic is refused with the command, which leads out."""
    deployment = served(kafka, tmp_path)
    topic = f"{deployment.config.name}.commands"
    on(kafka, lambda client: client.create_partitions({topic: NewPartitions(total_count=4)}))
    assert "perdure rescale --partitions 4" in refusal(deployment)
    code, _, stderr = rescale(deployment, 4)
    assert code == 0, stderr
    configure(deployment, 4)
    with deployment.serve() as server:
        assert add(server) == [2] * len(KEYS)


def test_a_step_behind_a_rivals_claim_leads_nowhere(kafka: Kafka, tmp_path: Path) -> None:
    """The generation in force is that of a step that counts."""
    deployment = served(kafka, tmp_path)
    name, endpoint = deployment.config.name, Endpoint(kafka.bootstrap, "test", {})

    async def story() -> list[int]:
        old = KafkaLog(kafka.bootstrap, name, 2, clock_ms=lambda: 1)
        new = KafkaLog(kafka.bootstrap, f"{name}.g2", 3, clock_ms=lambda: 1)
        found = []
        for log in (old, new):
            await log.start()
        try:
            for rival in (True, False):
                ours = await append_one(old, 0, Claim("ours", "rescale"))
                if rival:
                    await append_one(old, 0, Claim("theirs", "node"))
                value, _ = encode_chained(Migration(ours, 0, moved(f"{name}.g2", 3)), bytes(16))
                await append_one(old, 0, Record(None, value))
                found.append(await current_generation(endpoint, name))
        finally:
            for log in (old, new):
                await log.close()
        return found

    assert asyncio.run(story()) == [1, 2]
    assert moved_to(moved("shop.g2", 3)) == (3, "shop.g2")
    assert moved_to(Step("v1")) is None
