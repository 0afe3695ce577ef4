"""The wall clock jumps by an hour, either way: deadlines stay what they are, durations counted from a command's log time.

What alarms, expiring values and log time make of it stands in test_alarms.py, test_ttl.py and test_owner.py.
"""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.realm import Realm
from tests.unit.realm import story as story_of_calls
from tests.unit.reign import Reign, story

from perdure.objects.durable import DurableObject
from perdure.schemas.replies import OK, UNAVAILABLE, Reply

HOUR_MS = 3_600_000
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
    """Though log time, which never falls, is an hour ahead of the clock after a jump back; the object goes on."""

    async def told(reign: Reign) -> None:
        assert outcome(await reign.call("a", "add")) == (OK, "")
        reign.skew_ms = jump_ms
        began_s = asyncio.get_running_loop().time()
        hung = await reign.call("a", "add", 5000, deadline_ms=DEADLINE_MS)
        assert outcome(hung) == (UNAVAILABLE, "expired")
        took_s = asyncio.get_running_loop().time() - began_s
        assert DEADLINE_MS / 1000 - 0.1 <= took_s < DEADLINE_MS / 1000 + 2
        again = await reign.call("a", "add", deadline_ms=DEADLINE_MS)
        assert (again.outcome, again.body) == (OK, b'{"result":2}')

    story(Thing, told)


@JUMPS
def test_a_command_under_way_at_a_jump_is_done_or_told_that_it_was_not(jump_ms: int) -> None:
    """The turn that runs goes on; the one behind it may have expired by the new clock: then it has changed nothing."""

    async def told(reign: Reign) -> None:
        running = reign.send("a", "add", 5, deadline_ms=DEADLINE_MS)
        waiting = reign.send("a", "add", deadline_ms=DEADLINE_MS)
        await asyncio.sleep(1)
        reign.skew_ms = jump_ms
        first, second = await reign.told(running, waiting)
        assert outcome(first) == (OK, "")
        assert outcome(second) == ((UNAVAILABLE, "expired") if jump_ms > 0 else (OK, ""))
        assert reign.value("a", "count") == (1 if jump_ms > 0 else 2)

    story(Thing, told)


@JUMPS
def test_a_call_after_a_jump_has_what_is_left_of_its_caller_s_deadline(jump_ms: int) -> None:
    """A callee that hangs is cancelled with its caller, and answers others then."""

    async def told(realm: Realm) -> None:
        assert outcome(await realm.call("a", "add")) == (OK, "")
        realm.skew_ms = jump_ms
        began_s = asyncio.get_running_loop().time()
        hung = await realm.call("a", "call", "b", 5000, deadline_ms=DEADLINE_MS)
        assert outcome(hung) == (UNAVAILABLE, "expired")
        again = await realm.call("b", "add", deadline_ms=DEADLINE_MS)
        assert (again.outcome, again.body) == (OK, b'{"result":1}')
        took_s = asyncio.get_running_loop().time() - began_s
        assert DEADLINE_MS / 1000 - 0.1 <= took_s < DEADLINE_MS / 1000 + 5

    story_of_calls(Thing, told)
