"""`python -m bench.takeover`: how long partitions are not served when their node dies or leaves.

One real broker, two nodes, states of several sizes. The objects are made, then in each round

- *killed*: the second node gets SIGKILL, and clients of the first one request an object of each of its
  partitions until all have answered. The members notice the death after five heartbeats of one second.
- *left*: the second node gets SIGTERM under the same requests. No request may fail; the longest time without
  an answer of one partition counts.

With `standbys = 0` the node that follows has no state when it begins: it folds the journal, or with
`--snapshots` takes in the newest snapshot. With `standbys = 1` it has followed. Prints a table of p50 and p99
(of so few rounds, that is the longest).

    python -m bench.takeover --sizes 1000,100000 --standbys 0,1 --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import shutil
import signal
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from tests.acceptance.harness import port_of
from tests.acceptance.wire import Wire
from tests.kafka import LocalKafka
from tests.process import Server, serve

from perdure.schemas.keys import partition_of

EXAMPLE = Path(__file__).parents[1] / "examples" / "counter.py"
PARTITIONS = 8
PROBE_S = 1.0  # a client waits so long for an answer, then sends the next request
PATIENCE_S = 300.0
FILL_BATCH = 20_000


class Answered(NamedTuple):
    """One request of a prober: when it was answered, and with which status (0: not in time)."""

    at_s: float
    status: int


@dataclass
class Prober:
    """Requests an object of each of some partitions, one after the other, from a thread's event loop."""

    port: int
    keys: dict[int, str]
    answers: dict[int, list[Answered]] = field(default_factory=dict)
    over: bool = False

    async def run(self) -> None:
        """Until `over`."""
        await asyncio.gather(*(self._probe(partition, key) for partition, key in self.keys.items()))

    async def _probe(self, partition: int, key: str) -> None:
        answers = self.answers[partition] = []
        while not self.over:
            async with Wire(self.port) as wire:
                try:
                    while not self.over:
                        async with asyncio.timeout(PROBE_S):
                            answer = await wire.ask("POST", f"/objects/{key}")
                        answers.append(Answered(time.monotonic(), answer.status))
                        await asyncio.sleep(0.005)
                except TimeoutError:
                    answers.append(Answered(time.monotonic(), 0))


@dataclass
class App:
    """An app on a broker with two nodes: `a` stays, `b` is killed or leaves."""

    kafka: LocalKafka
    folder: Path
    standbys: int
    snapshots: bool
    stack: ExitStack = field(default_factory=ExitStack)
    nodes: dict[str, Server] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = f"b{secrets.token_hex(4)}"
        app = self.folder / "app"
        app.mkdir(parents=True)
        (app / "app.py").write_text(EXAMPLE.read_text())
        settings = f'name = "{self.name}"\nmain = "app.py"\nlog = "kafka://{self.kafka.bootstrap}"\n'
        settings += f"partitions = {PARTITIONS}\nstandbys = {self.standbys}\n"
        if self.snapshots:
            settings += f'[snapshots]\nto = "file://{self.folder / "snapshots"}"\nevery = "24h"\n'
        (app / "perdure.toml").write_text(settings)

    def start(self, name: str, *, empty: bool = False) -> float:
        """Start a node, on an empty disk or on its own; how long until it is ready."""
        data, began_s = self.folder / name, time.monotonic()
        if empty and data.exists():
            shutil.rmtree(data)
        environ = {"PERDURE_SEAL_SECRET": "s" * 40}
        self.nodes[name] = self.stack.enter_context(serve(self.folder / "app", data, environ=environ))
        return time.monotonic() - began_s

    def end(self, name: str, sig: signal.Signals) -> None:
        self.nodes.pop(name).stop(sig)

    def owners(self) -> dict[int, int | None]:
        """The process that serves each partition."""
        owners: list[dict[str, Any]] = httpx.get(f"{self.nodes['a'].url}/readyz").json()["owners"]
        return {each["partition"]: each.get("pid") for each in owners if each["state"] == "serving"}

    def wait_shared(self) -> None:
        """Wait until each node serves half, and what stands by has caught up."""
        until_s = time.monotonic() + PATIENCE_S
        pids = {node.pid for node in self.nodes.values()}
        while True:
            pids_of = list(self.owners().values())
            even = all(pids_of.count(pid) == PARTITIONS // len(pids) for pid in pids)
            if len(pids_of) == PARTITIONS and even and self._standbys_are_warm():
                return
            assert time.monotonic() < until_s, f"the partitions are not shared: {pids_of}"
            time.sleep(0.1)

    def _standbys_are_warm(self) -> bool:
        if not self.standbys or len(self.nodes) < 2:
            return True
        owners = httpx.get(f"{self.nodes['a'].url}/readyz").json()["owners"]
        lags = [standby["lag"] for each in owners for standby in each["standbys"]]
        return len(lags) == PARTITIONS and max(lags) < 1_000

    def forget(self) -> None:
        """Without standbys: let node `a` begin on an empty disk, with nothing of the other one's state."""
        if not self.standbys:
            self.end("a", signal.SIGTERM)
            self.start("a", empty=True)
        self.wait_shared()

    def fill(self, objects: int) -> None:
        """Make that many objects, by commands of a Kafka client that have no reply."""
        from confluent_kafka import Producer

        producer = Producer(
            {"bootstrap.servers": self.kafka.bootstrap, "partitioner": "murmur2_random", "linger.ms": 20}
        )
        call = json.dumps({"method": "increment", "args": [1]})
        for n in range(objects):
            if n % FILL_BATCH == FILL_BATCH - 1:
                self._wait_done()
            while True:
                try:
                    producer.produce(
                        f"{self.name}.commands", call, f"Counter/o{n}", headers={"reply-to": "none"}
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
        producer.flush()
        self._wait_done()

    def _wait_done(self) -> None:
        """A command behind all others of each partition is answered."""
        for key in one_of_each().values():
            until_s = time.monotonic() + PATIENCE_S
            while httpx.post(f"{self.nodes['a'].url}/objects/{key}", timeout=60).status_code != 200:
                assert time.monotonic() < until_s, f"{key} does not answer"

    def snapshot(self) -> None:
        for node in self.nodes.values():
            httpx.post(f"{node.url}/admin/snapshots/take", timeout=PATIENCE_S).raise_for_status()


def one_of_each() -> dict[int, str]:
    """An object of each partition."""
    keys: dict[int, str] = {}
    for n in range(1_000):
        keys.setdefault(partition_of(f"Counter/p{n}", PARTITIONS), f"Counter/p{n}")
    return keys


async def _probed(app: App, sig: signal.Signals) -> tuple[float, int]:
    """End node `b` under requests; (seconds until all its partitions were served again, failed requests)."""
    owners, pid = app.owners(), app.nodes["b"].pid
    keys = {each: key for each, key in one_of_each().items() if owners[each] == pid}
    prober = Prober(port_of(app.nodes["a"]), keys)
    running = asyncio.create_task(prober.run())
    await _more(prober)
    before = {each: len(answers) for each, answers in prober.answers.items()}
    await asyncio.to_thread(app.end, "b", sig)
    await _more(prober)
    prober.over = True
    await running
    longest_s = 0.0
    for partition, answers in prober.answers.items():
        oks = [each.at_s for each in answers[before[partition] - 1 :] if each.status == 200]
        longest_s = max(longest_s, *(later - earlier for earlier, later in pairwise(oks)))
    failed = sum(each.status != 200 for answers in prober.answers.values() for each in answers)
    return longest_s, failed


async def _more(prober: Prober) -> None:
    """Wait until 20 more requests of each partition have succeeded: one may have been under way."""

    def oks() -> dict[int, int]:
        return {
            each: sum(answer.status == 200 for answer in prober.answers.get(each, [])) for each in prober.keys
        }

    before = oks()
    async with asyncio.timeout(PATIENCE_S):
        while any(count < before[each] + 20 for each, count in oks().items()):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.02)


def measure(
    kafka: LocalKafka, folder: Path, objects: int, standbys: int, rounds: int, snapshots: bool
) -> dict[str, Any]:
    """The seconds of each round, and what failed."""
    app = App(kafka, folder, standbys, snapshots)
    killed: list[float] = []
    left: list[float] = []
    failed_requests = 0
    with app.stack:
        app.start("a")
        app.fill(objects)
        app.start("b")
        app.wait_shared()
        if snapshots:
            app.snapshot()
        for _ in range(rounds):
            app.forget()
            killed.append(asyncio.run(_probed(app, signal.SIGKILL))[0])
            app.start("b")
            app.forget()
            seconds, failed = asyncio.run(_probed(app, signal.SIGTERM))
            left.append(seconds)
            failed_requests += failed
            app.start("b")
        for name in list(app.nodes):
            app.end(name, signal.SIGTERM)
    return {"killed": killed, "left": left, "failed": failed_requests}


def p50_p99(seconds: list[float]) -> str:
    """Both, as the table has them."""
    ordered = sorted(seconds)
    longest = ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]
    return f"{statistics.median(ordered):.2f}, {longest:.2f}"


def main() -> None:
    """Measure each size with each number of standbys, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.takeover")
    parser.add_argument("--sizes", default="1000,100000,1000000")
    parser.add_argument("--standbys", default="0,1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--snapshots", action="store_true", help="take snapshots of all partitions first")
    args = parser.parse_args()
    print(
        "| objects | standbys | killed, p50, p99 (s) | left, p50, p99 (s) | failed while it left | rounds |"
    )
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="perdure-takeover-") as place:
        kafka = LocalKafka(Path(place) / "kafka")
        try:
            for number, size in enumerate(map(int, args.sizes.split(","))):
                for standbys in map(int, args.standbys.split(",")):
                    folder = Path(place) / f"{number}-{standbys}"
                    seconds = measure(kafka, folder, size, standbys, args.rounds, args.snapshots)
                    cells = (
                        size,
                        standbys,
                        p50_p99(seconds["killed"]),
                        p50_p99(seconds["left"]),
                        seconds["failed"],
                    )
                    print("| " + " | ".join(map(str, (*cells, args.rounds))) + " |", flush=True)
                    shutil.rmtree(folder)
        finally:
            kafka.stop()


if __name__ == "__main__":
    main()
