"""The objects that only the benchmark serves, told with `perdure.testing`."""

from __future__ import annotations

import pytest
from bench.app import app

from perdure.schemas.keys import partition_of
from perdure.testing import story, world


@story
async def test_a_front_counts_in_its_back() -> None:
    """POST is a call that adds one, GET one that reads; the number is the other object's."""
    async with world(app.Front, app.Back, bindings={"BACKS": "Back"}) as env:
        front = env.Front.get("o1")
        assert [(await front.fetch(method="POST")).body for _ in range(2)] == [b'{"count":1}', b'{"count":2}']
        assert (await front.fetch()).body == b'{"count":2}'
        assert env.state(front) == {}


@pytest.mark.parametrize("number", range(20))
@story
async def test_a_front_and_its_back_lie_apart(number: int) -> None:
    """No call stays in one partition, as perdure is partitioned by default."""
    async with world(app.Front, app.Back, bindings={"BACKS": "Back"}) as env:
        name = f"o{number}"
        await env.Front.get(name).fetch(method="POST")
        backs = [f"Back/{name}-{k}" for k in range(50) if env.state(env.Back.get(f"{name}-{k}"))]
        assert len(backs) == 1
        assert partition_of(backs[0], app.PARTITIONS) != partition_of(f"Front/{name}", app.PARTITIONS)


@story
async def test_a_bell_rings_once_at_its_time() -> None:
    """Set twice, for the later time it counts, and then once."""
    async with world(app.Bell) as env:
        bell = env.Bell.get("o1")
        await bell.fetch("/?at=1700000100000", method="POST")
        await bell.fetch("/?at=1700000200000", method="POST")
        await env.advance(150)
        assert (await bell.fetch()).body == b'{"count":0}'
        await env.advance(100)
        assert (await bell.fetch()).body == b'{"count":1}'


@story
async def test_a_shelf_gives_all_its_values() -> None:
    """As many as were put."""
    async with world(app.Shelf) as env:
        shelf = env.Shelf.get("o1")
        await shelf.fetch("/?keys=1000", method="POST")
        assert (await shelf.fetch()).body == b'{"count":1000}'
