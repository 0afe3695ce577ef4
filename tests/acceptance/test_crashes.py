"""Real crashes under load: whatever a client was told holds after the next start."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
from collections import deque
from pathlib import Path
from random import Random

import pytest
from tests.acceptance.harness import (
    SOAK,
    Deployment,
    add_each,
    deploy,
    load,
    load_until_killed,
    names,
    port_of,
)
from tests.acceptance.wire import PATIENCE_S, Wire, ask
from tests.acceptance.witness import Witness
from tests.process import DidNotStart, Server, run


@pytest.mark.parametrize("seed", range(20 if SOAK else 1))
def test_kills_at_random_moments_lose_and_double_nothing(tmp_path: Path, seed: int) -> None:
    """SIGKILL under 32 clients, again and again: each answer agrees with a replay of the log."""
    random, witness, deployment = Random(seed), Witness(), deploy(tmp_path)
    keys = [*names(40), *names(8, "Slow")]  # so that turns end in another order than their commands came
    for _ in range(10 if SOAK else 3):
        with deployment.serve(environ={"SLOW_S": "0.01"}) as server:
            load_until_killed(server, witness, random, keys, oks=random.randrange(50, 2_000))
    deployment.audit(witness)
    found = run("verify", str(deployment.folder), "--data", str(deployment.data), "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["entries"] >= witness.acknowledged


# name, pass at which it dies, and whether the command it dies over is on the log then: it must be, it must
# not,
# or (None) that is open, because the log's write may not have begun
FAILPOINTS = [
    ("owner.before_turn", 9, None),
    ("owner.before_reply", 12, True),
    ("owner.before_store", 12, False),  # what it dies over has been answered, and the next is never read
    ("log.before_write", 25, False),
    ("log.after_write", 25, True),
    ("log.after_sync", 25, True),
]


@pytest.mark.parametrize(("name", "at", "logged"), FAILPOINTS, ids=[each[0] for each in FAILPOINTS])
def test_a_death_at_each_step_towards_durability(
    tmp_path: Path, name: str, at: int, logged: bool | None
) -> None:
    """Killed at a step, the command under way has happened once if it was on the
    log by then, else not at all.
    """
    # a log that falls silent for 10 ms writes a mark: where the machine is that slow, the death may be over
    # one
    # of those, with no command under way
    for attempt in range(3):
        path = tmp_path / str(attempt)
        path.mkdir()
        is_logged = _dies_over_a_command(deploy(path), f"{name}:{at}")
        if logged is None or is_logged is logged:
            return
    pytest.fail(f"three times the command was {'on' if is_logged else 'not on'} the log")


def _dies_over_a_command(deployment: Deployment, failpoint: str) -> bool:
    """Adds until the death, and the audit; is the command on the log that was not answered?"""
    witness = Witness()
    with deployment.serve(environ={"PERDURE_FAILPOINT": failpoint}) as server:
        add_each(server, witness, names(3) * 10)
        assert server.wait() == -signal.SIGKILL, "the failpoint was not reached"
    assert witness.acknowledged > 2, "it died before it had promised anything"
    (lost,) = witness.unknown
    deployment.audit(witness)
    marks = {each.mark: each for each in deployment.history().values()}
    if lost.mark in marks:
        assert marks[lost.mark].entry is not None, f"{lost} is on the log and never ran"
    return lost.mark in marks


def test_who_asks_again_with_its_key_gets_the_answer_it_missed(tmp_path: Path) -> None:
    """A crash between journal and reply: the retry is told what was journaled, and nothing is added twice."""
    deployment = deploy(tmp_path)

    def add(server: Server, key: str) -> int:
        async def asking() -> int:
            async with asyncio.timeout(PATIENCE_S), Wire(port_of(server)) as wire:
                headers = [("idempotency-key", key)]
                answer = await wire.ask("POST", f"/objects/Counter/a/{key}", headers=headers)
            count: int = answer.json["count"]
            return count

        return asyncio.run(asking())

    with deployment.serve(environ={"PERDURE_FAILPOINT": "owner.before_reply:4"}) as server:
        assert [add(server, key) for key in ("one", "two", "three")] == [1, 2, 3]
        with pytest.raises(ConnectionError):
            add(server, "four")
        assert server.wait() == -signal.SIGKILL
    with deployment.serve() as server:
        assert [add(server, key) for key in ("four", "two", "five")] == [4, 2, 5]


@pytest.mark.parametrize("name", ["log.before_write", "log.after_write", "log.after_sync"])
def test_a_death_while_it_recovers(tmp_path: Path, name: str) -> None:
    """Killed while it comes up after a crash, the next start still has everything."""
    deployment, witness = deploy(tmp_path), Witness()
    with deployment.serve() as server:
        load_until_killed(server, witness, Random(1), names(10), oks=200)
    _dies_at(deployment, f"{name}:1")  # a recovery writes the claims first
    deployment.audit(witness)


def test_a_command_that_was_read_and_not_run_is_run(tmp_path: Path) -> None:
    """A command on the log whose turn had not ended, and at the next start not
    begun, runs at the one after.
    """
    deployment, witness = (
        deploy(tmp_path, settings="deadline_s = 600\n"),
        Witness(),
    )  # two starts may take long

    async def interrupt(server: Server) -> None:
        async with asyncio.timeout(PATIENCE_S), Wire(port_of(server)) as slow, Wire(port_of(server)) as quick:
            turn = asyncio.create_task(witness.ask(slow, "Slow/a", adds=True))
            await asyncio.sleep(0)  # one pass of the loop: its request is sent
            # the log is one: whatever is durable after it says that the slow command is
            await witness.ask(quick, "Counter/a", adds=True)
            await witness.ask(quick, "Counter/a", adds=True)
            server.kill()
            with pytest.raises(ConnectionError):
                await turn

    with deployment.serve(environ={"SLOW_S": "60"}) as server:
        asyncio.run(interrupt(server))
    (lost,) = witness.unknown
    _dies_at(deployment, "owner.before_turn:1")
    before = {each.mark: each for each in deployment.history().values()}
    assert before[lost.mark].entry is None
    deployment.audit(witness)
    after = {each.mark: each for each in deployment.history().values()}
    assert after[lost.mark].entry is not None, f"{lost} was never run"


def _dies_at(deployment: Deployment, failpoint: str) -> None:
    """At once, whether or not it gets as far as to say that it is ready."""
    try:
        with deployment.serve(environ={"PERDURE_FAILPOINT": failpoint}) as server:
            died = server.wait()
    except DidNotStart as early:
        died = early.returncode
    assert died == -signal.SIGKILL


def test_sigterm_under_load_answers_all_it_accepted(tmp_path: Path) -> None:
    """SIGTERM: each command that reached the log gets its answer, slow ones too;
    exit 0, and nothing to replay.
    """
    deployment, witness, random = deploy(tmp_path), Witness(), Random(7)
    in_flight: set[str] = set()

    def stop() -> None:
        nonlocal in_flight
        if witness.acknowledged >= 1_000 and not in_flight:
            in_flight = {each.key.partition("/")[0] for each in witness.operations if not each.status}
            os.kill(server.pid, signal.SIGTERM)

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            for keys in names(20), names(4, "Slow"):
                group.create_task(load(port_of(server), witness, random, keys, clients=len(keys)))

    with deployment.serve(environ={"SLOW_S": "0.4"}) as server:
        witness.on_ok = stop
        asyncio.run(both())
        assert server.wait() == 0, server.stderr()
    assert in_flight == {"Counter", "Slow"}, "too little was in flight at the signal: the test shows nothing"
    witness.on_ok = lambda: None
    deployment.audit(witness)
    marks = {each.mark for each in deployment.history().values()}
    forgotten = [str(each) for each in witness.unknown if each.mark in marks]
    assert not forgotten, f"accepted, and never answered: {forgotten}"


class Claim:
    """100 objects, 100 POSTs to each, as jobs that are done when they are acknowledged; each has its key."""

    def __init__(self, objects: int = 100, posts: int = 100) -> None:
        self.jobs = deque((f"Counter/c{n}", f"c{n}-{post}") for n in range(objects) for post in range(posts))
        self.told: dict[str, list[int]] = {f"Counter/c{n}": [] for n in range(objects)}
        self.acknowledged = 0
        self.interrupted = 0
        self.kill_at = 0
        self.pid = 0

    async def work(self, server: Server, connections: int) -> None:
        """All jobs, over so many connections at once; ends early with the server."""
        self.pid = server.pid
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(self._connection(port_of(server)))

    async def _connection(self, port: int) -> None:
        job = None
        try:
            async with Wire(port) as wire:
                while self.jobs:
                    job = key, once = self.jobs.popleft()
                    answer = await wire.ask("POST", f"/objects/{key}/", headers=[("idempotency-key", once)])
                    assert answer.status == 200, answer
                    self.told[key].append(answer.json["count"])
                    job = None
                    self.acknowledged += 1
                    if self.acknowledged == self.kill_at:
                        os.kill(self.pid, signal.SIGKILL)
        except ConnectionError:
            if job is not None:
                self.interrupted += 1
                self.jobs.append(job)  # nobody knows: ask again, with the same key


def test_a_hundred_objects_by_a_hundred_posts_end_exact(tmp_path: Path) -> None:
    """10,000 POSTs over 1,000 connections, a SIGKILL in between, retries with
    keys: each object ends at 100.
    """
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))  # often 1,024, and some are open
    deployment, claim = deploy(tmp_path), Claim()
    claim.kill_at = 4_000
    with deployment.serve() as server:
        asyncio.run(claim.work(server, 1_000))
        assert server.wait() == -signal.SIGKILL
    assert claim.interrupted > 0, "nothing was in flight when the server was killed"
    with deployment.serve() as server:
        asyncio.run(claim.work(server, 1_000))
        for key, told in claim.told.items():
            assert sorted(told) == list(range(1, 101)), key
            answer = asyncio.run(ask(port_of(server), "GET", f"/objects/{key}/"))
            assert answer.json == {"count": 100}
    deployment.verify()
