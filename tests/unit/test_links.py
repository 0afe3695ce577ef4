"""Links: each entry names its object's previous one, in every batch, across restarts and take-overs."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from tests.unit.one_owner import OneOwner, story
from tests.unit.test_tables import a_journal

from perdure.objects.durable import DurableObject
from perdure.objects.registry import Registry
from perdure.schemas.config import Config
from perdure.schemas.errors import Refusal
from perdure.schemas.journal import (
    NO_CHAIN,
    Claim,
    EntryRecord,
    Header,
    chain_after_claim,
    decode_record,
    encode_chained,
    encode_unchained,
    in_history,
)
from perdure.streams.journal.reader import JournalReader
from perdure.streams.log.base import Topic
from perdure.streams.state import link_rows
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore


class Counter(DurableObject):
    async def add(self, by: int) -> int:
        if by < 0:
            raise Refusal("only up", code="only-up")
        count: int = await self.state.get("count", 0) + by
        await self.state.put("count", count)
        return count

    async def clear(self) -> None:
        await self.state.delete_all()


async def histories(harness: OneOwner) -> dict[str, list[int]]:
    """The journal offsets of each object's entries, by a scan, after each link was compared with them."""
    offsets: dict[str, list[int]] = {}
    reader = JournalReader("journal")
    for each in await harness.records(Topic.JOURNAL):
        record = reader.step(each.offset, each.value)
        if isinstance(record, EntryRecord) and in_history(record.entry):
            mine = offsets.setdefault(record.entry.key, [])
            assert record.previous(each.offset) == (mine[-1] if mine else None)
            mine.append(each.offset)
    return offsets


def test_every_entry_links_to_the_previous_one_of_its_object() -> None:
    """In one batch and across batches, refusals and deletions included; dead letters stand outside."""

    async def told(harness: OneOwner) -> None:
        sent = [
            harness.send(name, "add", by)
            for name, by in (("a", 1), ("a", 1), ("b", 1), ("a", -1), ("a", 1), ("b", 1))
        ]
        harness.append_raw(b"Thing/a", b"no call")
        await harness.replies(*sent)
        await harness.call("a", "clear")
        await harness.call("a", "add", 1)
        await harness.until(lambda: harness.owner.idle)
        offsets = await histories(harness)
        assert {name: len(each) for name, each in offsets.items()} == {"Thing/a": 6, "Thing/b": 2}
        links = harness.owner.tables.links
        assert {name: links.newest(name) for name in offsets} == {
            name: each[-1] for name, each in offsets.items()
        }
        assert links.newest("Thing/none") == 0
        assert links.linked_from == min(each[0] for each in offsets.values())

    story(Counter, told)


@pytest.mark.parametrize("recent", [1, 8_192])
def test_links_go_on_after_a_restart(recent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next owner knows the newest entry of each object, from rows or from what it folds."""
    monkeypatch.setattr(link_rows, "RECENT", recent)

    async def told(harness: OneOwner) -> None:
        for _ in range(3):
            for name in ("a", "b", "c"):
                await harness.call(name, "add", 1)
            harness.owner.tables.write_all()
            await harness.call("a", "add", 1)
            await harness.end()
            await harness.begin()
        offsets = await histories(harness)
        assert {name: len(each) for name, each in offsets.items()} == {
            "Thing/a": 6,
            "Thing/b": 3,
            "Thing/c": 3,
        }

    story(Counter, told)


def test_another_owner_links_to_what_counts() -> None:
    """A void entry, of an owner that was fenced, is in no history."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "add", 1)
        await harness.take_over()
        await harness.call("a", "add", 1)
        await harness.call("a", "add", 1)
        await histories(harness)

    story(Counter, told, shared=True)


def test_entries_of_the_first_version_leave_no_row() -> None:
    """So a state that an earlier version folded is what a replay gives today."""
    tables = Tables(MemoryStore(), 0, exclusive=True)
    for offset, value in enumerate(a_journal(Random(3)).values):
        tables.apply(offset, value)
    tables.write_all()
    assert list(tables.store.scan(b"n", b"o"))
    old = Tables(MemoryStore(), 0, exclusive=True)
    claim = encode_unchained(Claim("u", "n"))
    chain = chain_after_claim(NO_CHAIN, 1, claim)
    old.apply(0, encode_unchained(Header("app", "app-uuid", 0, 1)))
    old.apply(1, claim)
    for value in a_journal(Random(3)).values[2:]:
        record = decode_record(value)
        if isinstance(record, EntryRecord):
            record = EntryRecord(record.epoch, record.seq, record.entry, record.done, record.low, record.out)
        value, chain = encode_chained(record, chain)  # type: ignore[arg-type]  # header and claim are behind us
        old.apply(old.reader.offset, value)
    old.write_all()
    assert not list(old.store.scan(b"n", b"o"))
    assert old.links.linked_from is None


def test_calls_that_a_turn_made_are_in_its_entry() -> None:
    """With the place of the called command; and the called entry names its cause."""

    class Caller(DurableObject):
        async def go(self, other: str) -> Any:
            await self.state.put("last", other)
            return await self.env.Thing.get(other).add(3) if other != self.state.id.name else None

        async def add(self, by: int) -> int:
            await self.state.put("count", by)
            return by

    async def told(harness: OneOwner) -> None:
        harness.registry = Registry.build({"Thing": Caller}, Config())
        await harness.end()
        await harness.begin()
        reply = await harness.call("a", "go", "b")
        assert reply.error is None
        entries = {each.key: each for each in await harness.journal()}
        (made,) = entries["Thing/a"].calls
        called = entries["Thing/b"]
        assert (made.key, made.offset, made.summary) == ("Thing/b", called.command, "call add ")
        assert called.cause == f"Thing/a@0:{entries['Thing/a'].command}"
        assert called.body == b'{"method":"add","args":[3],"kwargs":{}}'
        await asyncio.sleep(0)

    story(Caller, told)
