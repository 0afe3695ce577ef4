"""The run queue: what runs in one pass of the event loop, and who comes next."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from tests.unit.one_owner import OneOwner, story

from perdure.objects.durable import DurableObject
from perdure.schemas.errors import Overloaded
from perdure.schemas.replies import OK
from perdure.streams.turns.mailbox import PACE_OF
from perdure.streams.turns.run_queue import LOOKS_AFTER_S, SLICE_S, RunQueue
from perdure.streams.virtual_time import VirtualLoop

STEP_S = 0.02


def on_the_loop(told: Callable[[VirtualLoop, RunQueue], Awaitable[None]]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        await told(loop, RunQueue())

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


async def passes(true: Callable[[], object]) -> None:
    """Let the event loop go round until something holds."""
    while not true():  # noqa: ASYNC110 - any condition, a few passes away
        await asyncio.sleep(0)


def test_a_short_step_runs_where_it_stands() -> None:
    """At once, and without a callback of the event loop."""

    async def told(loop: VirtualLoop, queue: RunQueue) -> None:
        ran: list[int] = []
        callbacks: list[object] = []
        loop.call_soon = lambda *args, **more: callbacks.append(args)  # type: ignore[method-assign, assignment, return-value]  # only looked at
        for n in range(10):
            assert queue.run(ran.append, n)
        del loop.call_soon
        assert (ran, callbacks) == (list(range(10)), [])

    on_the_loop(told)


def test_what_comes_when_the_slice_is_spent_waits_until_the_loop_had_its_way() -> None:
    """The step that spends it is the last; then everything else of the loop comes first."""

    async def told(loop: VirtualLoop, queue: RunQueue) -> None:
        ran: list[str] = []

        def step(name: str) -> None:
            ran.append(name)
            loop.spend(SLICE_S)

        assert queue.run(step, "first")
        assert not queue.run(step, "second")
        queue.put(step, "second")
        loop.call_soon(ran.append, "the loop")
        await passes(lambda: len(ran) == 3)
        assert ran == ["first", "the loop", "second"]

    on_the_loop(told)


def test_short_steps_of_many_passes_do_not_add_up() -> None:
    """The event loop had its way in between, so each pass has its slice."""

    async def told(loop: VirtualLoop, queue: RunQueue) -> None:
        for _ in range(100):
            assert queue.run(loop.spend, LOOKS_AFTER_S)
            await asyncio.sleep(0)

    on_the_loop(told)


def test_between_two_slices_the_loop_has_as_many_passes_as_the_first_took_ms() -> None:
    """So that what comes by the loop one a pass, such as new connections, is not
    slower than those who wait.
    """

    async def told(loop: VirtualLoop, queue: RunQueue) -> None:
        passes = 0
        seen: list[int] = []

        def step(_: None) -> None:
            seen.append(passes)
            loop.spend(STEP_S)

        for _ in range(5):
            queue.put(step, None)
        while len(seen) < 5:
            passes += 1
            await asyncio.sleep(0)
        assert all(19 <= after - before <= 23 for before, after in pairwise(seen)), seen

    on_the_loop(told)


def test_who_waits_is_not_kept_out_by_what_comes_new() -> None:
    """New steps fill each pass of the loop, and the queue has a slice after so much time all the same."""

    async def told(loop: VirtualLoop, queue: RunQueue) -> None:
        waited: list[float] = []

        def wait(_: None) -> None:
            loop.spend(SLICE_S)
            waited.append(loop.time())

        queue.run(loop.spend, SLICE_S)
        began_s = loop.time()
        for _ in range(3):
            queue.put(wait, None)
        while len(waited) < 3:
            while queue.run(loop.spend, SLICE_S):
                pass
            await asyncio.sleep(0)
        assert waited[-1] - began_s <= 10 * SLICE_S

    on_the_loop(told)


def test_a_step_that_raises_keeps_nobody_from_running() -> None:
    """The event loop hears of it, and the others have their turn."""

    async def told(loop: VirtualLoop, queue: RunQueue) -> None:
        ran: list[int] = []
        errors: list[object] = []
        loop.set_exception_handler(lambda loop, context: errors.append(context.get("exception")))
        queue.put({}.pop, "not there")
        queue.put(ran.append, 1)
        await passes(lambda: ran)
        assert isinstance(errors[0], KeyError)

    on_the_loop(told)


class Toil(DurableObject):
    """A turn of the hot object takes 20 ms of the processor; the object counts them."""

    async def toil(self) -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.spend(STEP_S)
        self.env.seen.append(self.state.id.name)
        return len(self.env.seen)

    async def turns(self) -> int:
        return len(self.env.seen)


def test_others_wait_for_a_few_turns_of_a_hot_object_however_many_wait_for_it() -> None:
    """200 commands are there at once; a read of another object comes after two of their turns at most."""

    async def told(harness: OneOwner) -> None:
        await harness.call("cold", "turns")
        last = [harness.send("hot", "toil") for _ in range(200)][-1]
        await harness.until(lambda: harness.seen)
        before = len(harness.seen)
        seen = json.loads((await harness.call("cold", "turns")).body)["result"]
        assert before + 2 >= seen
        assert last not in harness.ingress.replies, (
            "the hot object has nothing to do: the story shows nothing"
        )
        assert (await harness.replies(last))[0].outcome == OK
        assert len(harness.seen) == 200

    story(Toil, told)


def test_two_hot_objects_take_turns() -> None:
    """Each gives way to the other after one turn, in whichever order their commands came."""

    async def told(harness: OneOwner) -> None:
        offsets = [harness.send(name, "toil") for name in ("a", "b") for _ in range(20)]
        await harness.replies(*offsets)
        halfway = harness.seen[2:20]
        assert abs(halfway.count("a") - halfway.count("b")) <= 2, harness.seen

    story(Toil, told)


def test_a_door_refuses_what_would_not_run_within_its_deadline() -> None:
    """As soon as the object's last turns tell how long its mailbox takes; it says when to ask again."""

    async def told(harness: OneOwner) -> None:
        owner = harness.owner
        offsets = [harness.send("hot", "toil") for _ in range(200)]
        await harness.until(lambda: len(harness.seen) > PACE_OF + 1)
        owner.check_room("Thing/hot")  # without a deadline it waits as long as it takes
        owner.check_room("Thing/hot", 30_000)
        owner.check_room("Thing/cold", 1000)
        with pytest.raises(Overloaded, match="would not run within its deadline of 1000 ms") as caught:
            owner.check_room("Thing/hot", 1000)
        assert caught.value.retry_after_s > 1
        await harness.replies(*offsets)
        owner.check_room("Thing/hot", 1000)

    story(Toil, told)


def test_one_slow_turn_does_not_make_what_comes_next_too_late() -> None:
    """The median of the last turns tells, so one of a minute among quick ones refuses nobody."""

    class Once(Toil):
        async def wait(self) -> None:
            await asyncio.sleep(60)

    async def told(harness: OneOwner) -> None:
        last = [harness.send("a", "toil") for _ in range(20)]
        last.append(harness.send("a", "wait"))
        last += [harness.send("a", "toil") for _ in range(100)]
        await harness.until(lambda: len(harness.seen) > 20)
        harness.owner.check_room("Thing/a", 5000)
        with pytest.raises(Overloaded):
            harness.owner.check_room("Thing/a", 100)
        await harness.replies(*last)

    story(Once, told)
