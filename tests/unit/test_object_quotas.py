"""Quotas of objects, as stories on virtual time: who made what, who may not make
more, and what restarts remember.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from tests.unit.owners import Owners, story

from perdure.objects.durable import DurableObject
from perdure.schemas.admin import DELETE
from perdure.schemas.calls import PRINCIPAL
from perdure.schemas.commands import ADMIN, CALL, LOCAL, NOBODY, Command, call_body, sealed_record
from perdure.schemas.journal import Migration, encode_chained
from perdure.schemas.migrations import Step
from perdure.schemas.replies import FAILED, OK, UNAVAILABLE, Reply
from perdure.streams.log.base import Record, Topic
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore
from perdure.streams.turns.object_quotas import ObjectQuotas
from perdure.streams.turns.ports import UNSEALED, PartitionBounds
from perdure.streams.turns.runner import FIRST_TRY_AGAIN_S

SHARED = pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])


class Thing(DurableObject):
    """Writes, empties itself, and has others write."""

    async def add(self) -> int:
        count: int = await self.state.get("count", 0) + 1
        await self.state.put("count", count)
        return count

    async def look(self) -> int:
        return await self.state.get("count", 0)  # type: ignore[no-any-return]  # what `add` put

    async def empty(self) -> None:
        await self.state.delete_all()

    async def renew(self) -> None:
        await self.state.delete_all()
        await self.state.put("count", 1)

    async def remove(self) -> None:
        await self.state.delete("count")

    async def put(self, size: int) -> None:
        await self.state.put("data", b"x" * size)

    async def have(self, name: str) -> Any:
        return await self.env.THINGS.get(name).add()

    async def who(self) -> str:
        return self.state.principal


def makers(**quotas: int) -> ObjectQuotas:
    return ObjectQuotas(quotas.get)


def code(reply: Reply) -> str:
    return "" if reply.error is None else reply.error.code


def made(harness: Owners) -> Counter[str]:
    """What the tables of all partitions say that each principal made."""
    found = Counter[str]()
    for owner in harness.owners:
        found.update(dict(owner.tables.creators.counts()))
    return found


async def settled(harness: Owners, **counts: int) -> None:
    """Once all is quiet, tables and memory agree on these counts."""
    await harness.quiet()
    assert made(harness) == counts
    assert harness.makers is not None
    assert {name: harness.makers.count(name) for name in counts} == counts


@SHARED
def test_of_many_at_once_as_many_get_through_as_are_left(shared: bool) -> None:
    """Nothing of the others is there, those that are go on, and who has no quota makes any number."""

    async def told(harness: Owners) -> None:
        replies = await harness.replies(*(harness.send(f"x{n}", "add", principal="alice") for n in range(12)))
        assert Counter(map(code, replies)) == {"": 5, "over-quota": 7}
        assert {reply.outcome for reply in replies} == {OK, UNAVAILABLE}
        there = [n for n in range(12) if not code(replies[n])]
        assert [n for n in range(12) if harness.value(f"x{n}")] == there
        assert await harness.result(f"x{there[0]}", "add", principal="alice") == b"2"
        more = await harness.replies(*(harness.send(f"y{n}", "add", principal="bob") for n in range(9)))
        assert all(reply.outcome == OK for reply in more)
        await settled(harness, alice=5, bob=9)
        assert await harness.result(f"x{next(iter({*range(12)} - {*there}))}", "add", principal="bob") == b"1"

    story(Thing, told, shared=shared, makers=makers(alice=5))


@SHARED
def test_what_was_made_is_remembered(shared: bool) -> None:
    """By who begins after a crash; what was not durable is not counted there."""

    async def told(harness: Owners) -> None:
        for name in ("a", "b"):
            await harness.call(name, "add", principal="alice")
        await harness.crash()
        await harness.begin()
        await settled(harness, alice=2)
        assert code(await harness.call("c", "add", principal="alice")) == ""
        assert code(await harness.call("d", "add", principal="alice")) == "over-quota"
        assert code(await harness.call("a", "add", principal="alice")) == ""

    story(Thing, told, shared=shared, makers=makers(alice=3))


def test_an_emptied_object_counts_no_more() -> None:
    """By whoever empties it, at once; one that is emptied and written in one turn
    is made anew, by who wrote it.
    """

    async def told(harness: Owners) -> None:
        assert code(await harness.call("a", "add", principal="alice")) == ""
        assert code(await harness.call("b", "add", principal="alice")) == "over-quota"
        replies = await harness.replies(
            harness.send("a", "empty", principal="bob"), harness.send("a", "add", principal="alice")
        )
        assert list(map(code, replies)) == ["", ""]
        await settled(harness, alice=1)
        assert code(await harness.call("a", "renew", principal="alice")) == ""
        await settled(harness, alice=1)
        assert code(await harness.call("a", "renew", principal="bob")) == ""
        await settled(harness, bob=1)
        assert code(await harness.call("b", "add", principal="alice")) == ""
        assert code(await harness.call("a", "renew", principal="alice")) == "over-quota"
        assert harness.value("a") == 1
        await settled(harness, alice=1, bob=1)

    story(Thing, told, makers=makers(alice=1))


def test_what_is_removed_value_by_value_still_counts() -> None:
    """So that no turn has to look whether anything is left."""

    async def told(harness: Owners) -> None:
        await harness.call("a", "add", principal="alice")
        await harness.call("a", "remove", principal="alice")
        await settled(harness, alice=1)
        await harness.crash()
        await harness.begin()
        await harness.call("a", "add", principal="alice")
        await settled(harness, alice=1)

    story(Thing, told, makers=makers())


def test_what_comes_without_a_principal_counts_against_nobody() -> None:
    """And neither does what objects ask of objects, nor what was there before; reading makes nothing."""

    async def told(harness: Owners) -> None:
        await harness.call("a", "add")
        await harness.call("b", "have", "c", principal="alice")
        for name in "abcd":
            await harness.call(name, "look", principal="alice")
        await harness.call("a", "add", principal="alice")
        await settled(harness)
        await harness.crash()
        await harness.begin()
        for name in "ac":
            assert code(await harness.call(name, "add", principal="alice")) == ""
        await settled(harness)
        await harness.call("a", "empty")
        await harness.call("a", "add")
        assert code(await harness.call("a", "add", principal="alice")) == ""
        await settled(harness)

    story(Thing, told, makers=makers(alice=0))


def test_a_turn_without_an_entry_makes_nothing() -> None:
    """One whose entry would be too large for the log rolls back, and so does what it was counted for."""

    async def told(harness: Owners) -> None:
        assert code(await harness.call("a", "put", 600, principal="alice")) == "too-large"
        await settled(harness)
        assert code(await harness.call("a", "put", 10, principal="alice")) == ""
        await settled(harness, alice=1)

    story(Thing, told, makers=makers(alice=1), bounds=PartitionBounds(entry_bytes=500))


@pytest.mark.parametrize("method", ["add", "empty"])
def test_a_turn_changes_nothing_if_it_cannot_be_read_who_made_its_object(method: str) -> None:
    """It is told as any state that cannot be read; the object goes on when that can."""

    async def told(harness: Owners) -> None:
        def broken(key: str) -> str | None:
            raise OSError("the disk")

        await harness.call("a", "add", principal="alice")
        await harness.crash()
        await harness.begin()
        harness.owner_of("a").tables.creators.of = broken  # type: ignore[method-assign]  # for a moment
        reply = await harness.call("a", method, principal="alice")
        assert (reply.outcome, code(reply)) == (UNAVAILABLE, "storage-failed")
        del harness.owner_of("a").tables.creators.of
        assert harness.value("a") == 1
        assert await harness.result("a", "add", principal="alice") == b"2"
        await settled(harness, alice=1)

    story(Thing, told, makers=makers())


def test_one_over_the_quota_that_nobody_waits_for_has_failed() -> None:
    """It is journaled as that, once, and holds nothing up."""

    async def told(harness: Owners) -> None:
        body = call_body("add", [], {})
        command = Command("Thing/a", CALL, "add", body=body, id="x", reply_to=NOBODY, principal="alice")
        harness.log.append(Topic.COMMANDS, harness.place("a"), Record(*sealed_record(command, UNSEALED)))
        before_s = asyncio.get_running_loop().time()
        await harness.quiet()
        assert (
            asyncio.get_running_loop().time() - before_s < FIRST_TRY_AGAIN_S
        )  # of virtual time: not tried again
        (entry,) = await harness.entries("a")
        assert (entry.outcome, code(entry.reply), entry.puts) == (FAILED, "over-quota", {})

    story(Thing, told, makers=makers(alice=0))


def test_a_deleted_object_counts_no_more() -> None:
    """By administration, in memory or not, or with its namespace."""

    async def told(harness: Owners) -> None:
        for name in "abc":
            await harness.call(name, "add", principal="alice")
        await harness.crash()
        await harness.begin()
        delete = Command("Thing/a", ADMIN, DELETE, body=b"{}", id="d", reply_to=LOCAL)
        harness.log.append(Topic.COMMANDS, harness.place("a"), Record(*sealed_record(delete, UNSEALED)))
        assert (await harness.replies("d"))[0].outcome == OK
        await settled(harness, alice=2)
        assert code(await harness.call("d", "add", principal="alice")) == ""
        await harness.quiet()
        for owner in harness.owners:
            tables = Tables(MemoryStore(), owner.partition, exclusive=True)
            for each in await harness.records(Topic.JOURNAL, owner.partition):
                tables.apply(each.offset, each.value)
            step = Migration(tables.reader.epoch, tables.reader.seq, Step("v1", deleted=("Thing",)))
            tables.apply(tables.reader.offset, encode_chained(step, tables.reader.chain)[0])
            tables.write_all()
            assert dict(tables.creators.counts()) == {}
            assert not [row for row, _ in tables.store.scan(b"o", b"p")]

    story(Thing, told, makers=makers(alice=3))


def test_an_object_knows_who_asks() -> None:
    """The principal of the command; another object is `@` and its key; nobody is empty."""

    async def told(harness: Owners) -> None:
        assert await harness.result("a", "who") == b'""'
        assert await harness.result("a", "who", principal="alice") == b'"alice"'
        assert (
            await harness.result("b", "have_who", "a", principal="alice") == f'"{PRINCIPAL}Thing/b"'.encode()
        )

    class Asking(Thing):
        async def have_who(self, name: str) -> Any:
            return await self.env.THINGS.get(name).who()

    story(Asking, told)
