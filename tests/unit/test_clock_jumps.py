"""The wall clock jumps by an hour, either way: deadlines stay what they are,
durations counted from a command's log time.

What alarms, expiring values and log time make of it stands in test_alarms.py, test_ttl.py and test_owner.py.
"""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.unit.one_owner import OneOwner, story
from tests.unit.owners import Owners
from tests.unit.owners import story as story_of_calls

from perdure.objects.durable import DurableObject
from perdure.schemas.commands import CALL, LOCAL, Command, call_body, command_record
from perdure.schemas.replies import OK, UNAVAILABLE, Reply
from perdure.streams.log.base import Record
from perdure.streams.log.log_time import SKEW_MS

HOUR_MS = 3_600_000
YEAR_MS = 365 * 24 * HOUR_MS
DEADLINE_MS = 10_000
JUMPS = pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS], ids=["forward", "back"])


class Thing(DurableObject):
    async def add(self, wait_s: float = 0) -> int:
        count: int = await self.state.get("count", 0) + 1
        await self.state.put("count", count)
        await asyncio.sleep(wait_s)
        return count

    async def call(self, name: str, wait_s: float) -> int:
        found: int = await self.env.THINGS.get(name).add(wait_s)
        return found


def outcome(reply: Reply) -> tuple[str, str]:
    return reply.outcome, "" if reply.error is None else reply.error.code


@JUMPS
def test_a_handler_that_hangs_after_a_jump_is_cancelled_in_time(jump_ms: int) -> None:
    """Whatever log time makes of it; the object goes on."""

    async def told(harness: OneOwner) -> None:
        assert outcome(await harness.call("a", "add")) == (OK, "")
        harness.skew_ms = jump_ms
        began_s = asyncio.get_running_loop().time()
        hung = await harness.call("a", "add", 5000, deadline_ms=DEADLINE_MS)
        assert outcome(hung) == (UNAVAILABLE, "expired")
        took_s = asyncio.get_running_loop().time() - began_s
        assert DEADLINE_MS / 1000 - 0.1 <= took_s < DEADLINE_MS / 1000 + 2
        again = await harness.call("a", "add", deadline_ms=DEADLINE_MS)
        assert (again.outcome, again.body) == (OK, b'{"result":2}')

    story(Thing, told)


@JUMPS
def test_a_command_under_way_at_a_jump_is_done(jump_ms: int) -> None:
    """The turn that runs goes on, and so does the one behind it: no time has passed for them."""

    async def told(harness: OneOwner) -> None:
        running = harness.send("a", "add", 5, deadline_ms=DEADLINE_MS)
        waiting = harness.send("a", "add", deadline_ms=DEADLINE_MS)
        await asyncio.sleep(1)
        harness.skew_ms = jump_ms
        first, second = await harness.replies(running, waiting)
        assert outcome(first) == (OK, "")
        assert outcome(second) == (OK, "")
        assert harness.value("a", "count") == 2

    story(Thing, told)


@JUMPS
def test_a_call_after_a_jump_has_what_is_left_of_its_caller_s_deadline(jump_ms: int) -> None:
    """A callee that hangs is cancelled with its caller, and answers others then."""

    async def told(harness: Owners) -> None:
        assert outcome(await harness.call("a", "add")) == (OK, "")
        harness.skew_ms = jump_ms
        began_s = asyncio.get_running_loop().time()
        hung = await harness.call("a", "call", "b", 5000, deadline_ms=DEADLINE_MS)
        assert outcome(hung) == (UNAVAILABLE, "expired")
        again = await harness.call("b", "add", deadline_ms=DEADLINE_MS)
        assert (again.outcome, again.body) == (OK, b'{"result":1}')
        took_s = asyncio.get_running_loop().time() - began_s
        assert DEADLINE_MS / 1000 - 0.1 <= took_s < DEADLINE_MS / 1000 + 5

    story_of_calls(Thing, told)


class Timer(DurableObject):
    """What an alarm and a value that expires look like from inside."""

    async def touch(self) -> int:
        await self.state.put("touched", True)
        return self.state.now

    async def ring_in(self, seconds: float) -> None:
        await self.state.set_alarm(timedelta(seconds=seconds))
        await self.state.put("code", "1234", expiration_ttl=seconds)

    async def alarm(self) -> None:
        await self.state.put("rang", self.state.now)

    async def look(self) -> list[object]:
        return [bool(await self.state.get("rang")), await self.state.get("code"), self.state.now]


async def looked(harness: OneOwner) -> list[Any]:
    found: list[Any] = json.loads((await harness.call("t", "look")).body)["result"]
    return found


@pytest.mark.parametrize("shared", [False, True], ids=["embedded", "shared"])
@pytest.mark.parametrize("restarted", [False, True])
def test_one_write_under_a_clock_a_year_ahead_stops_nothing(shared: bool, restarted: bool) -> None:
    """Alarms ring, values expire, keys are known, `state.now` goes on, and the
    tables are the fold, by a restart too.
    """

    async def told(harness: OneOwner) -> None:
        assert (await harness.call("t", "touch", client_key="spent")).outcome == OK
        harness.skew_ms = YEAR_MS
        assert (await harness.call("t", "touch")).outcome == OK
        harness.skew_ms = 0
        if restarted:
            await harness.end()
            await harness.begin()
        before = len(await harness.journal())
        assert (await harness.call("t", "touch", client_key="spent")).outcome == OK
        assert len(await harness.journal()) == before, "its key was forgotten: it ran again"
        began_ms = harness.clock_ms()
        await harness.call("t", "ring_in", 2)
        assert (await looked(harness))[:2] == [False, "1234"]
        await asyncio.sleep(8)
        rang, code, now_ms = await looked(harness)
        assert (rang, code) == (True, None)
        assert now_ms == pytest.approx(began_ms + 8_000, abs=200)

    story(Timer, told, shared=shared)


def test_one_record_stamped_a_year_ahead_stops_nothing() -> None:
    """As above, of a broker's clock: log time is never further ahead than the skew."""

    async def told(harness: OneOwner) -> None:
        assert (await harness.call("t", "touch", client_key="spent")).outcome == OK
        harness.broker.clock_ms = lambda: harness.clock_ms() + YEAR_MS
        ahead = json.loads((await harness.call("t", "touch")).body)["result"]
        assert harness.clock_ms() < ahead <= harness.clock_ms() + SKEW_MS
        harness.broker.clock_ms = harness.clock_ms
        before = len(await harness.journal())
        assert (await harness.call("t", "touch", client_key="spent")).outcome == OK
        assert len(await harness.journal()) == before
        await harness.call("t", "ring_in", 2)
        await asyncio.sleep(SKEW_MS / 1000 + 8)
        assert (await looked(harness))[:2] == [True, None]

    story(Timer, told, shared=True)


@pytest.mark.parametrize("behind_ms", [HOUR_MS, YEAR_MS])
def test_a_node_whose_clock_is_ahead_of_its_broker_runs_what_its_door_lets_in(behind_ms: int) -> None:
    """Its deadline is measured by one clock; the handler has its time, and calls
    have theirs. It says what is wrong.
    """

    async def told(harness: OneOwner) -> None:
        harness.broker.clock_ms = lambda: harness.clock_ms() - behind_ms

        async def ask(wait_s: float) -> tuple[str, str]:
            id_ = f"0-{harness.clock_ms():x}-node-1"
            offset = harness.append(
                Record(
                    *command_record(
                        Command(
                            "Thing/a",
                            CALL,
                            "add",
                            body=call_body("add", [wait_s], {}),
                            id=id_,
                            reply_to=LOCAL,
                            deadline_ms=DEADLINE_MS,
                        )
                    )
                )
            )
            return outcome((await harness.replies(offset))[0])

        with capture_logs() as lines:
            assert await ask(0) == (OK, "")
            assert await ask(5) == (OK, "")
            assert await ask(5000) == (UNAVAILABLE, "expired")
        assert [line["behind_ms"] for line in lines if "synchronize" in line["event"]] == [
            pytest.approx(behind_ms, abs=1000)
        ]

    story(Thing, told, shared=True)
