"""Objects that wait for each other in a ring: one of them is told, with the chain;
nobody waits for a deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.harness import deploy, port_of
from tests.acceptance.wire import PATIENCE_S, Answer, Wire
from tests.process import Server

APP = """\
import asyncio
from perdure import DurableObject

class Party(DurableObject):
    async def through(self, names):
        await self.state.put("met", True)
        if names:
            await self.env.PARTIES.get(names[0]).through(names[1:])
        return self.state.id.name

    async def cross(self, name, wait_s):
        await self.state.put("crossed", True)
        await asyncio.sleep(wait_s)
        await self.env.PARTIES.get(name).through([])
        return self.state.id.name

    async def told(self):
        return sorted(await self.state.items())
"""
WAIT_S = 0.3  # so that both turns run before either calls


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path: Path = tmp_path_factory.mktemp("rings")
    binding = '[[durable_objects.bindings]]\nname = "PARTIES"\nclass_name = "Party"\n'
    deployment = deploy(path, settings=binding)
    (deployment.folder / "app.py").write_text(APP)
    with deployment.serve() as server:
        yield server
        assert server.stop() == 0
        assert "Traceback" not in server.stderr()
    deployment.verify()


async def _call(server: Server, name: str, method: str, arguments: str) -> Answer:
    async with asyncio.timeout(PATIENCE_S), Wire(port_of(server)) as wire:
        return await wire.ask("POST", f"/rpc/Party/{name}/{method}", f'{{"args": {arguments}}}'.encode())


def test_a_call_back_into_who_waits_is_told_with_the_chain(server: Server) -> None:
    """A calls B, B calls A: 500 `deadlock` at once, A and B are named in order, and neither has changed."""
    began_s = time.monotonic()
    answer = asyncio.run(_call(server, "a", "through", '[["b", "a"]]'))
    assert time.monotonic() - began_s < 1
    assert (answer.status, answer.code) == (500, "deadlock"), answer
    told = answer.json["detail"]
    assert 0 <= told.index("Party/a") < told.index("Party/b") < told.rindex("Party/a"), told
    for name in "ab":
        assert asyncio.run(_call(server, name, "told", "[]")).json["result"] == []


def test_of_two_that_call_each_other_at_once_one_is_told_within_a_second(server: Server) -> None:
    """The other one gets its answer; what was told `deadlock` has changed nothing."""

    async def both() -> list[Answer]:
        return await asyncio.gather(
            _call(server, "c", "cross", f'["d", {WAIT_S}]'), _call(server, "d", "cross", f'["c", {WAIT_S}]')
        )

    began_s = time.monotonic()
    answers = asyncio.run(both())
    assert time.monotonic() - began_s < WAIT_S + 1
    told, done = sorted(answers, key=lambda answer: answer.code, reverse=True)
    assert (told.status, told.code, done.status) == (500, "deadlock", 200), answers
    for name in "cd":
        assert name in told.json["detail"]
    winner = done.json["result"]
    assert asyncio.run(_call(server, winner, "told", "[]")).json["result"] == ["crossed"]
