"""Three brokers and three nodes; every 10 s one is killed, stopped, restarted, or has its clock moved.

Meanwhile money goes from account to account by calls, by messages and by what is said on sockets, tokens are
put into bags, cells and counters change, and chimes are wound. Whatever was acknowledged is there once, no
money is made or lost, what each object answered is linearizable (by the log, and by a search of its own), and
every partition goes on within seconds of each fault.

    PERDURE_CHAOS=1 .venv/bin/pytest -s tests/acceptance/test_kafka_chaos.py   a minute, as `make chaos`
    PERDURE_SOAK=1 ...                                              20 seeds of it, and ten minutes of one

`PERDURE_CHAOS_S` is how long it lasts, `PERDURE_CHAOS_SEED` chooses the faults: one run of that kind.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from tests.acceptance.crowd import ACCOUNTS, BAGS, PARTITIONS, START, Crowd, Line
from tests.acceptance.harness import SOAK, Deployment, deploy
from tests.acceptance.wire import PATIENCE_S
from tests.acceptance.witness import check, read_history
from tests.clocks import Clock
from tests.kafka import LocalKafka, or_skip
from tests.process import Server
from tests.wgl import COUNTER, REGISTER, why_not

EVERY_S = 10.0
LEAST_S = 4.0  # of peace between two faults, where one took long
PROGRESS_S = 15.0
APP = Path(__file__).with_name("bank_app.py")
MINUTE_S = 60.0
NAMED = [(int(os.environ.get("PERDURE_CHAOS_SEED", "1")), float(os.environ.get("PERDURE_CHAOS_S", "60")))]
LONG = [*((seed, MINUTE_S) for seed in range(1, 21)), (100, 10 * MINUTE_S)]
ASKED_FOR = any(name in os.environ for name in ("PERDURE_CHAOS", "PERDURE_CHAOS_S", "PERDURE_CHAOS_SEED"))
RUNS = LONG if SOAK and not ASKED_FOR else NAMED
AHEAD_S = (-3_600, -300, -45, 45, 300, 3_600)
SPANS = (0.0, 3.0, 8.0, None)  # how long a clock is wrong; None: until it is moved again

pytestmark = pytest.mark.skipif(
    not SOAK and not ASKED_FOR, reason="a minute of both processors: it runs with PERDURE_CHAOS=1"
)


class Clocks:
    """A clock for each of three processes."""

    def __init__(self, folder: Path, name: str) -> None:
        self.each = {number: Clock(folder / f"clock-{name}{number}") for number in (1, 2, 3)}

    def environ(self, number: int) -> dict[str, str]:
        """What that process needs to follow its clock."""
        return self.each[number].environ

    def jump(self, number: int, random: Random, limit_s: float) -> str:
        """Move one, for a while or until it is moved again; says how."""
        ahead_s = random.choice([each for each in AHEAD_S if abs(each) <= limit_s])
        span_s = random.choice(SPANS)
        self.each[number].set_ahead(ahead_s)
        if span_s is not None:
            time.sleep(span_s)  # how long it is wrong is the fault
            self.each[number].set_ahead(0)
        return f"{ahead_s:+} s for {'good' if span_s is None else f'{span_s:g} s'}"

    def right(self) -> None:
        """Set all right."""
        for clock in self.each.values():
            clock.set_ahead(0)


class Nodes:
    """Three nodes, each in its own place."""

    def __init__(self, deployment: Deployment, clocks: Clocks) -> None:
        self._deployment = deployment
        self._clocks = clocks
        self._stacks: dict[int, ExitStack] = {}
        self.servers: dict[int, Server] = {}
        self.said: list[str] = []

    def place(self, number: int) -> Deployment:
        return Deployment(self._deployment.folder, self._deployment.data.with_name(f"data{number}"))

    def start(self, number: int) -> None:
        stack = self._stacks[number] = ExitStack()
        environ = self._clocks.environ(number)
        self.servers[number] = stack.enter_context(self.place(number).serve(environ=environ))

    def end(self, number: int, sig: signal.Signals) -> int:
        server = self.servers.pop(number)
        code = server.stop(sig)
        self.said += [f"{number}: {line}" for line in server.stderr().splitlines()]
        self._stacks.pop(number).close()
        return code

    def errors(self) -> str:
        """What the nodes that have ended said of it, but for the course of things."""
        return "\n".join(line for line in self.said if '"level": "info"' not in line)[-8_000:]

    def addresses(self, but: int = 0) -> dict[str, int]:
        return {server.url: server.pid for number, server in self.servers.items() if number != but}


class Story:
    """The faults of one run: each one is over when its method returns."""

    def __init__(
        self, random: Random, nodes: Nodes, brokers: LocalKafka, of_nodes: Clocks, of_brokers: Clocks
    ) -> None:
        self.random, self.nodes, self.brokers = random, nodes, brokers
        self.of_nodes, self.of_brokers = of_nodes, of_brokers
        self.faults: list[str] = []

    def next(self, crowd: Crowd) -> None:
        """One fault of a random node or broker."""
        kinds = [
            self.kill_node,
            self.end_node,
            self.replace_node,
            self.stop_node,
            self.kill_broker,
            self.end_broker,
        ]
        kinds += [self.stop_broker]
        if self.of_nodes.each[1].can_move:
            kinds += [self.jump_node, self.jump_broker]
        kind, number = self.random.choice(kinds), self.random.choice((1, 2, 3))
        how = kind(number, crowd)
        self.faults.append(f"{kind.__name__} {number}" + (f" ({how})" if how else ""))

    def kill_node(self, number: int, crowd: Crowd) -> None:
        self._restart(number, crowd, signal.SIGKILL)

    def end_node(self, number: int, crowd: Crowd) -> None:
        self._restart(number, crowd, signal.SIGTERM)

    def replace_node(self, number: int, crowd: Crowd) -> None:
        """One with an empty disk follows."""
        self._restart(number, crowd, signal.SIGKILL, empty=True)

    def _restart(self, number: int, crowd: Crowd, sig: signal.Signals, *, empty: bool = False) -> None:
        crowd.nodes = self.nodes.addresses(but=number)
        code = self.nodes.end(number, sig)
        assert code == (0 if sig is signal.SIGTERM else -signal.SIGKILL), self.nodes.errors()
        if empty:
            shutil.rmtree(self.nodes.place(number).data)
        self.nodes.start(number)
        crowd.nodes = self.nodes.addresses()

    def stop_node(self, number: int, crowd: Crowd) -> str:
        return self._stop(self.nodes.servers[number].pid, 9)

    def stop_broker(self, number: int, crowd: Crowd) -> str:
        return self._stop(self.brokers.pid(number), 6)

    def _stop(self, pid: int, most_s: float) -> str:
        span_s = self.random.random() * most_s
        os.kill(pid, signal.SIGSTOP)
        time.sleep(span_s)  # how long it is away is the fault
        os.kill(pid, signal.SIGCONT)
        return f"{span_s:.1f} s"

    def kill_broker(self, number: int, crowd: Crowd) -> None:
        self.brokers.kill(number)
        self.brokers.start(number)

    def end_broker(self, number: int, crowd: Crowd) -> None:
        self.brokers.end(number)
        self.brokers.start(number)

    def jump_node(self, number: int, crowd: Crowd) -> str:
        return self.of_nodes.jump(number, self.random, 3_600)

    def jump_broker(self, number: int, crowd: Crowd) -> str:
        return self.of_brokers.jump(number, self.random, 300)


@pytest.fixture
def of_brokers(tmp_path: Path) -> Clocks:
    """The clocks of the brokers."""
    return Clocks(tmp_path, "broker")


@pytest.fixture
def brokers(tmp_path: Path, of_brokers: Clocks) -> Iterator[LocalKafka]:
    """Three brokers, replication factor 3, min ISR 2, each with a clock of its own."""
    found = or_skip(lambda: LocalKafka(tmp_path / "cluster", brokers=3, environ=of_brokers.environ))
    yield found
    found.stop()


async def check_objects(crowd: Crowd) -> None:
    """Money, tokens and chimes, once all is quiet."""
    async with Line(crowd, Random(0)) as line, asyncio.timeout(2 * PATIENCE_S):
        total = -1
        while total != ACCOUNTS * START:  # messages between accounts may be under way
            total = sum([await crowd.rpc(line, f"Account/a{n}", "balance") for n in range(ACCOUNTS)])
        for number in range(BAGS):
            tokens, wanted = await crowd.rpc(line, f"Bag/b{number}", "tokens"), crowd.tokens[f"b{number}"]
            assert len(tokens) == len(set(tokens)), f"a token is twice in b{number}"
            wrong = {token: place for token, place in wanted.items() if tokens[place - 1 : place] != [token]}
            assert not wrong, f"b{number} does not have these at their places: {wrong}"
        for chime, wanted_ in crowd.wound.items():
            struck: list[Any] = []
            while not wanted_ <= {name for name, _ in struck}:  # some are due, or were made late by a clock
                struck = await crowd.rpc(line, f"Chime/{chime}", "struck")
            assert len(struck) == len({name for name, _ in struck}), f"{chime} struck twice for one winding"
            early = [name for name, was_early in struck if was_early]
            assert not early, f"{chime} struck early: {early}"


def check_histories(crowd: Crowd) -> int:
    """What each object answered is linearizable; returns how many answers that were."""
    count = 0
    for key, calls in sorted(crowd.all_histories().items()):
        cell = key.startswith("Cell/")
        reason = why_not(calls, REGISTER if cell else COUNTER, 0)
        assert reason is None, f"{key}: {reason}"
        count += len(calls)
    return count


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize(("seed", "seconds"), RUNS)
def test_no_money_is_made_or_lost_while_nodes_and_brokers_die(
    seed: int, seconds: float, brokers: LocalKafka, of_brokers: Clocks, tmp_path: Path
) -> None:
    """And every answer holds; after each fault every partition goes on within `PROGRESS_S`."""
    (tmp_path / "secret").write_text("the secret that all nodes of this app share")
    settings = f'standbys = 1\nseal_secret_file = "{tmp_path / "secret"}"\n'
    log = f"kafka://{brokers.bootstrap}"
    name = f"t{uuid4().hex[:12]}"
    deployment = deploy(tmp_path, log=log, name=name, partitions=PARTITIONS, settings=settings, app=APP)
    of_nodes = Clocks(tmp_path, "node")
    nodes = Nodes(deployment, of_nodes)
    story = Story(Random(seed), nodes, brokers, of_nodes, of_brokers)
    for number in (1, 2, 3):
        nodes.start(number)
    crowd = Crowd(nodes.addresses(), seed)
    longest, until_s = list[float](), time.monotonic() + seconds
    try:
        while time.monotonic() < until_s:
            crowd.progress.begin()
            began_s = time.monotonic()
            story.next(crowd)
            time.sleep(max(LEAST_S, began_s + EVERY_S - time.monotonic()))  # the pace of the faults
            assert crowd.failure is None, story.faults
            gaps = crowd.progress.longest_s()
            longest.append(round(max(gaps.values()), 1))
            assert longest[-1] < PROGRESS_S, f"{story.faults}: nothing for so many seconds: {gaps}"
    finally:
        print(json.dumps({"seed": seed, "faults": story.faults, "longest_s": longest, **crowd.counts}))
        of_nodes.right()
        of_brokers.right()
        crowd.stop()
    print(json.dumps({"answers": check_histories(crowd), "lost": crowd.lost}))
    asyncio.run(check_objects(crowd))
    for number in (1, 2, 3):
        assert nodes.end(number, signal.SIGTERM) == 0, nodes.errors()
    last = nodes.place(1)
    history = asyncio.run(read_history(last.config, "Counter"))
    check(crowd.witness, history)
    last.verify()
    assert not [line for line in nodes.said if "failed inside perdure" in line]
