"""Alarms of a real server: once across crashes, all of those that come due
together, and one that always fails.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.acceptance.harness import SOAK, Deployment, deploy, port_of
from tests.acceptance.systems import deploy_examples
from tests.acceptance.wire import PATIENCE_S, Wire
from tests.kafka import or_skip, session_kafka
from tests.process import Server

ALARM_S = 4
OBJECTS = 100
MANY = 100_000 if SOAK else 5_000
LONG_S = 600.0 if SOAK else PATIENCE_S

BELLS = """\
from perdure import DurableObject

class Bell(DurableObject):
    async def set(self, due_ms):
        await self.state.set_alarm(due_ms)

    async def alarm(self):
        await self.state.put("runs", await self.state.get("runs", 0) + 1)

    async def runs(self):
        return await self.state.get("runs", 0)

class Ringer(DurableObject):
    async def set_all(self, first, count, due_ms):
        for number in range(first, first + count):
            self.env.BELLS.get(f"b{number}").send.set(due_ms)

    async def now(self):
        return self.state.now

class Broken(DurableObject):
    async def set(self):
        await self.state.set_alarm(0)

    async def alarm(self):
        raise ValueError("always")

    async def alarms(self):
        return [[each.failures, each.parked] for each in await self.state.alarms()]
"""
BINDING = '[[durable_objects.bindings]]\nname = "BELLS"\nclass_name = "Bell"\n'


async def call(wire: Wire, key: str, method: str, *args: object) -> Any:
    answer = await wire.ask("POST", f"/rpc/{key}/{method}", json.dumps({"args": args}).encode())
    assert answer.status == 200, answer
    return answer.json["result"]


async def metric(wire: Wire, name: str) -> int:
    """Its sum over all partitions."""
    text = (await wire.ask("GET", "/metrics")).body.decode()
    return int(sum(map(float, re.findall(rf"^perdure_{name}{{.*}} (.*)$", text, re.MULTILINE))))


async def _until_metric(wire: Wire, name: str, enough: Callable[[int], bool]) -> None:
    async with asyncio.timeout(LONG_S):
        while not enough(await metric(wire, name)):  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("log", ["embedded", "kafka"])
def test_an_alarm_runs_once_though_its_server_is_killed_three_times(tmp_path: Path, log: str) -> None:
    """Right after it was set, right before it is due, and while the first of them
    run: `runs` is 1 in each.
    """
    if log == "kafka":
        log = f"kafka://{or_skip(session_kafka).bootstrap}"
    deployment = deploy_examples(tmp_path, log=log, name=f"t{uuid4().hex[:12]}", ALARM_S=ALARM_S)
    names = [f"job{n}" for n in range(OBJECTS)]
    with deployment.serve() as server:
        asyncio.run(_schedule(server, names))
        due_s = time.monotonic() + ALARM_S
        server.kill()
    with deployment.serve() as server:
        asyncio.run(_killed_at(server, due_s - 0.05))
    with deployment.serve() as server:
        asyncio.run(_killed_when_the_first_run(server, names))
    with deployment.serve() as server:
        asyncio.run(_each_ran_once(server, names))
        assert server.stop() == 0, server.stderr()
    deployment.verify()


async def _schedule(server: Server, names: list[str]) -> None:
    async with asyncio.timeout(PATIENCE_S), Wire(port_of(server)) as wire:
        for name in names:
            assert (await wire.ask("POST", f"/objects/ScheduledObject/{name}")).body == b"alarm scheduled"


async def _killed_at(server: Server, time_s: float) -> None:
    """At once if the start took so long that the time has passed."""
    while time.monotonic() < time_s:  # noqa: ASYNC110 - real time must pass
        await asyncio.sleep(0.01)
    os.kill(server.pid, signal.SIGKILL)


async def _killed_when_the_first_run(server: Server, names: list[str]) -> None:
    """At once if all have run: under the server before, whose start took longer
    than the time that was left.
    """
    async with asyncio.timeout(PATIENCE_S), Wire(port_of(server)) as wire:
        while await metric(wire, "alarms_fired_total") == 0 and not await _all_ran(wire, names):  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.02)
    os.kill(server.pid, signal.SIGKILL)


async def _runs(wire: Wire, name: str) -> int:
    told: int = (await wire.ask("GET", f"/objects/ScheduledObject/{name}/runs")).json["runs"]
    return told


async def _all_ran(wire: Wire, names: list[str]) -> bool:
    return all([await _runs(wire, name) for name in names])


async def _each_ran_once(server: Server, names: list[str]) -> None:
    """Also when more time has passed: that of one more alarm, set now."""
    async with asyncio.timeout(PATIENCE_S), Wire(port_of(server)) as wire:
        for name in names:
            while await _runs(wire, name) == 0:  # noqa: ASYNC110 - time must pass
                await asyncio.sleep(0.02)
        await wire.ask("POST", "/objects/ScheduledObject/last")
        while await _runs(wire, "last") == 0:  # noqa: ASYNC110 - time must pass
            await asyncio.sleep(0.1)
        assert {await _runs(wire, name) for name in [*names, "last"]} == {1}


@pytest.fixture
def bells(tmp_path: Path) -> Deployment:
    made = deploy(tmp_path, settings=BINDING)
    (made.folder / "app.py").write_text(BELLS)
    return made


def test_many_alarms_due_at_once_leave_room_for_commands(bells: Deployment) -> None:
    """5,000 (100,000 in the soak) of as many objects come due in one moment: each
    runs once, others are answered.
    """
    with bells.serve() as server:
        slowest_s = asyncio.run(_all_ring(server))
        assert server.stop() == 0, server.stderr()
    assert slowest_s < 2.0, f"a command waited {slowest_s:.2f} s"
    bells.verify()


async def _all_ring(server: Server) -> float:
    """How long the slowest command of a bystander took while they rang."""
    async with asyncio.timeout(LONG_S), Wire(port_of(server)) as wire:
        due_ms = await call(wire, "Ringer/r", "now") + MANY  # a ms for each to be set
        for first in range(0, MANY, 1000):
            await call(wire, f"Ringer/r{first}", "set_all", first, 1000, due_ms)
        await _until_metric(wire, "entries_total", lambda entries: entries >= MANY)
        assert await metric(wire, "alarms_fired_total") < MANY, (
            "all of them were late: nothing came due at once"
        )
        slowest_s = 0.0
        while await metric(wire, "alarms_fired_total") < MANY:
            began_s = time.monotonic()
            assert await call(wire, "Bell/bystander", "runs") == 0
            slowest_s = max(slowest_s, time.monotonic() - began_s)
        assert {await call(wire, f"Bell/b{n}", "runs") for n in range(0, MANY, 7)} == {1}
        assert await metric(wire, "alarms_failed_total") == 0
        assert await metric(wire, "alarms_fired_total") == MANY
    return slowest_s


def test_an_alarm_that_always_fails_is_seen_and_in_the_end_parked(bells: Deployment) -> None:
    """Its failures are in `state.alarms()` and in the metrics, across a SIGKILL;
    after the seventh (soak) it is parked.
    """
    with bells.serve() as server:
        asyncio.run(_fails(server))
        server.kill()
    with bells.serve() as server:
        asyncio.run(_goes_on_to_fail(server))
        assert server.stop() == 0, server.stderr()
    bells.verify()


async def _fails(server: Server) -> None:
    async with asyncio.timeout(PATIENCE_S), Wire(port_of(server)) as wire:
        await call(wire, "Broken/b", "set")
        await _until_metric(wire, "alarms_failed_total", lambda failed: failed == 1)
        assert await call(wire, "Broken/b", "alarms") == [[1, False]]


async def _goes_on_to_fail(server: Server) -> None:
    async with asyncio.timeout(LONG_S), Wire(port_of(server)) as wire:
        await _until_metric(wire, "alarms_failed_total", lambda failed: failed >= 1)
        ((failures, parked),) = await call(wire, "Broken/b", "alarms")
        assert failures >= 2, "what happened before the crash is forgotten"
        assert not parked
        if SOAK:
            await _until_metric(wire, "alarms_parked_total", lambda parked: parked == 1)
            assert await call(wire, "Broken/b", "alarms") == [[7, True]]
