"""Handlers that do not let go of their process, or end it: others live on, and only the guilty pay."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import httpx
import pytest
from tests.acceptance.harness import Deployment, deploy, port_of
from tests.acceptance.wire import PATIENCE_S, Answer, Wire, ask
from tests.process import DidNotStart, Server

from perdure.schemas.keys import partition_of
from perdure.streams.turns.supervision.crash_marker import CrashMarker

WILD = Path(__file__).with_name("wild.py")
STEP_S, HOLD_S, PARTITIONS = 0.4, 1.0, 4
SETTINGS = f"[limits]\nstep_s = {STEP_S}\nhold_s = {HOLD_S}\n"
EXIT_HELD = 70


def deployed(path: Path) -> Deployment:
    return deploy(path, settings=SETTINGS, app=WILD, partitions=PARTITIONS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """After all that was done to it it stops in order, charges nobody, and its state is its log's fold."""
    deployment = deployed(tmp_path_factory.mktemp("runaways"))
    with deployment.serve() as server:
        yield server
        assert server.stop() == 0
        assert "Traceback" not in server.stderr()
    assert charges(deployment) == {}
    deployment.verify()


def charges(deployment: Deployment) -> dict[tuple[int, int], int]:
    """What the next start would charge, and has charged."""
    page = CrashMarker(deployment.data / "poison")
    page.close()
    return page.charges


@pytest.mark.parametrize("what", ["loops", "loops_in_storage", "sleeps", "loops_in_a_task", "catches"])
def test_a_handler_that_does_not_let_go_is_interrupted(server: Server, what: str) -> None:
    """500 with the reason, nothing changed; whoever asked others meanwhile is answered."""

    async def story() -> tuple[Answer, Answer, Answer]:
        async with asyncio.timeout(PATIENCE_S), Wire(port_of(server)) as wire, Wire(port_of(server)) as other:
            wild = asyncio.ensure_future(wire.ask("POST", f"/objects/Wild/{what}/{what}"))
            await asyncio.sleep(0)
            meanwhile = await other.ask("POST", f"/objects/Wild/by-{what}/nothing")
            return await wild, meanwhile, await other.ask("GET", f"/objects/Wild/{what}/")

    began_s = monotonic()
    answer, meanwhile, after = asyncio.run(story())
    assert (answer.status, answer.code) == (500, "runaway"), answer
    assert f"Wild/{what} failed" in answer.json["detail"]
    assert monotonic() - began_s >= STEP_S
    assert meanwhile.json == {"count": 1}
    assert after.json == {"count": 0}


def test_runaways_are_counted(server: Server) -> None:
    """By partition, for whoever watches."""
    before = counted(server, "runaways")
    asyncio.run(ask(port_of(server), "POST", "/objects/Wild/counted/loops"))
    assert counted(server, "runaways") == before + 1


def counted(server: Server, what: str) -> float:
    text = httpx.get(f"{server.url}/metrics").text
    return sum(map(float, re.findall(rf"^perdure_{what}_total{{.*}} (.*)$", text, re.MULTILINE)))


async def gone(port: int, path: str, *headers: tuple[str, str]) -> None:
    """Ask for what ends the server."""
    async with asyncio.timeout(PATIENCE_S), Wire(port) as wire:
        with pytest.raises(ConnectionError):
            await wire.ask("POST", path, b"", headers)


def end_of(deployment: Deployment) -> tuple[int, str]:
    """Start it once more; (exit code, stderr) of a server that ends by itself, ready or not."""
    try:
        with deployment.serve() as server:
            return server.wait(), server.stderr()
    except DidNotStart as ended:
        return ended.returncode, ended.stderr


def test_a_command_that_kills_the_process_each_time_is_parked(tmp_path: Path) -> None:
    """After three deaths; its sender is told when it asks again. Its neighbours, in
    flight each time, take effect once.
    """
    deployment = deployed(tmp_path)
    slow = [f"n{n}" for n in range(5)]

    async def ask_all(port: int) -> None:
        async with asyncio.TaskGroup() as group:
            for name in slow:
                group.create_task(gone(port, f"/objects/Wild/{name}/slow"))
            group.create_task(gone(port, "/objects/Wild/bad/dies", ("idempotency-key", "k")))

    with deployment.serve() as server:
        asyncio.run(ask_all(port_of(server)))
        assert server.wait() == 3
    for _ in range(2):
        assert end_of(deployment)[0] == 3

    async def told(port: int) -> Answer:
        async with asyncio.timeout(PATIENCE_S), Wire(port) as wire:
            while True:  # 409 until its entry is durable
                answer = await wire.ask("POST", "/objects/Wild/bad/dies", b"", [("idempotency-key", "k")])
                if answer.code != "key-in-flight":
                    return answer

    with deployment.serve() as server:
        answer = asyncio.run(told(port_of(server)))
        assert (answer.status, answer.code) == (500, "parked"), answer
        assert "3 times the process died while Wild/bad worked on this command" in answer.json["detail"]
        assert "Wild/bad" in server.stderr(), "the log does not name it"
        assert counted(server, "parked") == 1
        for name in slow:  # behind its slow command
            assert asyncio.run(ask(port_of(server), "GET", f"/objects/Wild/{name}/")).json == {"count": 1}
        assert asyncio.run(ask(port_of(server), "GET", "/objects/Wild/bad/")).json == {"count": 0}
        assert server.stop() == 0
    assert {partition for partition, _ in charges(deployment)} == {partition_of("Wild/bad", PARTITIONS)}
    assert list(charges(deployment).values()) == [3]
    deployment.verify()


def test_a_command_that_kills_the_process_before_it_is_on_the_log_is_lost_with_it(tmp_path: Path) -> None:
    """Its sender sees the connection end; the next start serves, and who gets its
    offset is not charged for it.
    """
    deployment = deployed(tmp_path)
    for _ in range(3):
        with deployment.serve() as server:
            asyncio.run(gone(port_of(server), "/objects/Wild/bad/dies_at_once"))
            assert server.wait() == 3
    with deployment.serve() as server:
        answer = asyncio.run(ask(port_of(server), "POST", "/objects/Wild/bad/nothing"))
        assert answer.json == {"count": 1}
        assert server.stop() == 0
    assert charges(deployment) == {}


@pytest.mark.parametrize("what", ["rings", "sends"])
def test_what_comes_again_by_itself_is_parked_though_it_kills_before_it_is_on_the_log(
    tmp_path: Path, what: str
) -> None:
    """An alarm, a message of another object: no client has to give up asking, and
    the server serves after four deaths.
    """
    deployment = deployed(tmp_path)
    with deployment.serve() as server:
        answer = asyncio.run(ask(port_of(server), "POST", f"/objects/Wild/sender/{what}"))
        assert answer.json == {"count": 1}
        assert server.wait() == 3
    for _ in range(3):
        assert end_of(deployment)[0] == 3
    with deployment.serve() as server:
        until = monotonic() + PATIENCE_S
        while counted(server, "parked") < 1:
            assert monotonic() < until
        answer = asyncio.run(ask(port_of(server), "POST", "/objects/Wild/receiver/nothing"))
        assert answer.json == {"count": 1}
        assert server.stop() == 0
    assert list(charges(deployment).values()) == [3]
    deployment.verify()


@pytest.mark.parametrize("what", ["computes", "waits"])
def test_a_call_into_c_that_holds_on_ends_the_process(tmp_path: Path, what: str) -> None:
    """With all stacks on stderr, and its command charged; what was acknowledged before is there."""
    deployment = deployed(tmp_path)

    async def held(port: int) -> None:
        async with asyncio.timeout(PATIENCE_S), Wire(port) as wire:
            assert (await wire.ask("POST", "/objects/Wild/by/nothing")).status == 200
            with pytest.raises(ConnectionError):
                await wire.ask("POST", f"/objects/Wild/bad/{what}")

    with deployment.serve() as server:
        asyncio.run(held(port_of(server)))
        assert server.wait() in (EXIT_HELD, -signal.SIGVTALRM)
        assert f"in _{what}" in server.stderr()
    assert list(charges(deployment).values()) == [1]
    deployment.verify()
    left = {each.key: each.entry for each in deployment.history().values()}
    assert left["Wild/by"] is not None
    assert left["Wild/bad"] is None


def test_a_process_that_was_stopped_for_long_goes_on(tmp_path: Path) -> None:
    """SIGSTOP is nobody's runaway: whatever ran or waited then is done after SIGCONT."""
    deployment = deployed(tmp_path)

    async def story(server: Server) -> Answer:
        async with asyncio.timeout(PATIENCE_S), Wire(port_of(server)) as wire:
            slow = asyncio.ensure_future(wire.ask("POST", "/objects/Wild/a/slow"))
            await asyncio.sleep(0)
            server.process.send_signal(signal.SIGSTOP)
            began_s = monotonic()
            while monotonic() - began_s < 2 * HOLD_S:  # noqa: ASYNC110 - what is waited for is time itself
                await asyncio.sleep(0.1)
            server.process.send_signal(signal.SIGCONT)
            return await slow

    with deployment.serve() as server:
        answer = asyncio.run(story(server))
        assert answer.json == {"count": 1}
        assert server.stop() == 0
