"""Runs of an alarm that were not done: the next one goes on with the calls that were answered, each once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from random import Random
from typing import Any

import msgspec
import pytest
from tests.unit.one_owner import settled
from tests.unit.owners import Owners, story

from perdure.objects.alarms import AlarmInfo, after_failure, after_success, redriven
from perdure.objects.durable import DurableObject
from perdure.schemas.admin import REDRIVE
from perdure.schemas.alarms import alarm_command
from perdure.schemas.calls import NOWHERE, Root, root_of
from perdure.schemas.commands import ALARM, Command
from perdure.schemas.effects import AlarmRow, decode_alarm, encode_alarm
from perdure.schemas.errors import OutcomeUnknown, PerdureError, Unavailable
from perdure.schemas.replies import FAILED
from perdure.streams.log.base import Topic

SHARED = pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])
LINES = (("b", "c"), ("d",))  # who is paid, one after the other, in lines side by side


def of_call(error: PerdureError) -> PerdureError:
    error.of_call = True
    return error


class Thing(DurableObject):
    """An alarm pays others; how each of its runs ends is said by `env.harness.plan`, the next one first."""

    async def pay(self) -> int:
        count: int = await self.state.get("count", 0) + 1
        await self.state.put("count", count)
        return count

    async def due(self) -> None:
        await self.state.set_alarm(timedelta(0))

    async def alarm(self, info: AlarmInfo) -> None:
        plan = self.env.harness.plan
        how, after = plan.pop(0) if plan else ("done", 0)
        self.env.seen.append(how)
        paid = 0

        async def line(names: tuple[str, ...]) -> None:
            nonlocal paid
            for name in names:
                if how != "done" and paid == after:
                    return
                paid += 1
                await self.env.THINGS.get(name + "!" if how == "otherwise" else name).pay()

        await asyncio.gather(*map(line, LINES))
        if how == "unavailable":
            raise of_call(Unavailable("one of them"))
        if how == "unknown":
            raise of_call(OutcomeUnknown("one of them"))
        if how == "fails":
            raise ValueError("the alarm")
        if how == "dies":
            self.env.seen.append("dead")
            await asyncio.sleep(10_000)
        await self.state.put("rung", await self.state.get("rung", 0) + 1)


async def rung(harness: Any, *plan: tuple[str, int]) -> dict[str, int]:
    """Let an alarm of `a` ring until it is done; how often each was paid."""
    harness.plan = list(plan)
    harness.send("a", "due")
    dead = 0
    while harness.value("a", "rung") is None:
        await asyncio.sleep(0.5)
        if harness.seen.count("dead") > dead:
            dead += 1
            await harness.crash()
            await harness.begin()
    return {name: harness.value(name) for line in LINES for name in line}


@SHARED
@pytest.mark.parametrize("how", ["unavailable", "unknown", "dies"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_run_that_was_not_done_is_gone_on_with(shared: bool, how: str, after: int) -> None:
    """Whom it had paid is not paid again, however often it is not done."""

    async def told(harness: Owners) -> None:
        assert await rung(harness, (how, after), (how, after)) == {"b": 1, "c": 1, "d": 1}

    story(Thing, told, shared=shared)


@SHARED
@pytest.mark.parametrize("seed", range(15))
def test_each_series_of_runs_pays_once(shared: bool, seed: int) -> None:
    """Whatever mixture of crashes, unavailability and failures: only a failure lets
    the next run pay once more.
    """
    random = Random(seed)
    hows = random.choices(("unavailable", "unknown", "dies", "fails"), (3, 2, 2, 1), k=random.randrange(1, 6))
    plan = [(how, random.randrange(4)) for how in hows]
    for at in range(1, len(plan)):  # it asks for all it asked for before, and for more
        if plan[at - 1][0] != "fails":
            plan[at] = plan[at][0], max(plan[at][1], plan[at - 1][1])

    async def told(harness: Owners) -> None:
        times = await rung(harness, *plan)
        most = 1 + hows.count("fails")
        assert all(1 <= each <= most for each in times.values()), (plan, times)
        if "fails" not in hows:
            assert set(times.values()) == {1}, (plan, times)

    story(Thing, told, shared=shared)


@SHARED
def test_a_run_that_asks_for_something_else_is_told_so_and_the_next_one_begins_afresh(shared: bool) -> None:
    """Both calls are named; what was paid stands."""

    async def told(harness: Owners) -> None:
        times = await rung(harness, ("unavailable", 3), ("otherwise", 3))
        assert times == {"b": 2, "c": 2, "d": 2}
        (entry,) = [
            each
            for each in await harness.entries("a")
            if each.reply.error is not None and each.reply.error.code == "non-deterministic"
        ]
        assert entry.outcome == FAILED
        assert entry.reply.error is not None
        assert "!" in entry.reply.error.message, "what it asks for now"
        assert "before" in entry.reply.error.message
        assert [change.since for change in entry.alarms] == [-1]

    story(Thing, told, shared=shared)


@SHARED
def test_a_parked_alarm_that_is_driven_again_goes_on(shared: bool) -> None:
    """Its last run was not done: there is no difference to one that is tried again by itself."""

    async def told(harness: Any) -> None:
        harness.plan = [("unavailable", 2)] * 7
        harness.send("a", "due")
        owner = harness.owner_of("a")
        await harness.until(
            lambda: (row := owner.tables.alarms.get("Thing/a", "default")) is not None and row.parked
        )
        harness.log.append(Topic.COMMANDS, harness.place("a"), settled(owner, "Thing/a", REDRIVE))
        await harness.until(lambda: harness.value("a", "rung") == 1)
        assert {name: harness.value(name) for name in "bcd"} == {"b": 1, "c": 1, "d": 1}

    story(Thing, told, shared=shared)


def test_an_alarm_that_rings_again_makes_calls_of_its_own() -> None:
    """One setting, one series; the next setting of the same name is another."""

    async def told(harness: Any) -> None:
        await rung(harness, ("unavailable", 2))
        harness.send("a", "due")
        await harness.until(lambda: harness.value("a", "rung") == 2)
        assert {name: harness.value(name) for name in "bcd"} == {"b": 2, "c": 2, "d": 2}

    story(Thing, told)


def test_what_hangs_on_a_setting() -> None:
    """The root is of object, name and first setting of the series; commands of
    versions before hang on their place.
    """
    row, place = AlarmRow(5, 9), (1, 40)
    root = root_of(alarm_command("A/a", "n", row), *place)
    assert root[:2] == (NOWHERE, NOWHERE)
    going_on = AlarmRow(8, 17, 1, since=9)
    assert root_of(alarm_command("A/a", "n", going_on), 1, 77) == root
    for key, name, other in (("A/b", "n", row), ("A/a", "m", row), ("A/a", "n", AlarmRow(5, 10))):
        assert root_of(alarm_command(key, name, other), *place) != root
    assert root_of(alarm_command("A/a", "n", row, "redrive"), *place) == Root(*place), "it runs no handler"
    before = msgspec.json.encode({"set_at": 9, "due": 5, "attempt": 0, "act": ""})
    assert root_of(Command("A/a", ALARM, "n", body=before), *place) == Root(*place)


def test_how_a_series_goes_on() -> None:
    """Each run that was not done keeps the first setting; success, failure and
    setting it again end the series.
    """
    row = AlarmRow(5, 9)
    assert after_failure("n", row, 100, goes_on=True).since == 9
    going_on = AlarmRow(2100, 17, 1, since=9)
    assert after_failure("n", going_on, 3000, goes_on=True).since == 9
    assert after_failure("n", going_on, 3000).since == -1
    assert after_success("n", AlarmRow(2100, 17, 1, "* * * * *", "UTC", since=9), 3000).since == -1
    assert redriven("n", AlarmRow(2100, 17, 7, parked=True, since=9), 3000).since == 9
    assert redriven("n", AlarmRow(2100, 17, 7, parked=True), 3000).since == -1


def test_rows_without_a_series_are_the_bytes_that_they_were() -> None:
    """A store of a version before agrees with what its log is folded to now."""
    row = AlarmRow(5, 9, 2, "* * * * *", "UTC")
    before = msgspec.msgpack.encode([5, 9, 2, "* * * * *", "UTC", False])
    assert encode_alarm(row) == before
    assert decode_alarm(before) == row
    going_on = AlarmRow(5, 9, 2, since=3)
    assert decode_alarm(encode_alarm(going_on)) == going_on
