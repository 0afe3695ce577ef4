"""One busy object keeps nobody else waiting: counted in what it does meanwhile,
which no busy machine changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

from tests.acceptance.harness import deploy, port_of
from tests.acceptance.test_connections import HANDSHAKE
from tests.acceptance.wire import PATIENCE_S, Wire

APP = Path(__file__).with_name("hot_app.py")
CLIENTS = 200
LOOKS = 12
TURNS = 40  # of the hot object in which another is answered; a client that shares its processor is slow, too
TURNS_ON_KAFKA = 60  # where each request has several ways through the event loop to make
MESSAGES = 8000  # likewise; 200 sockets may have 12,800 under way
FRAMES = b"\x82\x82\0\0\0\0hi" * 4096


def test_others_are_answered_within_a_few_turns_of_a_hot_object(log: str, tmp_path: Path) -> None:
    """200 clients ask one object for turns of 20 ms; a probe, a read and a write of
    others wait for few of them.
    """
    deployment = deploy(tmp_path, log=log, name=f"t{uuid4().hex[:12]}", app=APP)
    with deployment.serve() as server:
        most = asyncio.run(_beside_hot_clients(port_of(server)))
        assert max(most.values()) <= (TURNS if log == "embedded" else TURNS_ON_KAFKA), most
        assert server.stop() == 0, server.stderr()
    deployment.verify()


async def _beside_hot_clients(port: int) -> dict[str, int]:
    on = True

    async def toil() -> None:
        async with Wire(port) as wire:
            while on:
                assert (await wire.ask("POST", "/rpc/Hot/a/toil")).status in (200, 503)

    async with asyncio.timeout(PATIENCE_S), _others(port) as others, asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(toil())
        most = await _waits(others, "turns", lambda turns: turns > 3)
        on = False
    return most


@asynccontextmanager
async def _others(port: int) -> AsyncIterator[tuple[Wire, Wire]]:
    """Two connections that were used: the server closes those whose first request is long in coming."""
    async with Wire(port) as cold, Wire(port) as probe:
        for wire in (cold, probe):
            assert (await wire.ask("GET", "/livez")).status == 200
        yield cold, probe


async def _waits(others: tuple[Wire, Wire], what: str, began: Callable[[int], bool]) -> dict[str, int]:
    """How much of `what` the hot object has done during each sort of request, at most."""

    async def look(path: str = "/rpc/Cold/b/look") -> int:
        answer = await cold.ask("POST", path)
        assert answer.status == 200, answer
        count: int = answer.json["result"][what]
        return count

    most, (cold, probe) = {"probe": 0, "read": 0, "write": 0}, others
    while not began(before := await look()):
        pass
    for _ in range(LOOKS):
        after = await look()
        most["read"] = max(most["read"], after - before)
        assert (await probe.ask("GET", "/livez")).status == 200
        before = await look()
        most["probe"] = max(most["probe"], before - after - most["read"])
        after = await look("/rpc/Cold/b/write")
        most["write"] = max(most["write"], after - before)
        before = after
    return most


@asynccontextmanager
async def _shouting(port: int, count: int) -> AsyncIterator[None]:
    """So many sockets that send as fast as they can."""

    async def shout(wire: Wire) -> None:
        while True:
            wire.send(FRAMES)
            await wire.drain()

    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(Wire(port)) for _ in range(count)]
        for wire in wires:
            wire.send(HANDSHAKE.format("a").replace("/Echo/", "/Hot/").encode())
            assert (await wire.answer()).status == 101
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(shout(wire)) for wire in wires]
            yield
            for task in tasks:
                task.cancel()


def test_others_are_answered_while_200_sockets_send_at_full_speed(tmp_path: Path) -> None:
    """What they send is parsed, and their events run, in a share: less than they could have under way."""

    async def told(port: int) -> dict[str, int]:
        async with asyncio.timeout(PATIENCE_S), _others(port) as others, _shouting(port, CLIENTS):
            return await _waits(others, "messages", lambda messages: messages > CLIENTS)

    deployment = deploy(tmp_path, app=APP)
    with deployment.serve() as server:
        most = asyncio.run(told(port_of(server)))
        assert max(most.values()) <= MESSAGES, most
        assert server.stop() == 0, server.stderr()
    deployment.verify()


def test_what_a_hot_object_cannot_do_in_time_is_refused_at_the_door(tmp_path: Path) -> None:
    """Deadlines of 2 s, and commands for 4 s: 503 with `Retry-After`, and those
    that are let in are answered.
    """

    async def told(port: int) -> None:
        refused, done = 0, 0

        async def ask() -> None:
            nonlocal refused, done
            async with Wire(port) as wire:
                while not refused or not done:
                    answer = await wire.ask("POST", "/rpc/Hot/a/toil")
                    done += answer.status == 200
                    if answer.code == "overloaded":
                        assert answer.status == 503
                        assert int(answer.headers["retry-after"]) >= 1
                        assert "would not run within its deadline of 2000 ms" in answer.json["detail"]
                        refused += 1

        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(ask())

    deployment = deploy(tmp_path, app=APP, settings="deadline_s = 2\n")
    with deployment.serve() as server:
        asyncio.run(told(port_of(server)))
        assert server.stop() == 0, server.stderr()
    deployment.verify()
