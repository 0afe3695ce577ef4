"""Values that expire: hidden at once, removed from the tables without anyone
asking, as stories on virtual time.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tests.unit.one_owner import OneOwner, story

from perdure.objects.durable import DurableObject
from perdure.schemas.alarms import TTL
from perdure.schemas.errors import StorageFailed


class Thing(DurableObject):
    """It has no alarm() of its own, and counts how often it is made."""

    async def start(self) -> None:
        self.env.seen.append("made")

    async def put(self, name: str, ttl_s: float | None, count: int = 1) -> None:
        values = {f"{name}{n}" if n else name: n for n in range(count)}
        if ttl_s is None:
            await self.state.put(values)
        else:
            await self.state.put(values, expiration_ttl=ttl_s)

    async def get(self, name: str) -> Any:
        return await self.state.get(name)

    async def names(self) -> list[str]:
        return [key.name for key in (await self.state.list()).keys]

    async def alarms(self) -> list[Any]:
        return list(await self.state.alarms())

    async def clear(self, name: str = "", ttl_s: float = 0) -> None:
        await self.state.delete_all()
        if name:
            await self.put(name, ttl_s)


def rows(harness: OneOwner, name: str = "a") -> list[str]:
    """The names in the tables, perdure's own too."""
    return [found for found, _ in harness.owner.tables.values.scan(f"Thing/{name}", "", None)]


def ttl_due(harness: OneOwner, name: str = "a") -> int | None:
    row = harness.owner.tables.alarms.get(f"Thing/{name}", TTL)
    return None if row is None else row.due_ms


def test_an_expired_value_leaves_the_tables_without_anyone_asking() -> None:
    """Hidden when its time has come, then its rows and the alarm that removed them are gone."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "put", "short", 10)
        await harness.call("a", "put", "long", 1000)
        await harness.call("a", "put", "ever", None)
        assert (await harness.call("a", "alarms")).body == b'{"result":[]}'
        assert len(rows(harness)) == 5
        harness.skew_ms = 10_100
        assert (await harness.call("a", "get", "short")).body == b'{"result":null}'
        assert "short" in rows(harness)
        await asyncio.sleep(6)
        assert [name for name in rows(harness) if not name.startswith("\0")] == ["ever", "long"]
        await asyncio.sleep(1000)
        assert rows(harness) == ["ever"]
        assert ttl_due(harness) is None
        assert harness.owner.counts.alarms_fired == 0

    story(Thing, told)


def test_a_value_put_again_stays() -> None:
    """With a later time, or none; the alarm goes by the earliest, and looks again."""

    async def told(harness: OneOwner) -> None:
        for name in ("later", "ever", "gone"):
            await harness.call("a", "put", name, 5)
        first = ttl_due(harness)
        await harness.call("a", "put", "later", 50)
        await harness.call("a", "put", "ever", None)
        assert ttl_due(harness) == first
        await harness.call("a", "put", "earlier", 1)
        assert (ttl_due(harness) or 0) < (first or 0)
        await asyncio.sleep(20)
        assert [name for name in rows(harness) if not name.startswith("\0")] == ["ever", "later"]
        await asyncio.sleep(50)
        assert rows(harness) == ["ever"]

    story(Thing, told)


def test_more_than_one_round_removes_many() -> None:
    """A thousand to a turn; the next round comes at once."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "put", "n", 5, 2500)
        await asyncio.sleep(6)
        assert rows(harness) == []
        entries = [each for each in await harness.journal() if each.summary.startswith("alarm")]
        assert [len(each.deletes) for each in entries] == [2000, 2000, 1000]

    story(Thing, told)


def test_values_are_removed_of_an_object_that_is_not_in_memory() -> None:
    """After a restart too; no instance is made for it."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "put", "short", 10)
        await harness.end()
        harness.seen.clear()
        await harness.begin()
        await asyncio.sleep(20)
        assert (rows(harness), harness.seen) == ([], [])

    story(Thing, told)


def test_delete_all_leaves_nothing_to_remove() -> None:
    """The alarm goes with the values."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "put", "short", 10)
        await harness.call("a", "clear")
        assert (rows(harness), ttl_due(harness)) == ([], None)
        await asyncio.sleep(20)
        assert harness.owner.counts.alarms_due == 0
        await harness.call("a", "put", "short", 10)
        await harness.call("a", "clear", "later", 20)
        await asyncio.sleep(30)
        assert (rows(harness), harness.owner.counts.alarms_due) == ([], 1)

    story(Thing, told)


def test_a_removal_that_fails_is_never_given_up() -> None:
    """It comes again after at most 64 s, however often it failed."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "put", "short", 10)
        activation = harness.owner.turns.activations["Thing/a"]
        scan = type(activation).scan
        broken = [True]

        def failing(self: Any, *args: Any, **options: Any) -> Any:
            if broken:
                raise StorageFailed("no")
            return scan(self, *args, **options)

        type(activation).scan = failing  # type: ignore[method-assign]  # put back below
        try:
            await asyncio.sleep(1000)
            row = harness.owner.tables.alarms.get("Thing/a", TTL)
            assert row is not None
            assert (row.attempt > 10, row.parked) == (True, False)
            broken.clear()
            await asyncio.sleep(70)
            assert rows(harness) == []
        finally:
            type(activation).scan = scan  # type: ignore[method-assign]  # as above

    story(Thing, told)
