"""Administration of one partition: a paused object holds its commands, over
restarts too; commands are given up.
"""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from tests.unit.one_owner import OneOwner, story
from tests.unit.test_owner import Thing, code, result

from perdure.api.admin.views import memory, state, summary
from perdure.schemas.admin import DELETE, PAUSE, REDRIVE, RESUME, SKIP, Act
from perdure.schemas.commands import ADMIN, LOCAL, Command, sealed_record
from perdure.schemas.config import Config, Limits
from perdure.schemas.errors import Unavailable
from perdure.schemas.replies import Reply
from perdure.streams.log.base import Record, Topic
from perdure.streams.turns.eviction import half_of_memory


async def act(harness: OneOwner, name: str, what: str, at: str = "") -> Reply:
    """Have it done to a Thing; its answer."""
    command = Command(f"Thing/{name}", ADMIN, what, body=msgspec.json.encode(Act(at)), id="i", reply_to=LOCAL)
    offset = harness.append(Record(*sealed_record(command, harness.owner.ports.transport.seal)))
    return (await harness.replies(offset))[0]


def test_a_paused_object_holds_its_commands_over_a_restart_and_one_is_given_up() -> None:
    """Nothing of it runs until it is resumed; others do; then what waited runs in
    order but what was given up.
    """

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "add", 1)
        assert (await act(harness, "a", PAUSE)).error is None
        first, second = harness.send("a", "add", 10), harness.send("a", "add", 100)
        await harness.call("b", "add", 1)
        await harness.end()
        await harness.begin()
        await harness.call("b", "add", 1)
        assert {first, second}.isdisjoint(harness.ingress.replies)
        assert code(await act(harness, "a", SKIP, str(second))) == ("rejected", "not-at-head")
        assert (await act(harness, "a", SKIP, str(first))).error is None
        await act(harness, "a", RESUME)
        replies = await harness.replies(first, second)
        assert code(replies[0]) == ("failed", "skipped")
        assert result(replies[1]) == b'{"result":2}'
        assert (await act(harness, "a", DELETE)).error is None
        assert result(await harness.call("a", "add", 1)) == b'{"result":1}'

    story(Thing, told)


def test_a_deletion_of_a_paused_object_waits_for_no_more_than_the_turn_that_runs() -> None:
    """It runs next, before what waits; the object stays paused."""

    async def told(harness: OneOwner) -> None:
        running = harness.send("a", "add", 1, 5)
        await harness.until(lambda: harness.owner.turns.activations["Thing/a"].running)
        waiting = harness.send("a", "add", 10)
        assert (await act(harness, "a", PAUSE)).error is None
        assert running not in harness.ingress.replies
        deleting = asyncio.create_task(act(harness, "a", DELETE))
        await harness.until(lambda: len(harness.owner.turns.activations["Thing/a"].mailbox or ()) == 3)
        for what in (RESUME, PAUSE, PAUSE):
            assert (await act(harness, "a", what)).error is None
        assert (await deleting).error is None
        assert result(harness.ingress.replies[running]) == b'{"result":1}'
        assert waiting not in harness.ingress.replies
        assert (await summary(harness.owner, "Thing/a"))["waiting"] == 1
        await act(harness, "a", RESUME)
        assert result((await harness.replies(waiting))[0]) == b'{"result":1}'

    story(Thing, told)


def test_a_parked_command_is_driven_again_once() -> None:
    """It runs as a new command, after which nothing is parked there."""

    async def told(harness: OneOwner) -> None:
        await harness.end()
        harness.charged = {0: 3}
        await harness.begin()
        assert code(await harness.call("a", "add"))[0] == "parked"
        first, second = [await act(harness, "a", REDRIVE, "0") for _ in range(2)]
        assert first.error is None
        assert code(second) == ("rejected", "not-parked")
        await harness.until(lambda: harness.owner.idle)
        assert result(await harness.call("a", "add")) == b'{"result":2}'

    story(Thing, told)


@pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])
def test_a_look_proves_that_the_partition_is_still_ours_where_others_may_write(shared: bool) -> None:
    """By an append, whose acknowledgement it waits for; who does not serve tells nothing."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "add", 1)
        await harness.until(lambda: harness.owner.idle)
        before = (await harness.log.bounds(Topic.JOURNAL, 0)).end
        assert (await state(harness.owner, "Thing/a", {}))["values"] == {"count": 1}
        assert (await harness.log.bounds(Topic.JOURNAL, 0)).end - before == int(shared)
        await harness.end()
        with pytest.raises(Unavailable):
            await summary(harness.owner, "Thing/a")

    story(Thing, told, shared=shared)


@pytest.mark.parametrize(("configured", "told"), [(0, half_of_memory()), (7, 7)])
def test_the_memory_that_objects_may_take_is_told_as_it_counts(configured: int, told: int) -> None:
    """Also where nobody has configured it."""
    shown = memory([], Config(limits=Limits(memory_bytes=configured)))
    assert shown["limit_bytes"] == told > 0
