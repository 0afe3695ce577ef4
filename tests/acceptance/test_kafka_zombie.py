"""A node that is stopped (SIGSTOP) for a minute and continues while its successor serves decides nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from threading import Thread

import pytest
from tests.acceptance.harness import SOAK, Deployment, names, port_of
from tests.acceptance.test_kafka_faults import HONEST, PARTITIONS, Load
from tests.acceptance.test_kafka_nodes import deploy_nodes, node, owners, shared, until
from tests.acceptance.wire import PATIENCE_S, Wire
from tests.acceptance.witness import Witness
from tests.kafka import Kafka

from perdure.schemas.config import Config
from perdure.schemas.journal import Claim, EntryRecord, NoOp
from perdure.streams.journal.reader import JournalReader
from perdure.streams.log.base import Topic
from perdure.streams.opening import open_data, start_log

STOPPED_S = 60.0 if SOAK else 15.0

pytestmark = pytest.mark.skipif(
    not SOAK and "PERDURE_CHAOS" not in os.environ,
    reason="a minute of waiting: PERDURE_CHAOS=1 runs 15 s of it",
)


async def _read_late(port: int, witness: Witness, pid: int) -> None:
    """Reads and writes that wait at the stopped node's door; they are the first that it sees then."""

    async def one(number: int, key: str) -> None:
        try:
            async with Wire(port) as wire:
                await witness.ask(wire, key, adds=number % 3 == 0)
        except ConnectionError:
            return  # an outcome that is not known

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        for number, key in enumerate(names(20)):
            group.create_task(one(number, key))
        while witness.in_flight < 20:  # noqa: ASYNC110 - all are at its door
            await asyncio.sleep(0.01)
        os.kill(pid, signal.SIGCONT)


async def claims_of(config: Config) -> list[list[tuple[int, bool]]]:
    """The claims of each partition: whose (a process id), and whether the owner before had signed off."""
    data = open_data(config)
    log = await start_log(config, data, "claims")
    found: list[list[tuple[int, bool]]] = []
    try:
        for partition in range(log.partitions):
            found.append([])
            signed_off = False
            bounds = await log.bounds(Topic.JOURNAL, partition)
            reader = JournalReader(f"journal {partition}", exclusive=False)
            async for chunk in log.read(Topic.JOURNAL, partition, bounds.start, bounds.end):
                for each in chunk:
                    record = reader.step(each.offset, each.value)
                    if isinstance(record, Claim):
                        found[-1].append((record.pid, signed_off))
                    elif isinstance(record, EntryRecord | NoOp):
                        signed_off = isinstance(record, NoOp) and record.clean
    finally:
        await log.close()
        data.close()
    return found


def test_a_node_that_was_stopped_for_long_decides_nothing(kafka: Kafka, tmp_path: Path) -> None:
    """What it had taken is answered truly or not at all, what waited at its door reads nothing stale, its
    successor is not disturbed, and it claims only what that has let go of.
    """
    deployment, witness = deploy_nodes(kafka, tmp_path, "standbys = 1\n"), Witness()
    with node(deployment, 1) as first, node(deployment, 2) as second:
        until(lambda: shared(first, [first, second]))
        load, its = Load(first, witness), Load(second, witness, seed=2)
        load.oks(200)
        its.oks(100)
        theirs = [partition for partition, pid in owners(first).items() if pid == second.pid]
        assert theirs
        os.kill(second.pid, signal.SIGSTOP)
        stopped_s = time.monotonic()
        assert witness.in_flight > 0
        until(lambda: shared(first, [first]))
        load.until(lambda told: time.monotonic() - stopped_s > STOPPED_S)
        before = dict(load.told)
        late = Thread(target=lambda: asyncio.run(_read_late(port_of(second), witness, second.pid)))
        late.start()
        late.join()
        load.oks(100)
        until(lambda: shared(first, [first, second]))
        its.oks(100)
        its.stop()
        load.oks(100)
        load.stop()
        after = {status for status, count in load.told.items() if count > before.get(status, 0)}
        assert after == {200}, (before, load.told)
        assert its.told.keys() <= HONEST, its.told
        assert "was taken for gone: it joins again" in second.stderr()
        assert second.stop() == 0, second.stderr()
        assert first.stop() == 0, first.stderr()
    last = Deployment(deployment.folder, deployment.data.with_name("data1"))
    claims = asyncio.run(claims_of(last.config))
    assert len(claims) == PARTITIONS
    for partition, each in enumerate(claims):
        pids = [pid for pid, _ in each]
        lost = pids.index(first.pid, pids.index(second.pid)) if partition in theirs else len(pids)
        taken_back = [signed_off for pid, signed_off in each[lost:] if pid == second.pid]
        assert all(taken_back), f"partition {partition}: claimed from an owner that served: {each}"
    last.audit(witness)
