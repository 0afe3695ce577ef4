"""What maintenance trims, and what it leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.one_owner import HOUR_MS, OneOwner, story

from perdure.objects.durable import DurableObject
from perdure.schemas.errors import LogUnreachable
from perdure.streams.log.base import Bounds, Stamped, Topic
from perdure.streams.owner.maintenance import TRIM_EVERY_S, Maintenance
from perdure.streams.owner.owner import Owner
from perdure.streams.turns.ports import OwnerState

YEAR_MS = 365 * 24 * HOUR_MS


class Thing(DurableObject):
    async def put(self, value: int) -> int:
        await self.state.put("value", value)
        return value


def _maintenance(harness: OneOwner) -> Maintenance:
    def failed(error: BaseException) -> None:
        raise error

    return Maintenance(
        harness.store, [harness.owner], clock_ms=harness.clock_ms, keep_ms=24 * HOUR_MS, failed=failed
    )


def test_only_commands_that_are_old_and_done_are_trimmed() -> None:
    """Of commands older than 24 h all below the low mark go, those that are younger stay."""

    async def told(harness: OneOwner) -> None:
        for n in range(5):
            await harness.call("a", "put", n)
        harness.skew_ms += 25 * HOUR_MS
        await harness.call("a", "put", 5)
        await harness.call("a", "put", 6)  # its batch carries the marks of the one before
        await _maintenance(harness).trim(harness.owner)
        assert await harness.log.bounds(Topic.COMMANDS, 0) == Bounds(5, 7)

    story(Thing, told)


def test_commands_stamped_by_a_clock_that_was_ahead_hold_nothing_up() -> None:
    """A year ahead for some of them, first and last ones too: what is old and done
    goes, what is young stays.
    """

    async def told(harness: OneOwner) -> None:
        for n in range(20):
            harness.skew_ms = YEAR_MS if n in (0, 3, 4, 5, 11, 19) else 0
            await harness.call("a", "put", n)
        harness.skew_ms = 0
        await _maintenance(harness).trim(harness.owner)
        assert (await harness.log.bounds(Topic.COMMANDS, 0)).start == 0
        harness.skew_ms = 25 * HOUR_MS
        for n in range(5):
            await harness.call("a", "put", n)
        await _maintenance(harness).trim(harness.owner)
        assert await harness.log.bounds(Topic.COMMANDS, 0) == Bounds(19, 25)  # that one goes with the next

    story(Thing, told)


def test_a_log_that_does_not_answer_is_trimmed_a_minute_later() -> None:
    """Kafka being away while maintenance wants to trim is no reason to stop the node."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "put", 0)
        await harness.call("a", "put", 1)
        harness.skew_ms += 25 * HOUR_MS
        true = harness.log.bounds
        asked = 0

        async def away_at_first(topic: Topic, partition: int) -> Bounds:
            nonlocal asked
            asked += 1
            if asked == 1:
                raise LogUnreachable("no broker answers")
            return await true(topic, partition)

        harness.log.bounds = away_at_first  # type: ignore[method-assign]  # the log itself is never unreachable
        trimming = asyncio.create_task(_maintenance(harness).trim_forever())
        await asyncio.sleep(2.5 * TRIM_EVERY_S)  # of virtual time
        assert not trimming.done()
        trimming.cancel()
        assert (await true(Topic.COMMANDS, 0)).start > 0

    story(Thing, told)


def test_a_partition_whose_trimming_hangs_holds_up_nothing() -> None:
    """Turns run and the state is written while it hangs; when it fails, another partition is trimmed first
    next time."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "put", 0)
        trimmed: list[str] = []
        hangs, fails = asyncio.Event(), asyncio.Event()

        class Two(Maintenance):
            async def trim(self, owner: Owner) -> None:
                trimmed.append("second" if isinstance(owner, Second) else "first")
                if len(trimmed) == 1:
                    hangs.set()
                    await fails.wait()
                    raise LogUnreachable("DeleteRecords was not answered")

        class Second(Owner):
            def __init__(self) -> None:
                self.state = OwnerState.SERVING

        two = Two(
            harness.store,
            [harness.owner, Second()],
            clock_ms=harness.clock_ms,
            keep_ms=HOUR_MS,
            failed=lambda error: None,
        )
        trimming = asyncio.create_task(two.trim_forever())
        await hangs.wait()
        await harness.call("a", "put", 1)
        await _maintenance(harness).write_all()
        fails.set()
        await asyncio.sleep(1.5 * TRIM_EVERY_S)  # of virtual time
        trimming.cancel()
        assert trimmed == ["first", "second", "first"]

    story(Thing, told)


def test_a_shared_log_is_trimmed_without_reading_it() -> None:
    """One question for each topic, whatever lies there; what goes is the same."""

    async def told(harness: OneOwner) -> None:
        for n in range(200):
            await harness.call("a", "put", n)
        harness.skew_ms += 25 * HOUR_MS
        await harness.call("a", "put", 5)
        await harness.call("a", "put", 6)  # its batch carries the marks of the one before
        true, asked = harness.log.since, list[Topic]()

        async def since(topic: Topic, partition: int, time_ms: int) -> Stamped | None:
            asked.append(topic)
            return await true(topic, partition, time_ms)

        def read(*given: object) -> Any:
            raise AssertionError("the log is read")

        harness.log.since = since  # type: ignore[method-assign]  # looked at on its way
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(harness.log, "read", read)
            await _maintenance(harness).trim(harness.owner)
        assert asked == [Topic.COMMANDS, Topic.REPLIES]  # an end mark of the journal lies there
        assert await harness.log.bounds(Topic.COMMANDS, 0) == Bounds(200, 202)

    story(Thing, told, shared=True)
