"""States of the past: of one object by its links, of many by a fold, and what differs between two."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from tests.unit.one_owner import OneOwner, story
from tests.unit.test_history import NAMES, Thing, by_links, by_scan, lagging

from perdure.schemas.errors import MalformedCommand
from perdure.schemas.values import decode_value
from perdure.streams.audit.states import diff, fold_to, object_state, objects_in, offset_at
from perdure.streams.log.base import Topic
from perdure.streams.store.memory import MemoryStore


def decoded(values: dict[str, bytes]) -> dict[str, Any]:
    return {name: decode_value(value) for name, value in values.items()}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_a_state_at_an_offset_is_the_fold_of_what_lies_below(seed: int, shared: bool) -> None:
    """By links, by a scan, from a state that lags, and by a fold: the same at every offset."""
    random = Random(seed)

    async def told(harness: OneOwner) -> None:
        for n in range(random.randrange(4, 30)):
            puts = {each: n for each in NAMES if random.random() < 0.5}
            deletes = [each for each in NAMES if each not in puts and random.random() < 0.3]
            await harness.call(random.choice("aab"), "change", puts, deletes, random.random() < 0.15)
        end = len(await harness.records(Topic.JOURNAL))
        logs = by_links(harness), by_scan(harness), await lagging(harness, random)
        truth: dict[int, dict[str, dict[str, Any]]] = {}
        for at in range(1, end + 1):
            tables = await fold_to(logs[0], 0, at, MemoryStore())
            truth[at] = {key: decoded(values) for key, values in objects_in(tables, "Thing")}
            for log in logs:
                for key in ("Thing/a", "Thing/b"):
                    state = await object_state(log, key, at)
                    assert decoded(state.values) == truth[at].get(key, {}), (at, key)
        for _ in range(8):
            one, two = sorted((random.randrange(1, end + 1), random.randrange(1, end + 1)))
            for log in logs:
                changes = {each.key: each async for each in diff(log, 0, one, two)}
                for key in ("Thing/a", "Thing/b"):
                    before, after = truth[one].get(key, {}), truth[two].get(key, {})
                    names = {name for name in {*before, *after} if before.get(name) != after.get(name)}
                    assert (key in changes) == bool(names)
                    if names:
                        shown = changes[key]
                        assert decoded(shown.before) == {n: before[n] for n in names if n in before}
                        assert decoded(shown.after) == {n: after[n] for n in names if n in after}

    story(Thing, told, shared=shared)


def test_a_time_is_the_journal_as_far_as_it_was_written_then() -> None:
    """Before its first change an object is empty; a change counts from the time of its record on."""

    async def told(harness: OneOwner) -> None:
        times = []
        for n in range(5):
            await harness.call("a", "change", {"x": n}, [], False)
            times.append(harness.clock_ms())
            await harness.until_ms(harness.clock_ms() + 1_000)
        log = by_links(harness)
        for n, time_ms in enumerate(times):
            state = await object_state(log, "Thing/a", await offset_at(log, 0, time_ms))
            assert decoded(state.values) == {"x": n}
        state = await object_state(log, "Thing/a", await offset_at(log, 0, times[0] - 60_000))
        assert (decoded(state.values), state.newest) == ({}, None)

    story(Thing, told)


def test_a_state_before_what_was_trimmed_is_refused() -> None:
    """By links and by a fold; what the rest of the journal says is still shown."""

    async def told(harness: OneOwner) -> None:
        for n in range(5):
            await harness.call("a", "change", {"x": n}, [], False)
        entries = [each.offset for each in await harness.records(Topic.JOURNAL) if each.key == b"Thing/a"]
        await harness.log.trim(Topic.JOURNAL, 0, entries[2])
        log = by_links(harness)
        assert decoded((await object_state(log, "Thing/a", entries[4])).values) == {"x": 3}
        for at in (entries[1], entries[2]):
            with pytest.raises(MalformedCommand, match="trimmed"):
                await object_state(log, "Thing/a", at)
        with pytest.raises(MalformedCommand, match="trimmed"):
            await fold_to(log, 0, entries[4], MemoryStore())

    story(Thing, told, check=False)
