"""Faults inside perdure: one command fails by them, or one partition stops, loudly; never the node."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from tests.planted import BEFORE, FROM_THEN_ON, OF_ALARMS, Planted, planted_once
from tests.unit.one_owner import OneOwner, story

from perdure.objects.durable import DurableObject
from perdure.schemas.errors import PartitionBroken, Unavailable
from perdure.schemas.replies import FAILED, OK, UNAVAILABLE, Reply
from perdure.streams.owner.recovery import live
from perdure.streams.turns.ports import OwnerState

OF_DONES = ("a batch is encoded", "an entry is let out", "a batch is folded")


class Thing(DurableObject):
    """Counts, at once or after a while."""

    async def add(self) -> int:
        count = await self.state.get("count", 0) + 1
        await self.state.put("count", count)
        return count

    async def slow(self) -> int:
        await asyncio.sleep(0.5)
        return await self.add()

    async def wrong(self) -> None:
        await self.state.put("count", -1)
        raise ValueError("wrong")

    async def busy(self) -> int:
        """Not done in its first run, as a turn is whose call has found no room."""
        self.env.seen.append("busy")
        if len(self.env.seen) == 1:
            error = Unavailable("another object has no room")
            error.of_call = True
            raise error
        return await self.add()

    async def ring(self) -> None:
        await self.state.set_alarm(timedelta(seconds=1))

    async def alarm(self) -> None:
        await self.state.put("rings", await self.state.get("rings", 0) + 1)


def said(reply: Reply) -> Any:
    return (reply.outcome, reply.error and reply.error.code)


def planted_ones(harness: OneOwner) -> list[str]:
    """What the loop's exception handler was given, which is as loud as it gets;
    the story ends without them.
    """
    found = [str(each["exception"]) for each in harness.errors]
    assert all(isinstance(each["exception"], Planted) for each in harness.errors)
    harness.errors.clear()
    return found


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize("method", ["add", "slow"])
@pytest.mark.parametrize("after", [0, 1], ids=["the object's first turn", "a later one"])
@pytest.mark.parametrize("step", BEFORE)
def test_a_fault_before_a_turn_is_journaled_fails_its_command_and_nothing_else(
    step: str, after: int, method: str
) -> None:
    """It is told `internal-error` and changed nothing; what waits behind it and what others ask is done."""

    async def told(harness: OneOwner) -> None:
        await harness.call("other", "add")
        if after:
            assert (await harness.call("a", "add")).outcome == OK
        with planted_once(step) as hit:
            first, second = await harness.replies(
                harness.send("a", method, client_key="k"), harness.send("a", "add")
            )
        assert hit == [step]
        assert first.outcome in (FAILED, "rejected")
        assert first.error is not None
        foreseen = step in ("its entry is made", "its entry is encoded")
        assert first.error.code == ("bad-reply" if foreseen else "internal-error")
        assert planted_ones(harness) == ([] if foreseen else [step])
        assert second.body == b'{"result":%d}' % (1 + after)
        assert (await harness.call("b", "add")).body == b'{"result":1}'
        again = await harness.call(
            "a", method, client_key="k"
        )  # what was told is told again, or it is done now
        assert again in (first, Reply(OK, 200, (), b'{"result":%d}' % (2 + after)))

    story(Thing, told)


def test_a_fault_while_a_failure_is_blamed_fails_the_command_too() -> None:
    """The handler had raised: nothing of it counts."""

    async def told(harness: OneOwner) -> None:
        with planted_once("the handler is blamed"):
            assert said(await harness.call("a", "wrong")) == (FAILED, "internal-error")
        assert (await harness.call("a", "add")).body == b'{"result":1}'
        assert planted_ones(harness) == ["the handler is blamed"]

    story(Thing, told)


@pytest.mark.parametrize(
    "step", [*OF_ALARMS, "the handler is made", "its outcome is found", "its entry is made"]
)
def test_an_alarm_that_met_a_fault_rings_again(step: str) -> None:
    """Once, and takes effect once."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "ring")
        with planted_once(step) as hit:
            await harness.until(lambda: hit)
        await harness.until(lambda: harness.value("a", "rings") == 1)
        assert planted_ones(harness) == (
            [step] if step not in ("the handler is made", "its entry is made") else []
        )
        await asyncio.sleep(200)
        assert harness.value("a", "rings") == 1

    story(Thing, told)


def test_a_fault_that_comes_again_where_the_failure_is_journaled_is_answered_all_the_same() -> None:
    """As a done, which spends no key; the object goes on."""

    async def told(harness: OneOwner) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("perdure.streams.turns.commit.entry_of", _raising)
            assert said(await harness.call("a", "add", client_key="k")) == (FAILED, "internal-error")
        assert len(harness.errors) == 2
        planted_ones(harness)
        assert await harness.journal() == []
        assert (await harness.call("a", "add", client_key="k")).body == b'{"result":1}'

    story(Thing, told)


def _raising(*given: Any, **named: Any) -> Any:
    raise Planted("again")


@pytest.mark.parametrize("shared", [False, True], ids=["embedded", "shared"])
@pytest.mark.parametrize("step", FROM_THEN_ON)
def test_a_fault_from_then_on_stops_the_partition_loudly(step: str, shared: bool) -> None:
    """What waits at a door is told, and nothing is lost or doubled: the next owner goes on."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "add")
        with planted_once(step) as hit:
            offset = harness.send("a", "add", client_key="k")
            await harness.until(lambda: harness.owner.state is OwnerState.STOPPED)
        assert hit == [step]
        assert isinstance(harness.owner.error, PartitionBroken)
        assert isinstance(harness.owner.error.__cause__, Planted)
        assert step in str(harness.owner.error)
        assert planted_ones(harness) == [step]
        with pytest.raises(PartitionBroken):
            harness.owner.check_room("Thing/a")
        await harness.living
        harness.living = asyncio.create_task(live(harness.owner))
        await harness.until(lambda: harness.owner.state is OwnerState.SERVING)
        await harness.until(lambda: offset in harness.owner.tables.done)
        assert (await harness.call("a", "add")).body == b'{"result":3}'

    story(Thing, told, shared=shared)


@pytest.mark.parametrize("shared", [False, True], ids=["embedded", "shared"])
@pytest.mark.parametrize("step", OF_DONES)
def test_a_command_that_was_answered_as_not_done_never_runs_after_a_fault(step: str, shared: bool) -> None:
    """Its client acts on that answer: either it has it and the command is over, or the next owner runs it."""

    async def told(harness: OneOwner) -> None:
        await harness.call("b", "add")
        with planted_once(step) as hit:
            offset = harness.send("a", "busy")
            await harness.until(lambda: harness.owner.state is OwnerState.STOPPED)
        assert hit == [step]
        assert planted_ones(harness) == [step]
        answered = harness.ingress.replies.get(offset)
        await harness.living
        harness.living = asyncio.create_task(live(harness.owner))
        await harness.until(lambda: harness.owner.state is OwnerState.SERVING)
        await harness.until(lambda: offset in harness.owner.tables.done)
        if answered is None:
            assert (len(harness.seen), harness.value("a", "count")) == (2, 1)
        else:
            assert said(answered) == (UNAVAILABLE, "unavailable")
            assert (len(harness.seen), harness.value("a", "count")) == (1, None)

    story(Thing, told, shared=shared)


def test_a_fault_while_a_partition_begins_stops_that_partition() -> None:
    """Not the task that it lives in, whose error would end the node."""

    async def told(harness: OneOwner) -> None:
        await harness.end()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("perdure.streams.owner.recovery.check_journal", _raising)
            await harness.begin(OwnerState.STOPPED)
        await harness.living
        assert isinstance(harness.owner.error, PartitionBroken)
        assert planted_ones(harness) == ["again"]

    story(Thing, told, check=False)


def test_a_fault_in_an_act_of_administration_fails_that_act() -> None:
    """See `Inside.failed`: the object is as it was."""

    async def told(harness: OneOwner) -> None:
        from perdure.schemas.admin import PAUSE
        from perdure.schemas.commands import ADMIN, LOCAL, Command, sealed_record
        from perdure.streams.log.base import Record

        asked = Command("Thing/a", ADMIN, PAUSE, "", (), b"", "id", LOCAL)
        with planted_once("an act of administration") as hit:
            offset = harness.append(Record(*sealed_record(asked, harness.owner.ports.transport.seal)))
            (reply,) = await harness.replies(offset)
        assert hit
        assert said(reply) == (FAILED, "internal-error")
        assert (await harness.call("a", "add")).outcome == OK
        assert planted_ones(harness) == ["an act of administration"]

    story(Thing, told)


def test_a_turn_whose_handler_still_runs_is_left() -> None:
    """A fault after it has suspended: it is closed, and what it would have written is not."""

    async def told(harness: OneOwner) -> None:
        loop = asyncio.get_running_loop()
        call_at = loop.call_at

        def no_deadline(when: float, callback: Any, *given: Any, **named: Any) -> Any:
            if callback == harness.owner.turns._expire:
                raise Planted("no deadline")
            return call_at(when, callback, *given, **named)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(loop, "call_at", no_deadline)
            assert said(await harness.call("a", "slow", deadline_ms=10_000)) == (FAILED, "internal-error")
        assert planted_ones(harness) == ["no deadline"]
        assert (await harness.call("a", "add")).body == b'{"result":1}'
        await asyncio.sleep(2)
        assert harness.value("a", "count") == 1

    story(Thing, told)
