"""Alarms, as stories on virtual time: set, ring, fail, wait for somebody, survive;
never early, never lost, once.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from tests.unit.one_owner import START_MS, OneOwner, settled, story

from perdure.objects.alarms import AlarmInfo
from perdure.objects.durable import DurableObject
from perdure.schemas.admin import DROP, REDRIVE
from perdure.schemas.alarms import parse_ring
from perdure.schemas.commands import ALARM, parse_command
from perdure.schemas.errors import Refusal, StorageFailed
from perdure.schemas.replies import FAILED, OK, Reply
from perdure.streams.log.base import Topic
from perdure.streams.log.memory.broker import Faults
from perdure.streams.turns.ports import PartitionBounds

HOUR_MS = 3_600_000
SHARED = pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])


class Thing(DurableObject):
    """Each ring shows in `env.seen` as (object, alarm, when it was due, `now`, failures before)."""

    async def alarm(self, info: AlarmInfo) -> None:
        state = self.state
        self.env.seen.append((state.id.name, info.name, info.scheduled_ms, state.now, info.retry_count))
        await state.put("rings", await state.get("rings", 0) + 1)
        rule = await state.get("rule")
        if rule == "again" and await state.get("rings") < 3:
            await state.set_alarm(timedelta(seconds=10), name=info.name)
        elif rule == "look":
            self.env.seen.append(await state.get_alarm(info.name))
        elif rule == "slow":
            await asyncio.sleep(20)
        elif rule == "clear":
            await state.delete_all()
        elif rule == "large":
            await state.put({f"n{n}": b"x" * 1000 for n in range(10)})
        elif rule == "refuse":
            raise Refusal("not now")
        elif rule == "read":
            await state.get("unread")
        elif rule == "fail" or (rule == "twice" and info.retry_count < 2):
            await state.set_alarm(0, name="of a turn that failed")
            raise ValueError("no")

    async def set(self, in_s: float, name: str = "default", rule: str | None = None) -> int:
        await self.state.set_alarm(timedelta(seconds=in_s), name=name)
        await self.state.put("rule", rule)
        return self.state.now

    async def set_and_wait(self, in_s: float, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        await self.state.set_alarm(timedelta(seconds=in_s))

    async def cron(self, cron: str, zone: str = "UTC") -> int | None:
        await self.state.set_alarm(cron=cron, zone=zone)
        return await self.state.get_alarm()

    async def get(self, name: str = "default") -> int | None:
        return await self.state.get_alarm(name)

    async def all(self) -> list[tuple[str, int, bool]]:
        return [(each.name, each.failures, each.parked) for each in await self.state.alarms()]

    async def delete(self, name: str = "default") -> None:
        await self.state.delete_alarm(name)

    async def clear(self, name: str | None) -> None:
        await self.state.set_alarm(timedelta(seconds=5), name="before")
        await self.state.delete_all()
        if name is not None:
            await self.state.set_alarm(timedelta(seconds=5), name=name)

    async def tried(self, name: str) -> list[int | None]:
        try:
            async with self.state.transaction():
                await self.state.set_alarm(timedelta(seconds=5), name=name)
                raise KeyError
        except KeyError:
            return [await self.state.get_alarm(name)]

    async def count(self) -> int:
        return int(await self.state.get("rings", 0))


class Mute(DurableObject):
    """It has no alarm()."""

    async def set(self) -> None:
        await self.state.set_alarm(0)


class Short(DurableObject):
    """An alarm() that does not want to know which."""

    async def alarm(self) -> None:
        self.env.seen.append("rang")

    async def set(self) -> None:
        await self.state.set_alarm(datetime.fromtimestamp(self.state.now / 1000, UTC) + timedelta(seconds=1))


def result(reply: Reply) -> Any:
    assert reply.outcome == OK, reply
    return json.loads(reply.body)["result"]


def rings(harness: OneOwner) -> list[Any]:
    return [each for each in harness.seen if isinstance(each, tuple)]


async def alarm_commands(harness: OneOwner) -> int:
    """How many commands the clock has appended."""
    records = await harness.records(Topic.COMMANDS)
    kinds = [dict(each.headers).get("perdure-kind") for each in records]
    return kinds.count(ALARM.encode())


# Set, looked at, removed


@SHARED
def test_an_alarm_rings_once_and_never_early(shared: bool) -> None:
    """By log time; its own turn knows when it was due; with its writes it is gone, in one entry."""

    async def told(harness: OneOwner) -> None:
        set_at = result(await harness.call("a", "set", 60))
        assert result(await harness.call("a", "get")) == set_at + 60_000
        await asyncio.sleep(59.9)
        assert harness.seen == []
        await asyncio.sleep(60)
        ((_, name, due_ms, now_ms, failures),) = rings(harness)
        assert (name, due_ms, failures) == ("default", set_at + 60_000, 0)
        assert due_ms <= now_ms < due_ms + 100
        assert result(await harness.call("a", "get")) is None
        (entry,) = [each for each in await harness.journal() if each.summary.startswith("alarm")]
        assert (list(entry.puts), entry.alarms[0].due_ms) == (["rings"], None)
        assert await alarm_commands(harness) == 1
        counts = harness.owner.counts
        assert (counts.alarms_due, counts.alarms_fired, counts.alarms_failed) == (1, 1, 0)

    story(Thing, told, shared=shared)


def test_what_a_turn_sets_last_counts() -> None:
    """Set anew it rings at the new time only; removed not at all; other names are other alarms."""

    async def told(harness: OneOwner) -> None:
        for in_s, name in ((5, "moved"), (5, "gone"), (5, "kept"), (9, "moved")):
            await harness.call("a", "set", in_s, name)
        await harness.call("a", "delete", "gone")
        await harness.call("a", "delete", "was never set")
        assert result(await harness.call("a", "all")) == [["kept", 0, False], ["moved", 0, False]]
        await asyncio.sleep(20)
        assert [(each[1], each[2] - START_MS > 8000) for each in rings(harness)] == [
            ("kept", False),
            ("moved", True),
        ]

    story(Thing, told)


def test_an_alarm_set_anew_while_its_command_waits_rings_at_the_new_time_only() -> None:
    """Its turn sees what the turn before it set, durable or not: the command is a mere done."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "set", 5)
        await harness.call("a", "set_and_wait", 30, 10)
        await harness.until(
            lambda: harness.owner.tables.alarms.get("Thing/a", "default").due_ms > START_MS + 20_000
        )  # type: ignore[union-attr]
        assert (harness.owner.counts.alarms_due, harness.seen) == (1, [])
        await asyncio.sleep(60)
        assert len(rings(harness)) == 1
        assert rings(harness)[0][2] > START_MS + 29_000

    story(Thing, told)


def test_an_alarm_is_not_set_while_it_rings_unless_it_sets_itself() -> None:
    """As on Cloudflare: `get_alarm` gives None in its own run, and what the run sets stands."""

    async def told(harness: OneOwner) -> None:
        await harness.call("look", "set", 1, "default", "look")
        await harness.call("again", "set", 1, "default", "again")
        await asyncio.sleep(60)
        assert None in harness.seen
        times = [each[2] for each in rings(harness) if each[0] == "again"]
        assert len(times) == 3
        assert all(10_000 <= later - earlier < 10_100 for earlier, later in pairwise(times))

    story(Thing, told)


def test_delete_all_removes_alarms_too() -> None:
    """Those that are set, those of the same turn, and the one that rings; what is set after it stands."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "set", 5, "old")
        await harness.call("a", "clear", "after")
        await harness.call("b", "set", 5, "rings", "clear")
        await harness.call("b", "cron", "* * * * *")
        await asyncio.sleep(300)
        assert [each[:2] for each in rings(harness)] == [("a", "after"), ("b", "rings")]
        assert result(await harness.call("b", "all")) == []

    story(Thing, told)


def test_a_turn_sees_what_the_one_before_it_did_to_alarms_before_that_is_durable() -> None:
    """Removed with everything, and set again."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "set", 50, "old")
        offsets = [harness.send("a", "clear", "new")]
        offsets += [harness.send("a", "get", name) for name in ("old", "new")]
        _, old, new = await harness.replies(*offsets)
        assert (result(old), result(new) is not None) == (None, True)

    story(Thing, told, check=False)


def test_a_part_of_a_turn_that_is_undone_has_set_nothing() -> None:
    """What a transaction set goes with it; what was set before stays."""

    async def told(harness: OneOwner) -> None:
        before = result(await harness.call("a", "set", 50, "kept")) + 50_000
        assert result(await harness.call("a", "tried", "kept")) == [before]
        assert result(await harness.call("a", "tried", "other")) == [None]

    story(Thing, told, check=False)


def test_a_class_without_an_alarm_cannot_set_one() -> None:
    """The error says what to define."""

    async def told(harness: OneOwner) -> None:
        reply = await harness.call("a", "set")
        assert reply.error is not None
        assert (reply.outcome, reply.error.code) == (FAILED, "object-error")
        assert "define `async def alarm(self, info)`" in reply.error.message

    story(Mute, told)


def test_alarm_may_go_without_its_argument() -> None:
    """And a time may be a datetime."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "set")
        await asyncio.sleep(2)
        assert harness.seen == ["rang"]

    story(Short, told)


def test_a_cron_alarm_rings_again_and_again_until_it_is_deleted() -> None:
    """Every five minutes on the wall clock of its zone, in one entry with what each run writes."""

    async def told(harness: OneOwner) -> None:
        first = result(await harness.call("a", "cron", "*/5 * * * *", "Europe/Berlin"))
        assert first % 300_000 == 0
        await asyncio.sleep(14 * 60)
        assert [each[2] - first for each in rings(harness)] == [0, 300_000, 600_000][: len(rings(harness))]
        assert len(rings(harness)) in (2, 3)
        await harness.call("a", "delete")
        count = len(rings(harness))
        await asyncio.sleep(3600)
        assert len(rings(harness)) == count

    story(Thing, told)


# Failures


def test_an_alarm_that_fails_is_run_again_with_back_off_then_parked_and_driven_again() -> None:
    """2, 4, 8, 16, 32, 64 s; nothing it wrote stays; parked it is listed and rings no more by itself."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "set", 1, "default", "fail")
        await asyncio.sleep(1000)
        assert [each[4] for each in rings(harness)] == [0, 1, 2, 3, 4, 5, 6]
        times = [each[3] for each in rings(harness)]
        for later, earlier, pause_s in zip(times[1:], times, (2, 4, 8, 16, 32, 64), strict=False):
            assert pause_s * 1000 <= later - earlier < pause_s * 1000 + 200
        assert result(await harness.call("a", "all")) == [["default", 7, True]]
        assert result(await harness.call("a", "get")) is None
        assert result(await harness.call("a", "count")) == 0
        outcomes = {each.outcome for each in await harness.journal() if each.summary.startswith("alarm")}
        assert outcomes == {FAILED}
        counts = harness.owner.counts
        assert (counts.alarms_due, counts.alarms_failed, counts.alarms_parked) == (7, 7, 1)
        harness.append(settled(harness.owner, "Thing/a", REDRIVE))
        await asyncio.sleep(1)
        assert [each[4] for each in rings(harness)][7:] == [0]
        await asyncio.sleep(1000)
        assert len(rings(harness)) == 14
        for act in (DROP, REDRIVE):  # the second one comes too late
            harness.append(settled(harness.owner, "Thing/a", act))
        await asyncio.sleep(10)
        assert result(await harness.call("a", "all")) == []
        assert len(rings(harness)) == 14

    story(Thing, told)


@pytest.mark.parametrize("rule", ["twice", "refuse"])
def test_a_retry_that_succeeds_is_the_end_of_it(rule: str) -> None:
    """A refusal is a failure too, as nobody waits for it; the retry knows how often it failed."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "set", 1, "default", rule)
        await asyncio.sleep(30)
        if rule == "twice":
            assert [each[4] for each in rings(harness)] == [0, 1, 2]
            assert result(await harness.call("a", "count")) == 1
        else:
            assert [each[4] for each in rings(harness)] == [0, 1, 2, 3]
        entries = [each for each in await harness.journal() if each.summary.startswith("alarm")]
        assert [each.outcome for each in entries[:2]] == [FAILED, FAILED]
        await harness.call("a", "delete")

    story(Thing, told)


def test_an_alarm_whose_entry_is_too_large_fails() -> None:
    """It is put off like any other failure, and its writes are gone."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "set", 1, "default", "large")
        await asyncio.sleep(2)
        assert result(await harness.call("a", "all")) == [["default", 1, False]]
        assert result(await harness.call("a", "count")) == 0
        assert (harness.owner.counts.alarms_fired, harness.owner.counts.alarms_failed) == (0, 1)
        await harness.call("a", "delete")

    story(Thing, told, bounds=PartitionBounds(entry_bytes=5000))


@pytest.mark.parametrize("when", ["in its turn", "before it"])
def test_a_storage_failure_puts_an_alarm_off(when: str) -> None:
    """Nothing is lost: met by the handler it is a failed run; met before, the command is sent again."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "set", 1, "default", "read")
        tables = harness.owner.tables
        get, alarm, broken = tables.values.get, tables.alarms.get, [True]

        def failing(key: str, name: str) -> Any:
            if broken and (name == "unread" or when == "before it"):
                raise StorageFailed("no")
            return (alarm if name == "default" else get)(key, name)

        await harness.until(lambda: harness.owner.alarms._sent or harness.owner.counts.alarms_due)
        activation = harness.owner.turns.activations["Thing/a"]
        read = {kind: Failing(getattr(tables, kind), get=failing) for kind in ("values", "alarms")}
        activation.tables = Failing(tables, **read)  # type: ignore[assignment]  # what the object reads from
        await asyncio.sleep(1.5)
        broken.clear()
        await asyncio.sleep(30)
        assert result(await harness.call("a", "all")) == []
        assert result(await harness.call("a", "count")) == 1

    story(Thing, told)


class Failing:
    """Tables of which some parts are replaced, or one of those."""

    def __init__(self, tables: Any, **instead: Any) -> None:
        self._tables = tables
        self.__dict__.update(instead)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tables, name)


# Faults


@SHARED
def test_an_alarm_survives_its_owner(shared: bool) -> None:
    """Set in one reign it rings in the next, once; one that came due meanwhile rings at once."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "set", 60)
        await harness.call("b", "set", 5)
        await harness.end()
        await asyncio.sleep(30)
        await harness.begin()
        await asyncio.sleep(1)
        assert [each[0] for each in rings(harness)] == ["b"]
        await asyncio.sleep(100)
        assert [each[0] for each in rings(harness)] == ["b", "a"]

    story(Thing, told, shared=shared)


def test_an_alarm_is_taken_over_with_its_partition() -> None:
    """Two clocks append it, one owner counts, it takes effect once."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "set", 10)
        old, living = harness.owner, harness.living
        await harness.take_over()
        await asyncio.sleep(30)
        assert old.state.value == "fenced"
        assert result(await harness.call("a", "count")) == 1
        living.cancel()

    story(Thing, told, shared=True)


def test_a_crash_in_the_middle_of_a_run_repeats_it() -> None:
    """The run that did not commit left nothing; the one that did is the only one that counts."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "set", 1, "default", "slow")
        await harness.until(lambda: harness.seen)
        await asyncio.sleep(5)
        await harness.end()
        await harness.begin()
        await asyncio.sleep(60)
        assert len(rings(harness)) == 2
        assert result(await harness.call("a", "count")) == 1

    story(Thing, told)


class Losing(Faults):
    """Appends to the commands are lost for a while, or their acknowledgements are."""

    timeout_s = 1.0

    def __init__(self) -> None:
        self.fates: list[str] = []

    def late_s(self) -> float:
        return 2.0

    def fate(self, step: str) -> str:
        return self.fates.pop() if step == "append" and self.fates else "ok"


@pytest.mark.parametrize("fate", ["never", "lost", "late"])
def test_an_append_that_failed_is_made_again(fate: str) -> None:
    """Whatever became of the first: the second does no harm."""
    faults = Losing()

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "set", 5)
        faults.fates.append(fate)
        await asyncio.sleep(30)
        assert await alarm_commands(harness) == (2 if fate == "late" else 1)
        assert len(rings(harness)) == 1
        assert result(await harness.call("a", "count")) == 1

    story(Thing, told, shared=True, faults=faults)


def test_many_alarms_due_at_once_do_not_starve_commands() -> None:
    """All of them ring, once each; a command waits behind a few of them only."""

    async def told(harness: OneOwner) -> None:
        many = 2000
        offsets = [harness.send(f"o{n}", "set", 600) for n in range(many)]
        await harness.replies(*offsets)
        due_ms = harness.clock_ms() + 600_000
        await harness.until_ms(due_ms - 20)
        while len(rings(harness)) < many:
            before = len(rings(harness))
            assert result(await harness.call("in between", "count")) == 0
            assert len(rings(harness)) - before <= 500
            assert len(harness.owner.alarms._waiting) <= 200
            await asyncio.sleep(0.001)
        await asyncio.sleep(60)
        assert sorted(each[0] for each in rings(harness)) == sorted(f"o{n}" for n in range(many))
        assert harness.owner.counts.alarms_due == many

    story(Thing, told)


def test_alarms_that_wait_for_a_slow_object_do_not_hold_up_others() -> None:
    """300 of one object that is busy for minutes; another object's rings in time."""

    async def told(harness: OneOwner) -> None:
        for n in range(300):
            harness.send("slow", "set", 1, f"n{n}", "slow")
        await harness.call("slow", "set_and_wait", 1000, 0)
        await harness.call("other", "set", 15)
        await asyncio.sleep(30)
        assert "other" in [each[0] for each in rings(harness)]

    story(Thing, told, check=False)


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS])
def test_a_jump_of_the_wall_clock_makes_no_alarm_early_by_log_time(jump_ms: int) -> None:
    """Forward: it rings once the clock says so. Back: log time goes back with it,
    and what is set then rings in time.
    """

    async def told(harness: OneOwner) -> None:
        await harness.call("before", "set", 600)
        await asyncio.sleep(10)
        harness.skew_ms = jump_ms
        await harness.call("after", "set", 30)
        await asyncio.sleep(20)
        assert [each[0] for each in rings(harness)] == (["before"] if jump_ms > 0 else [])
        await asyncio.sleep(20)
        assert [each[0] for each in rings(harness)] == (["before", "after"] if jump_ms > 0 else ["after"])
        await asyncio.sleep(2 * HOUR_MS / 1000)
        assert len(rings(harness)) == 2
        assert all(each[3] >= each[2] for each in rings(harness))
        if jump_ms < 0:
            assert harness.owner.counts.alarms_due == 2

    story(Thing, told)


def test_an_alarm_for_now_rings_at_once_though_the_wall_clock_is_behind_log_time() -> None:
    """Log time has reached it."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "count")
        await harness.call("a", "set", 3600, "later")
        harness.skew_ms = -HOUR_MS
        await harness.call("a", "set", 0)
        await asyncio.sleep(1)
        assert [each[1] for each in rings(harness)] == ["default"]

    story(Thing, told, check=False)


def test_a_log_whose_clock_is_behind_delays_an_alarm() -> None:
    """A command that comes too early by log time is a done; another one is sent when its time has come."""

    async def told(harness: OneOwner) -> None:
        harness.broker.clock_ms = lambda: harness.clock_ms() - 40_000
        await harness.call("a", "set", 60)
        await harness.until(lambda: harness.owner.counts.alarms_due == 0)
        harness.skew_ms = 40_000
        harness.broker.clock_ms = lambda: harness.clock_ms() - 80_000
        await asyncio.sleep(200)
        (ring,) = rings(harness)
        assert ring[3] >= ring[2]
        assert 2 <= harness.owner.counts.alarms_due <= 3

    story(Thing, told, shared=True)


def test_alarms_of_a_class_that_has_left_the_app_wait_for_it() -> None:
    """Nothing is appended for them; with the class they are back."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "set", 5)
        kind = harness.registry.types.pop("Thing")
        await asyncio.sleep(10)
        assert await alarm_commands(harness) == 0
        await harness.end()
        harness.registry.types["Thing"] = kind
        await harness.begin()
        await asyncio.sleep(1)
        assert len(rings(harness)) == 1

    story(Thing, told)


def test_an_alarm_command_on_the_log_is_sealed_and_says_which_setting_came_due() -> None:
    """Read back it is what the owner ran; anybody else's would be a dead letter."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "set", 1)
        row = harness.owner.tables.alarms.get("Thing/a", "default")
        assert row is not None
        await asyncio.sleep(5)
        record = (await harness.records(Topic.COMMANDS))[-1]
        command = parse_command(record.key, record.value, record.headers, harness.owner.ports.transport.seal)
        assert (command.kind, command.method, command.reply_to) == (ALARM, "default", "none")
        ring = parse_ring(command.body)
        assert (ring.set_at, ring.due, ring.attempt) == (row.set_at, row.due_ms, 0)
        harness.append_raw(record.key, record.value, record.headers[:-1])
        await harness.until(lambda: harness.owner.counts.dead == 1)
        assert await harness.records(Topic.REPLIES) == []

    story(Thing, told, check=False)
