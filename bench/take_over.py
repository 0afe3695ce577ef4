"""`python -m bench.take_over`: how long partitions are not served when their node dies or leaves.

Two nodes share an app on a real broker; its objects are written into the journals directly. In each round

- *killed*: the second node gets SIGKILL under requests to each of its partitions, by way of the first one,
  until all are answered. The session time-out, after which a silent node is gone, is part of it.
- *left*: the second node gets SIGTERM under the same requests, none of which may fail. The longest time
  between two answers of one partition counts.

The first node has followed (`standby`), or begins each round on an empty disk and takes in what it lacks from
snapshots (`snapshot`) or from the journal (`replay`). Prints a table with p50 and p99 over the rounds: of few
rounds, the latter is the longest.

    python -m bench.take_over --objects 1000 100000 --ways standby replay --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
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

from perdure.schemas.commands import NOBODY
from perdure.schemas.journal import NO_COMMAND, Claim, Entry, Header
from perdure.schemas.keys import partition_of
from perdure.schemas.replies import OK, Reply
from perdure.schemas.values import encode_value
from perdure.streams.log.kafka.log import KafkaLog
from perdure.streams.opening import clock_ms, new_uuid
from perdure.streams.rescale.new_journal import NewJournal

EXAMPLE = Path(__file__).parents[1] / "examples" / "counter.py"
PARTITIONS = 8
PROBE_S = 30.0  # a client waits so long for an answer, then sends the next request
PATIENCE_S = 300.0
WAYS = ("standby", "snapshot", "replay")


class Answered(NamedTuple):
    """One request of a prober: when it was answered, and with which status (0: not in time)."""

    at_s: float
    status: int


class Measured(NamedTuple):
    """Seconds of each round, and how many requests failed while a node left."""

    killed_s: list[float]
    left_s: list[float]
    failed: int


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
    way: str
    stack: ExitStack = field(default_factory=ExitStack)
    nodes: dict[str, Server] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = f"b{secrets.token_hex(4)}"
        app = self.folder / "app"
        app.mkdir(parents=True)
        (app / "app.py").write_text(EXAMPLE.read_text())
        settings = f'name = "{self.name}"\nmain = "app.py"\nlog = "kafka://{self.kafka.bootstrap}"\n'
        settings += f"partitions = {PARTITIONS}\nstandbys = {int(self.way == 'standby')}\n"
        if self.way == "snapshot":
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
        if self.way != "standby" or len(self.nodes) < 2:
            return True
        owners = httpx.get(f"{self.nodes['a'].url}/readyz").json()["owners"]
        lags = [standby["lag"] for each in owners for standby in each["standbys"]]
        return len(lags) == PARTITIONS and max(lags) < 1_000

    def forget(self) -> None:
        """Without standbys: let node `a` begin on an empty disk, with nothing of the other one's state."""
        if self.way != "standby":
            self.end("a", signal.SIGTERM)
            self.start("a", empty=True)
        self.wait_shared()

    def snapshot(self) -> None:
        for node in self.nodes.values():
            httpx.post(f"{node.url}/admin/snapshots/take", timeout=PATIENCE_S).raise_for_status()


async def write_objects(bootstrap: str, app: str, objects: int) -> None:
    """Write an app's journals as if it had this many counters, in a tenth of the time that commands take."""
    log = KafkaLog(bootstrap, app, PARTITIONS, clock_ms=clock_ms, client_id="take-over")
    await log.start()
    try:
        journals = [NewJournal(log, partition) for partition in range(PARTITIONS)]
        app_uuid = new_uuid()
        for partition, journal in enumerate(journals):
            header = Header(app, app_uuid, partition, PARTITIONS)
            claim = Claim(new_uuid(), "bench", "localhost", 1, None, dict(log.topic_ids), "", 0)
            await journal.begin(header, claim, ())
            await journal.mark("written by the bench", clock_ms())
        now_ms, value = clock_ms(), {"count": encode_value("count", 1)}
        for number in range(objects):
            key = f"Counter/n{number}"
            entry = Entry(NO_COMMAND, key, now_ms, OK, Reply(OK, 204), value, reply_to=NOBODY)
            await journals[partition_of(key, PARTITIONS)].add(entry)
        for journal in journals:
            await journal.end()
    finally:
        await log.close()


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


def measure(kafka: LocalKafka, folder: Path, objects: int, way: str, rounds: int) -> Measured:
    """All rounds of one size and way."""
    app, result = App(kafka, folder, way), Measured([], [], 0)
    asyncio.run(write_objects(kafka.bootstrap, app.name, objects))
    with app.stack:
        app.start("a")
        app.start("b")
        app.wait_shared()
        if way == "snapshot":
            app.snapshot()
        for _ in range(rounds):
            app.forget()
            result.killed_s.append(asyncio.run(_probed(app, signal.SIGKILL))[0])
            app.start("b")
            app.forget()
            seconds, failed = asyncio.run(_probed(app, signal.SIGTERM))
            result.left_s.append(seconds)
            result = result._replace(failed=result.failed + failed)
            app.start("b")
        for name in list(app.nodes):
            app.end(name, signal.SIGTERM)
    return result


def p50_p99(seconds: list[float]) -> str:
    """Both, as the table has them."""
    ordered = sorted(seconds)
    longest = ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]
    return f"{statistics.median(ordered):.2f}, {longest:.2f}"


def main() -> None:
    """Measure each size in each way, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.take_over", description=__doc__)
    parser.add_argument("--objects", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print("| objects | way | killed, p50, p99 (s) | left, p50, p99 (s) | failed while it left | rounds |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="perdure-take-over-") as place:
        kafka = LocalKafka(Path(place) / "kafka")
        try:
            for objects in arguments.objects:
                for way in arguments.ways:
                    folder = Path(place) / f"{objects}-{way}"
                    it = measure(kafka, folder, objects, way, arguments.rounds)
                    cells = objects, way, p50_p99(it.killed_s), p50_p99(it.left_s), it.failed
                    print("| " + " | ".join(map(str, (*cells, arguments.rounds))) + " |", flush=True)
                    shutil.rmtree(folder)
        finally:
            kafka.stop()


if __name__ == "__main__":
    main()
