"""SIGKILL in the middle of a hand-over, a take-over and a forward: it goes on, and nothing is doubled."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from aiokafka import AIOKafkaProducer
from tests.acceptance.harness import SOAK, Deployment, load, names, port_of
from tests.acceptance.test_kafka_clients import answers
from tests.acceptance.test_kafka_faults import HONEST, PARTITIONS, Load, deploy_on
from tests.acceptance.test_kafka_nodes import deploy_nodes, node, owners, shared, until
from tests.acceptance.wire import ask
from tests.acceptance.witness import Witness
from tests.kafka import Kafka
from tests.process import DidNotStart

from perdure.schemas.keys import partition_of

CALLS = 40
ALL = SOAK or "PERDURE_CHAOS" in os.environ
LONG = pytest.mark.skipif(not ALL, reason="waits until a node is taken for gone: PERDURE_CHAOS=1 runs it")


def audit(deployment: Deployment, witness: Witness) -> None:
    Deployment(deployment.folder, deployment.data.with_name("data2")).audit(witness)


@LONG
@pytest.mark.parametrize(
    "failpoint", ["handover.signed_off:1", "handover.before_sign_off:2", "handover.signed_off:2"]
)
def test_a_node_that_dies_in_a_hand_over_is_followed(failpoint: str, kafka: Kafka, tmp_path: Path) -> None:
    """Under load, while a second node joins, which then serves everything; each answer holds."""
    deployment, witness = deploy_nodes(kafka, tmp_path), Witness()
    with ThreadPoolExecutor(1) as pool, node(deployment, 1, PERDURE_FAILPOINT=failpoint) as first:
        running = pool.submit(
            lambda: asyncio.run(load(port_of(first), witness, Random(1), names(20), clients=8))
        )
        with node(deployment, 2) as second:
            assert first.wait() == -signal.SIGKILL, first.stderr()
            running.result()
            assert witness.acknowledged > 0
            until(lambda: shared(second, [second]))
            more = Load(second, witness, seed=2)
            more.oks(200)
            more.stop()
            assert more.told.keys() <= HONEST, more.told
            assert second.stop() == 0, second.stderr()
    audit(deployment, witness)


@LONG
@pytest.mark.parametrize("failpoint", ["owner.claimed:1", "owner.before_claim:1", "owner.claimed:2"])
def test_a_successor_that_dies_over_its_claim_is_followed(
    failpoint: str, kafka: Kafka, tmp_path: Path
) -> None:
    """The partition was let go of for it: the node that had it takes it again; each answer holds."""
    deployment, witness = deploy_nodes(kafka, tmp_path), Witness()
    with node(deployment, 1) as first:
        running = Load(first, witness)
        running.oks(100)
        with pytest.raises(DidNotStart) as died, node(deployment, 2, PERDURE_FAILPOINT=failpoint):
            pass
        assert died.value.returncode == -signal.SIGKILL, died.value.stderr
        until(lambda: list(owners(first).values()) == [first.pid] * PARTITIONS)
        running.oks(200)
        running.stop()
        assert running.told.keys() <= HONEST, running.told
        assert first.stop() == 0, first.stderr()
    audit(deployment, witness)


# in the partition that forwards: before its entry, then before the copy leaves, then when it has arrived; at
# home, or in either: before a turn, before an answer leaves, around an append
FORWARDS = [
    *["forward.before_send:9", "forward.arrived:9", "forward.before_entry:9"],
    *["owner.before_turn:9", "owner.before_reply:3", "log.before_write:9", "log.after_sync:12"],
]


@pytest.mark.parametrize("failpoint", FORWARDS[: None if ALL else 1])
def test_a_forward_that_is_cut_off_arrives_once(failpoint: str, kafka: Kafka, tmp_path: Path) -> None:
    """Calls in other partitions than their objects' homes: each has one effect, and one answer."""
    deployment = deploy_on(kafka, tmp_path)
    topic, keys = f"{deployment.config.name}.commands", [f"Counter/c-{n}" for n in range(CALLS)]

    async def produce() -> None:
        async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
            for key in keys:
                wrong = (partition_of(key, PARTITIONS) + 1) % PARTITIONS
                call = b'{"method":"increment","args":[1]}'
                await producer.send_and_wait(topic, call, key=key.encode(), partition=wrong)

    with deployment.serve(environ={"PERDURE_FAILPOINT": failpoint}) as server:
        asyncio.run(produce())
        assert server.wait() == -signal.SIGKILL, server.stderr()
    with deployment.serve() as server:
        found = asyncio.run(answers(kafka.bootstrap, deployment.config.name, "c", CALLS, once=True))
        assert {key: [json.loads(each) for each in values] for key, values in found.items()} == {
            key: [{"result": 1}] for key in keys
        }
        for key in keys:
            count = asyncio.run(ask(port_of(server), "POST", f"/rpc/{key}/value", b"{}"))
            assert count.json == {"result": 1}, (key, count)
        assert server.stop() == 0, server.stderr()
    deployment.verify()
