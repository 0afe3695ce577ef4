"""The examples, told as their authors would: with `perdure.testing`."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from perdure import DurableObject, StorageFailed
from perdure.testing import story, world

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(file: str) -> Any:
    """The module in a file of examples/."""
    spec = importlib.util.spec_from_file_location(f"example_{file}", EXAMPLES / f"{file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Counter: type[DurableObject] = example("counter").Counter


@story
async def test_a_counter_counts_through_crashes() -> None:
    """GET tells it, POST adds one, by RPC more; each counter has its own count, and a restart loses none."""
    async with world(Counter) as env:
        a, b = env.Counter.get("a"), env.Counter.get("b")
        assert (await a.fetch()).body == b'{"count":0}'
        assert [(await a.fetch(method="POST")).body for _ in range(2)] == [b'{"count":1}', b'{"count":2}']
        assert await a.increment(5) == 7
        await env.restart()
        assert (await a.fetch()).body == b'{"count":7}'
        assert (await b.fetch()).body == b'{"count":0}'


@story
async def test_two_thousand_posts_over_a_hundred_counters_end_exact() -> None:
    """All of them at once."""
    async with world(Counter) as env:
        counters = [env.Counter.get(f"c{n}") for n in range(100)]
        await asyncio.gather(*(counter.fetch(method="POST") for _ in range(20) for counter in counters))
        await env.restart()
        assert [env.state(counter) for counter in counters] == [{"count": 20}] * 100


SafeObject: Any = example("safe_object").SafeObject


class Insistent(SafeObject):  # type: ignore[misc]  # the example is loaded at run time
    """It writes although it could not read."""

    async def insist(self) -> str:
        try:
            return str(await self.state.get("data"))
        except StorageFailed:
            await self.state.put("data", "in spite of it")
        return "put"


@story
async def test_a_safe_object_says_that_its_storage_fails() -> None:
    """503 with why; a put after the failure raises; then all is as it was before."""
    async with world(Insistent) as env:
        box = env.Insistent.get("box")
        await box.fetch(method="POST", body=b'"before"')
        await env.break_storage(box)
        answer = await box.fetch()
        assert answer.status == 503
        assert b"Service unavailable" in answer.body
        with pytest.raises(StorageFailed):
            await box.insist()
        env.heal_storage(box)
        assert await box.insist() == "before"
