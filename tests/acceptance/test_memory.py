"""What objects hold in memory is bounded: one that holds too much, and all of them
when the process holds too much.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

from tests.acceptance.harness import deploy, port_of
from tests.acceptance.wire import PATIENCE_S, Wire
from tests.process import Server

APP = """\
from perdure import DurableObject

class Hoard(DurableObject):
    async def start(self):
        self.held = []
        await self.state.put("stays", await self.state.get("stays", 0) + 1)

    async def hold(self, size_bytes):
        self.held.append(bytes(size_bytes))
        return await self.look()

    async def look(self):
        return {"held": len(self.held), "stays": await self.state.get("stays")}
"""
MIB = 1 << 20


def _serve(path: Path, settings: str) -> Any:
    deployment = deploy(path, settings=settings)
    (deployment.folder / "app.py").write_text(APP)
    return deployment.serve()


async def _call(wire: Wire, name: str, method: str, *args: int) -> dict[str, int]:
    answer = await wire.ask("POST", f"/rpc/Hoard/{name}/{method}", f'{{"args": {list(args)}}}'.encode())
    assert answer.status == 200, answer
    told: dict[str, int] = answer.json["result"]
    return told


async def _count(wire: Wire, what: str) -> float:
    text = (await wire.ask("GET", "/metrics")).body.decode()
    return sum(map(float, re.findall(rf"^perdure_{what}_total{{.*}} (.*)$", text, re.MULTILINE)))


def test_an_object_that_holds_too_much_loses_its_memory_and_that_is_told(tmp_path: Path) -> None:
    """Over limits.object_bytes: after its turn it leaves memory, keeps its state,
    and stands in log and metrics.
    """

    async def told(server: Server) -> None:
        async with asyncio.timeout(PATIENCE_S), Wire(port_of(server)) as wire:
            assert await _call(wire, "small", "hold", MIB // 2) == {"held": 1, "stays": 1}
            assert await _call(wire, "large", "hold", MIB * 3 // 2) == {"held": 1, "stays": 1}
            while await _count(wire, "oversized") == 0:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.05)
            assert await _call(wire, "large", "look") == {"held": 0, "stays": 2}
            assert await _call(wire, "small", "look") == {"held": 1, "stays": 1}
            assert await _count(wire, "oversized") == 1

    with _serve(tmp_path, f"[limits]\nobject_bytes = {MIB}\n") as server:
        asyncio.run(told(server))
        assert "object is too large to stay in memory" in server.stderr()
        assert "Hoard/large" in server.stderr()
        assert "Hoard/small" not in server.stderr()
        assert server.stop() == 0


def test_a_process_that_holds_too_much_lets_its_objects_go(tmp_path: Path) -> None:
    """Over limits.memory_bytes idle objects leave, their state stays, and all are answered as before."""

    async def told(server: Server) -> None:
        async with asyncio.timeout(PATIENCE_S), Wire(port_of(server)) as wire:
            assert await _call(wire, "one", "hold", 1000) == {"held": 1, "stays": 1}
            while await _count(wire, "evictions") == 0:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.05)
            assert await _call(wire, "one", "look") == {"held": 0, "stays": 2}

    with _serve(tmp_path, f"[limits]\nmemory_bytes = {MIB}\n") as server:
        asyncio.run(told(server))
        assert "memory is short" in server.stderr()
        assert server.stop() == 0
