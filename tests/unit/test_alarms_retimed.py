"""The clock steps back: alarms that perdure timed itself under the wrong clock are
timed again, each rings once a time.

What a step back makes of log time stands in test_logtime.py and test_clock_jumps.py.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.one_owner import HOUR_MS, START_MS, OneOwner, story

from perdure.objects.alarms import FIRST_RETRY_MS, RETRIES, next_due, retimed
from perdure.objects.durable import DurableObject
from perdure.schemas.alarms import RETIME, parse_ring
from perdure.schemas.commands import parse_admitted
from perdure.schemas.effects import AlarmRow
from perdure.streams.log.base import Topic
from perdure.streams.log.log_time import SKEW_MS
from perdure.streams.owner.alarm_clock import BATCH, WAITING, AlarmClock
from perdure.streams.turns import alarm_turns

HOURLY = "0 * * * *"
MINUTE_MS = 60_000
YEAR_MS = 365 * 24 * HOUR_MS


class Thing(DurableObject):
    async def hourly(self) -> None:
        await self.state.set_alarm(cron=HOURLY)

    async def once(self, at_ms: int) -> None:
        await self.state.set_alarm(at_ms, name="once")

    async def failing(self) -> None:
        await self.state.put("fails", 1)
        await self.state.set_alarm(self.state.now, name="fails")

    async def slowly(self, seconds: float) -> None:
        await self.state.set_alarm(cron=HOURLY)
        await asyncio.sleep(seconds)

    async def touch(self) -> None:
        await self.state.put("touched", True)

    async def due(self) -> dict[str, int]:
        return {each.name: each.due_ms for each in await self.state.alarms()}

    async def alarm(self, info: Any) -> None:
        assert info.scheduled_ms <= self.state.now, "it is early"
        self.env.seen.append((self.state.id.name, info.name, info.scheduled_ms, self.state.now))
        if info.name == "fails" and info.retry_count < 3:
            raise RuntimeError("planned")


async def due(harness: OneOwner, name: str) -> dict[str, int]:
    found: dict[str, int] = json.loads((await harness.call(name, "due")).body)["result"]
    return found


def rung(harness: OneOwner) -> list[int]:
    return [scheduled_ms for _, _, scheduled_ms, _ in harness.seen]


async def retimings(harness: OneOwner) -> int:
    commands = [
        parse_admitted(each.key, each.value, each.headers) for each in await harness.records(Topic.COMMANDS)
    ]
    return sum(each.kind == "alarm" and parse_ring(each.body).act == RETIME for each in commands)


@pytest.mark.parametrize("shared", [False, True], ids=["embedded", "shared"])
@pytest.mark.parametrize("how", ["idle", "busy", "restarted"])
@pytest.mark.parametrize("ahead_ms", [HOUR_MS, YEAR_MS], ids=["hour", "year"])
def test_a_cron_alarm_set_under_a_clock_ahead_rings_at_the_next_time_of_the_right_one(
    shared: bool, how: str, ahead_ms: int
) -> None:
    """No hour is skipped, and none rings twice; whether commands come, none comes,
    or the node starts again.
    """

    async def told(harness: OneOwner) -> None:
        harness.skew_ms = ahead_ms
        await harness.call("a", "hourly")
        assert (await due(harness, "a"))["default"] == next_due(HOURLY, "", harness.clock_ms())
        harness.skew_ms = 0
        if how == "busy":
            await harness.call("b", "touch")
        if how == "restarted":
            await harness.end()
            await harness.begin()
        first_ms = next_due(HOURLY, "", harness.clock_ms())
        await asyncio.sleep(3.5 * HOUR_MS / 1000)
        assert rung(harness) == [first_ms + n * HOUR_MS for n in range(len(harness.seen))]
        assert len(harness.seen) == 3 + (harness.clock_ms() - 3 * HOUR_MS >= first_ms)
        assert await retimings(harness) == 1

    story(Thing, told, shared=shared)


def test_a_cron_alarm_that_rang_under_a_clock_ahead_rings_at_the_next_time_of_the_right_one() -> None:
    """Its next time was counted from the wrong one."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "hourly")
        harness.skew_ms = HOUR_MS
        await harness.until(lambda: harness.seen)
        harness.skew_ms = 0
        harness.seen.clear()
        first_ms = next_due(HOURLY, "", harness.clock_ms())
        await asyncio.sleep(2 * HOUR_MS / 1000)
        assert rung(harness) == [first_ms, first_ms + HOUR_MS]

    story(Thing, told)


def test_a_cron_alarm_whose_turn_ends_after_the_step_back_is_timed_again_too() -> None:
    """It is set by log time of before, and durable after the others were looked through."""

    async def told(harness: OneOwner) -> None:
        harness.skew_ms = YEAR_MS
        slow = harness.send("a", "slowly", 30)
        await asyncio.sleep(1)
        harness.skew_ms = 0
        await harness.call("b", "touch")
        await harness.replies(slow)
        first_ms = next_due(HOURLY, "", harness.clock_ms())
        await asyncio.sleep(HOUR_MS / 1000)
        assert rung(harness) == [first_ms]

    story(Thing, told)


def test_an_attempt_after_a_failed_one_is_timed_again_and_a_time_that_was_given_stands() -> None:
    """A run that failed under a clock a year ahead is made again within its back-off."""

    async def told(harness: OneOwner) -> None:
        at_ms = START_MS + YEAR_MS + HOUR_MS
        await harness.call("a", "once", at_ms)
        harness.skew_ms = YEAR_MS
        await harness.call("b", "failing")
        await harness.until(lambda: harness.owner.counts.alarms_failed)
        harness.skew_ms = 0
        await harness.until(lambda: len(harness.seen) == 4)
        assert harness.clock_ms() < START_MS + MINUTE_MS
        assert await due(harness, "a") == {"once": at_ms}

    story(Thing, told)


def test_a_step_back_within_the_skew_times_nothing_again() -> None:
    """Log time stands still until the clock has come up: no time is reached twice."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "hourly")
        harness.skew_ms = next_due(HOURLY, "", harness.clock_ms()) - harness.clock_ms() + 10
        await harness.until(lambda: harness.seen)
        harness.skew_ms -= SKEW_MS - 1_000
        await harness.call("b", "touch")
        await asyncio.sleep(1.5 * HOUR_MS / 1000)
        assert len(harness.seen) == 2
        assert await retimings(harness) == 0

    story(Thing, told)


def test_many_alarms_are_timed_again_a_few_at_once() -> None:
    """More than may wait for their turns; other alarms among them stand."""

    async def told(harness: OneOwner) -> None:
        count = 2 * WAITING + 3 * BATCH
        harness.skew_ms = YEAR_MS
        sent = [harness.send(f"cron{n}", "hourly") for n in range(count)]
        sent += [harness.send(f"once{n}", "once", START_MS + 2 * YEAR_MS) for n in range(count)]
        await harness.replies(*sent)
        harness.skew_ms = 0
        await harness.until_ms(next_due(HOURLY, "", harness.clock_ms()) + MINUTE_MS)
        assert len(harness.seen) == count
        assert len(set(harness.seen)) == count
        assert await retimings(harness) == count

    story(Thing, told)


steps = st.tuples(
    st.sampled_from([-YEAR_MS, -2 * HOUR_MS, -HOUR_MS, -90_000, -50_000, 0, 50_000, HOUR_MS, 3 * HOUR_MS]),
    st.sampled_from([0.5, 20, 1800, 4000]),
    st.booleans(),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(steps, max_size=6), st.booleans())
def test_whatever_the_clock_did_a_cron_alarm_stands_at_the_next_time(
    jumps: list[tuple[int, float, bool]], shared: bool
) -> None:
    """It is never early (the handler asserts it), and, the clock right, it rings on each hour and once."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "hourly")
        for jump_ms, wait_s, restarted in jumps:
            harness.skew_ms = max(harness.skew_ms + jump_ms, -HOUR_MS * 100)
            await asyncio.sleep(wait_s)
            if restarted:
                await harness.end()
                await harness.begin()
        harness.skew_ms = 0
        await asyncio.sleep(2 * SKEW_MS / 1000)
        assert all(each % HOUR_MS == 0 for each in rung(harness)), "it rang between its times"
        harness.seen.clear()
        first_ms = next_due(HOURLY, "", harness.clock_ms())
        await harness.until_ms(first_ms + 2 * HOUR_MS + MINUTE_MS)
        assert [each for each in rung(harness) if each >= first_ms] == [
            first_ms + n * HOUR_MS for n in range(3)
        ]

    story(Thing, told, shared=shared)


def test_only_what_perdure_timed_itself_is_timed_again() -> None:
    """Values in, values out; the attempts that failed stay counted."""
    now_ms = int(datetime(2024, 5, 1, 10, 30, tzinfo=UTC).timestamp() * 1000)
    late_ms = now_ms + YEAR_MS
    eleven_ms = now_ms + 30 * MINUTE_MS
    assert retimed("x", AlarmRow(late_ms, 1), now_ms) is None
    assert retimed("x", AlarmRow(late_ms, 1, RETRIES + 1, HOURLY, parked=True), now_ms) is None
    assert retimed("x", AlarmRow(late_ms, 1, 0, HOURLY, "Nowhere/Gone"), now_ms) is None
    assert retimed("x", AlarmRow(eleven_ms, 1, 0, HOURLY), now_ms) is None
    assert retimed("x", AlarmRow(now_ms - 1, 1, 0, HOURLY), now_ms) is None
    found = retimed("x", AlarmRow(late_ms, 1, 0, HOURLY), now_ms)
    assert found is not None
    assert (found.due_ms, found.attempt, found.cron) == (eleven_ms, 0, HOURLY)
    found = retimed("x", AlarmRow(late_ms, 1, 3, HOURLY), now_ms)
    assert found is not None
    assert (found.due_ms, found.attempt) == (now_ms + FIRST_RETRY_MS * 4, 3)


def unheard(self: AlarmClock) -> None:
    """Planted: what was timed under the wrong clock stays as it is."""


def at_once(name: str, row: AlarmRow, now_ms: int) -> Any:
    """Planted: what is timed again rings at once, whatever its next time."""
    found = retimed(name, row, now_ms)
    return None if found is None else msgspec.structs.replace(found, due_ms=now_ms)


@pytest.mark.parametrize("shared", [False, True], ids=["embedded", "shared"])
@pytest.mark.parametrize(
    ("place", "name", "bug"),
    [(AlarmClock, "_notice_step_back", unheard), (alarm_turns, "retimed", at_once)],
)
def test_these_stories_catch_a_planted_bug(
    place: Any, name: str, bug: Any, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An alarm that skips its times, or rings between them, is noticed."""
    monkeypatch.setattr(place, name, bug)
    with pytest.raises((AssertionError, TimeoutError)):
        test_a_cron_alarm_set_under_a_clock_ahead_rings_at_the_next_time_of_the_right_one(
            shared, "idle", YEAR_MS
        )
    with pytest.raises((AssertionError, TimeoutError)):
        test_whatever_the_clock_did_a_cron_alarm_stands_at_the_next_time.hypothesis.inner_test(
            [(YEAR_MS, 20, False), (-YEAR_MS, 20, False)], shared
        )
