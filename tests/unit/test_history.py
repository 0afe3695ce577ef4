"""The history of one object: by links, by a scan, from a state that lags; values before and after."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from tests.unit.one_owner import OneOwner, story

from perdure.objects.durable import DurableObject
from perdure.objects.registry import Registry
from perdure.schemas.config import Config
from perdure.schemas.errors import Refusal
from perdure.schemas.values import decode_value
from perdure.streams.audit.history import HistoryTurn
from perdure.streams.audit.reader import AuditLog
from perdure.streams.log.base import Topic
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore

NAMES = ("x", "y", "z")
Source = Callable[[OneOwner], "AuditLog"]


class Thing(DurableObject):
    async def change(self, puts: dict[str, int], deletes: list[str], clear: bool) -> str:
        if clear:
            await self.state.delete_all()
        for name in deletes:
            await self.state.delete(name)
        if puts:
            await self.state.put(puts)
        if not puts and not deletes and not clear:
            raise Refusal("nothing to do", code="nothing")
        return "done"

    async def tell(self, other: str) -> int:
        await self.state.put("told", other)
        return await self.env.Thing.get(other).hear(1)

    async def hear(self, by: int) -> int:
        await self.state.put("x", by)
        return by


def by_links(harness: OneOwner) -> AuditLog:
    return AuditLog(harness.log, tables=lambda _: harness.owner.tables)


def by_scan(harness: OneOwner) -> AuditLog:
    return AuditLog(harness.log)


def shown(turns: list[HistoryTurn]) -> list[Any]:
    """What a test compares: the entry's place, and the values before and after, decoded."""
    return [
        (
            each.record.offset,
            each.record.outcome,
            {name: decode_value(value) for name, value in each.before.items()},
            {name: decode_value(value) for name, value in each.after.items()},
            each.unknown,
        )
        for each in turns
    ]


async def lagging(harness: OneOwner, random: Random) -> AuditLog:
    """A log with a state that has applied a part of the journal only."""
    records = await harness.records(Topic.JOURNAL)
    tables = Tables(MemoryStore(), 0, exclusive=harness.log.exclusive)
    for each in records[: random.randrange(len(records))]:
        tables.apply(each.offset, each.value)
    return AuditLog(harness.log, tables=lambda _: tables)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_each_turn_has_the_values_before_and_after(seed: int, shared: bool) -> None:
    """By links, by a scan and from a state that lags the same: every turn, newest first, page by page."""
    random = Random(seed)

    async def told(harness: OneOwner) -> None:
        model: dict[str, list[Any]] = {"a": [], "b": []}
        values: dict[str, dict[str, int]] = {"a": {}, "b": {}}
        for n in range(random.randrange(4, 40)):
            name = random.choice("aab")
            puts = {each: n for each in NAMES if random.random() < 0.4}
            deletes = [each for each in NAMES if each not in puts and random.random() < 0.2]
            clear = random.random() < 0.1
            await harness.call(name, "change", puts, deletes, clear)
            if random.random() < 0.1:
                await harness.end()
                await harness.begin()
            before, mine = dict(values[name]), values[name]
            if clear:
                mine.clear()
            for each in deletes:
                mine.pop(each, None)
            mine.update(puts)
            changed = {*puts, *deletes, *(before if clear else ())}
            outcome = "ok" if puts or deletes or clear else "refused"
            if deletes and not puts and not clear and not before.keys() & set(deletes):
                continue  # a delete of what is not there changes nothing: it leaves no entry
            model[name].append((outcome, {each: before[each] for each in changed if each in before}, puts))
        for log in (by_links(harness), by_scan(harness), await lagging(harness, random)):
            for name in "ab":
                page = await log.history(f"Thing/{name}", limit=1000)
                assert [each[1:4] for each in shown(page.turns)] == model[name][::-1]
                assert (page.below, page.trimmed_below) == (None, None)
                assert not any(each.unknown for each in page.turns)
                below, pages = None, []
                limit = random.randrange(1, 5)
                while True:
                    page_ = await log.history(f"Thing/{name}", below, limit)
                    pages += page_.turns
                    if page_.below is None:
                        break
                    below = page_.below
                assert shown(pages) == shown(page.turns)

    story(Thing, told, shared=shared)


def test_a_turn_says_what_caused_it_and_what_it_caused() -> None:
    """A call is in the history of its caller and of the called object, each with the place of the other."""

    async def told(harness: OneOwner) -> None:
        harness.registry = Registry.build({"Thing": Thing}, Config())
        await harness.end()
        await harness.begin()
        await harness.call("a", "tell", "b")
        log = by_links(harness)
        (caller,) = (await log.history("Thing/a")).as_json()["turns"]
        (called,) = (await log.history("Thing/b")).as_json()["turns"]
        assert caller["calls"] == [
            {"object": "Thing/b", "summary": "call hear ", "command": called["command"]}
        ]
        place = called["cause"]
        assert (place["object"], f"{place['partition']}:{place['offset']}") == ("Thing/a", caller["command"])
        assert (called["caller"], called["args"], called["result"]) == ("@Thing/a", [1], 1)
        assert called["changes"] == {"x": {"after": 1}}

    story(Thing, told)


def test_trimmed_entries_are_said_to_be_missing() -> None:
    """Where the journal was trimmed the walk ends and says so; a value before is then unknown, not absent."""

    async def told(harness: OneOwner) -> None:
        for n in range(5):
            await harness.call("a", "change", {"x": n}, [], False)
        entries = [each.offset for each in await harness.records(Topic.JOURNAL) if each.key == b"Thing/a"]
        await harness.log.trim(Topic.JOURNAL, 0, entries[2])
        for log in (by_links(harness), by_scan(harness)):
            page = await log.history("Thing/a")
            assert [each.record.offset for each in page.turns] == entries[:1:-1]
            assert page.trimmed_below == entries[2]
            assert page.turns[-1].unknown == ("x",)
            assert page.turns[0].unknown == ()

    story(Thing, told, check=False)
