"""Nodes, brokers and rivals that die, hang and come back, on a real Kafka:
whatever a client was told holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from random import Random
from threading import Event
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from tests.acceptance.harness import Deployment, deploy, load_until_killed, names, port_of
from tests.acceptance.wire import PATIENCE_S, Answer, Wire, ask
from tests.acceptance.witness import Witness
from tests.kafka import Kafka, LocalKafka, free_ports, or_skip
from tests.process import DidNotStart, Server, run

from perdure.schemas.keys import partition_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "counter.py"
PARTITIONS = 4
HONEST = {200, 503, 504}
APPEND_TIMEOUT_S = 10.0  # as `KafkaLog` has it
BACK_OFF_S = 0.05  # what a client does that was told to ask again; nothing is waited for by it


def deploy_on(kafka: Kafka, path: Path, settings: str = "") -> Deployment:
    """The app under test with topics of its own on `kafka`."""
    path.mkdir(exist_ok=True)
    return deploy(
        path,
        log=f"kafka://{kafka.bootstrap}",
        name=f"t{uuid4().hex[:12]}",
        partitions=PARTITIONS,
        settings=settings,
    )


def beside(deployment: Deployment) -> Deployment:
    """The same app with a data directory of its own: another node."""
    return Deployment(deployment.folder, deployment.data.with_name("rival"))


def fetch(server: Server, method: str, path: str) -> Answer:
    return asyncio.run(ask(port_of(server), method, path))


def by_partition(count: int = PARTITIONS) -> dict[int, str]:
    """One object of each partition."""
    found: dict[int, str] = {}
    for key in names(1_000):
        found.setdefault(partition_of(key, count), key)
    assert len(found) == count
    return found


class Load:
    """Clients of one server in a thread of their own, so that this one can start brokers and servers.

    Each asks until `stop()`, or until the partition it asks says that it was fenced.
    """

    def __init__(self, server: Server, witness: Witness, *, clients: int = 16, seed: int = 1) -> None:
        self._port = port_of(server)
        self._witness = witness
        self._clients = clients
        self._random = Random(seed)
        self._over = Event()
        self.told: dict[int, int] = {}
        self._wanted: list[tuple[Callable[[dict[int, int]], bool], Event]] = []
        self._pool = ThreadPoolExecutor(1)
        self._run: Future[None] = self._pool.submit(lambda: asyncio.run(self._all()))

    async def _all(self) -> None:
        # brokers and nodes start meanwhile, each with a patience of its own
        async with asyncio.timeout(4 * PATIENCE_S), asyncio.TaskGroup() as group:
            for _ in range(self._clients):
                group.create_task(self._client())

    async def _client(self) -> None:
        async with Wire(self._port) as wire:
            while not self._over.is_set():
                key, adds = self._random.choice(names(20)), self._random.random() >= 0.2
                operation = await self._witness.ask(wire, key, adds=adds)
                self.told[operation.status] = self.told.get(operation.status, 0) + 1
                for wanted, seen in self._wanted:
                    if wanted(self.told):
                        seen.set()
                if b"problem:fenced" in operation.told:
                    return
                if operation.status != 200:
                    await asyncio.sleep(BACK_OFF_S)

    def until(self, wanted: Callable[[dict[int, int]], bool]) -> None:
        """Wait until the clients were told what is `wanted`, as counts by status."""
        seen = Event()
        self._wanted.append((wanted, seen))
        assert seen.wait(PATIENCE_S), f"{self._run}: told {self.told}"

    def oks(self, more: int) -> None:
        """Wait for `more` successes."""
        enough = self.told.get(200, 0) + more
        self.until(lambda told: told.get(200, 0) >= enough)

    def stop(self) -> None:
        """No new requests; wait for the answers of those under way."""
        self._over.set()
        self._run.result(PATIENCE_S)
        self._pool.shutdown()

    def ended(self) -> None:
        """Wait until each client has been told that it was fenced."""
        self._run.result(PATIENCE_S)
        self._pool.shutdown()


def test_the_example_counts_exactly_on_kafka(kafka: Kafka, tmp_path: Path) -> None:
    """20 objects, 20 concurrent POSTs each: 20 different counts of each; its log is named by a flag."""
    name = f"t{uuid4().hex[:12]}"
    deployment = deploy(tmp_path, name=name, partitions=PARTITIONS, app=EXAMPLE)
    log = f"kafka://{kafka.bootstrap}"

    async def one(port: int, key: str) -> tuple[str, int]:
        answer = await ask(port, "POST", f"/objects/{key}")
        assert answer.status == 200, answer
        return key, answer.json["count"]

    async def all_of(port: int) -> list[tuple[str, int]]:
        return await asyncio.gather(*(one(port, key) for key in names(20) for _ in range(20)))

    with deployment.serve("--log", log) as server:
        counts = asyncio.run(all_of(port_of(server)))
        assert sorted(counts) == sorted((key, n) for key in names(20) for n in range(1, 21))
        assert fetch(server, "GET", "/objects/Counter/n7").json == {"count": 20}
        assert fetch(server, "GET", "/readyz").status == 200
        assert server.stop() == 0, server.stderr()
    found = run("verify", str(deployment.folder), "--data", str(deployment.data), "--log", log, "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["entries"] == 400


def test_a_killed_node_loses_and_doubles_nothing(kafka: Kafka, tmp_path: Path) -> None:
    """SIGKILL under load, twice; then its state is deleted and comes back from the log alone."""
    deployment, witness, random = deploy_on(kafka, tmp_path), Witness(), Random(7)
    for oks in (150, 400):
        with deployment.serve() as server:
            load_until_killed(server, witness, random, names(20), oks=oks)
    deployment.audit(witness)
    shutil.rmtree(deployment.data)
    deployment.audit(witness)


def test_a_killed_broker_costs_no_answer(broker: LocalKafka, tmp_path: Path) -> None:
    """SIGKILL of the broker under load: 200, 503 or 504, each of them true; the node goes on by itself."""
    deployment, witness = deploy_on(broker, tmp_path), Witness()
    with deployment.serve() as server:
        load = Load(server, witness)
        load.oks(200)
        in_flight = witness.in_flight
        broker.kill()  # waits; afterwards all may have been told, and stand back
        assert in_flight > 0, "nothing was in flight when the broker was killed"
        broker.start()
        load.oks(200)
        load.stop()
        assert load.told.keys() <= HONEST, load.told
        assert server.stop() == 0, server.stderr()
    deployment.audit(witness)


def test_a_zombie_is_fenced_and_says_by_whom(kafka: Kafka, tmp_path: Path) -> None:
    """SIGSTOP with commands in flight, a rival claims all and serves, SIGCONT after the first one's appends
    are overdue: what either told holds; the first answers nothing of its own any more, takes nothing back,
    and names the rival, in its log too; the rival is not disturbed."""
    deployment, witness = deploy_on(kafka, tmp_path), Witness()
    with deployment.serve() as first:
        load = Load(first, witness)
        load.oks(100)
        os.kill(first.pid, signal.SIGSTOP)
        overdue_s = time.monotonic() + APPEND_TIMEOUT_S + 1
        assert witness.in_flight > 0, "nothing was in flight when the node was stopped"
        with beside(deployment).serve() as second:
            taken = Load(second, witness, clients=2, seed=2)  # for seconds, beside the first
            taken.oks(200)
            taken.until(lambda told: time.monotonic() > overdue_s)
            os.kill(first.pid, signal.SIGCONT)
            load.ended()
            taken.oks(100)
            taken.stop()
            assert load.told.keys() <= HONEST, load.told
            assert taken.told.keys() == {200}, taken.told
            _names_its_rival(first, second)
            assert fetch(second, "GET", "/readyz").status == 200
            assert second.stop() == 0, second.stderr()
    beside(deployment).audit(witness)


def _names_its_rival(first: Server, second: Server) -> None:
    ready = fetch(first, "GET", "/readyz")
    assert ready.status == 503
    fenced = [each for each in ready.json["partitions"] if each["state"] == "fenced"]
    assert fenced
    for each in fenced:
        assert f"claimed by node {second.pid:x}" in each["reason"], each
        assert f"pid {second.pid}" in each["reason"], each
    key = by_partition()[fenced[0]["partition"]]
    told = fetch(first, "GET", f"/objects/{key}")
    assert (told.status, told.code) == (503, "fenced")
    assert f"claimed by node {second.pid:x}" in told.json["detail"], told
    lines = [json.loads(line) for line in first.stderr().splitlines() if line.startswith("{")]
    lost = [each for each in lines if each["event"] == "a partition is lost to another node"]
    assert {each["partition"] for each in lost} == {each["partition"] for each in fenced}
    assert all(each["pid"] == first.pid and f"pid {second.pid}" in each["reason"] for each in lost), lost


class Cable:
    """What lies between node and broker: `pull` and nothing passes, in either direction; `plug` and all of it
    arrives, late. A thread of its own."""

    def __init__(self, end: socket.socket, to: int) -> None:
        self._socket, self._to = end, to
        self._pool = ThreadPoolExecutor(1)
        self._up = Event()
        self._run = self._pool.submit(lambda: asyncio.run(self._serve()))
        assert self._up.wait(PATIENCE_S)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._whole, self._end = asyncio.Event(), asyncio.Event()
        self._whole.set()
        self._pumps: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._connected, sock=self._socket)
        self._up.set()
        await self._end.wait()
        server.close()
        for pump in self._pumps:
            pump.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        self._pumps.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._whole.wait()
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    def pull(self) -> None:
        self._loop.call_soon_threadsafe(self._whole.clear)

    def plug(self) -> None:
        self._loop.call_soon_threadsafe(self._whole.set)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._run.result(PATIENCE_S)
        self._pool.shutdown()


@pytest.fixture
def cabled(tmp_path: Path) -> Iterator[tuple[LocalKafka, Cable]]:
    """A broker that is reached through a cable only: it advertises the cable's end as its address."""
    (port,) = free_ports(1)
    end = socket.create_server(("127.0.0.1", port))  # held: the broker chooses its ports next
    told = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}"}
    kafka = or_skip(lambda: LocalKafka(tmp_path / "kafka", extra=told))
    cable = Cable(end, int(kafka.bootstrap.rpartition(":")[2]))
    kafka.bootstrap = f"127.0.0.1:{port}"
    yield kafka, cable
    cable.close()
    kafka.stop()


def test_a_node_cut_from_its_broker_says_so_and_heals(
    cabled: tuple[LocalKafka, Cable], tmp_path: Path
) -> None:
    """Cut: 504 for what was sent, 503 for what was not, no stale answer; plugged in
    again, it serves by itself.
    """
    kafka, cable = cabled
    deployment, witness = deploy_on(kafka, tmp_path / "d", "deadline_s = 2\n"), Witness()
    with deployment.serve() as server:
        load = Load(server, witness, clients=8)
        load.oks(100)
        cable.pull()
        assert witness.in_flight > 0, "nothing was in flight at the cut"
        load.until(lambda told: told.get(503, 0) > 0 and told.get(504, 0) > 0)
        cable.plug()
        load.oks(200)
        load.stop()
        assert load.told.keys() == HONEST, load.told
        assert fetch(server, "GET", "/readyz").status == 200
        assert server.stop() == 0, server.stderr()
    deployment.audit(witness)


async def _produce(kafka: Kafka, topic: str, partition: int, value: bytes) -> int:
    """The offset of a record produced behind the owner's back."""
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        told = await producer.send_and_wait(topic, value, partition=partition)
        return int(told.offset)


def test_a_journal_record_of_newer_code_stops_its_partition_only(kafka: Kafka, tmp_path: Path) -> None:
    """Format version 9: that partition stops, naming offset and version, at once and at the next start."""
    deployment, objects = deploy_on(kafka, tmp_path, "deadline_s = 2\n"), by_partition()
    with deployment.serve() as server:
        for key in objects.values():
            assert fetch(server, "POST", f"/objects/{key}").status == 200
        offset = asyncio.run(_produce(kafka, f"{deployment.config.name}.journal", 1, b"\x09newer"))
        fetch(server, "POST", f"/objects/{objects[1]}")  # its append finds the record
        _stopped_alone(server, objects, offset)
    with deployment.serve() as server:
        _stopped_alone(server, objects, offset)


def _stopped_alone(server: Server, objects: dict[int, str], offset: int) -> None:
    ready = fetch(server, "GET", "/readyz")
    assert ready.status == 503
    (broken,) = ready.json["partitions"]
    assert (broken["partition"], broken["state"]) == (1, "stopped")
    assert f"offset {offset}" in broken["reason"], broken
    assert "format version 9" in broken["reason"], broken
    for partition, key in objects.items():
        answer = fetch(server, "POST", f"/objects/{key}")
        assert answer.status == (503 if partition == 1 else 200), answer


def test_another_partition_count_is_refused(kafka: Kafka, tmp_path: Path) -> None:
    """Topics with 4 partitions and 5 configured: the node does not start, and names both and the topic."""
    deployment = deploy_on(kafka, tmp_path)
    with deployment.serve() as server:
        assert server.stop() == 0
    settings = deployment.folder / "perdure.toml"
    settings.write_text(settings.read_text().replace("partitions = 4", "partitions = 5"))
    with pytest.raises(DidNotStart) as refused, beside(deployment).serve():
        pass
    told = " ".join(refused.value.stderr.split())
    assert f"{deployment.config.name}." in told
    assert "has 4 partitions, but 5 are configured" in told
