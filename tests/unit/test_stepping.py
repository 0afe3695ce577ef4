"""A coroutine is run at once, as one task in all of its steps; nothing it raises reaches the loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import sys
import weakref
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

import msgspec
import pytest

from perdure.streams.turns.inline_task import TaskLike, now, run_inline, signals_are_the_loops
from perdure.streams.turns.task import StandIn
from perdure.streams.virtual_time import VirtualLoop

EAGER = sys.version_info >= (3, 12)

Handler = Callable[[], Coroutine[Any, Any, Any]]
colour: ContextVar[str] = ContextVar("colour", default="none")


class Stepped(TaskLike, eq=False, weakref=True):
    """A turn that remembers how it ended."""

    ends: list[tuple[Any, BaseException | None]] = msgspec.field(default_factory=list)

    def step(self, coro: Coroutine[Any, Any, Any]) -> Stepped:
        loop = asyncio.get_running_loop()
        run_inline(
            loop, copy_context(), coro, self, lambda turn, result, error: self.ends.append((result, error))
        )
        return self

    async def end(self) -> tuple[Any, BaseException | None]:
        """How it ended; it must have ended once."""
        if self.task is not None:
            await asyncio.wait((self.task,))
            assert self.task.exception() is None, "it reached the loop"
        (found,) = self.ends
        return found


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """On virtual time; anything the loop has to handle itself fails the test."""
    wrong: list[Any] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: wrong.append(context))
        await main()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(watched())
    assert wrong == []


class Thing:
    """What a handler may return: something that knows whether it is still held."""


@pytest.mark.parametrize("suspends", [False, True])
@pytest.mark.parametrize("raises", [False, True])
def test_what_it_ended_with_is_held_no_longer_than_done_is_called(suspends: bool, raises: bool) -> None:
    """A turn waits for its batch, and its result may be large."""

    async def main() -> None:
        held: list[weakref.ref[Thing]] = []

        async def handler() -> Thing:
            thing = Thing()
            held.append(weakref.ref(thing))
            if suspends:
                await asyncio.sleep(1)
            if raises:
                raise ValueError(thing)
            return thing

        turn = TaskLike()
        came: list[type] = []
        run_inline(
            asyncio.get_running_loop(),
            copy_context(),
            handler(),
            turn,
            lambda turn, result, error: came.append(type(error.args[0] if error else result)),
        )
        await asyncio.sleep(2)
        gc.collect()
        assert came == [Thing]
        assert held[0]() is None

    run(main)


async def inline() -> int:
    return 5


async def suspended() -> int:
    await asyncio.sleep(1)
    return 5


def test_what_never_suspends_ends_at_once_without_a_task() -> None:
    """The result is there when the call returns."""

    async def main() -> None:
        turn = Stepped().step(inline())
        assert (turn.ends, turn.task) == ([(5, None)], None)

    run(main)


def test_what_suspends_has_a_task_and_ends_later() -> None:
    """Once, with its result."""

    async def main() -> None:
        turn = Stepped().step(suspended())
        assert turn.ends == []
        assert turn.task is not None
        assert await turn.end() == (5, None)
        assert turn.done()

    run(main)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        SystemExit(3),
        asyncio.CancelledError(),
        GeneratorExit(),
        MemoryError(),
        StopAsyncIteration(),
    ],
    ids=lambda each: type(each).__name__,
)
@pytest.mark.parametrize("wait", [False, True], ids=["in the first step", "after a suspension"])
def test_what_is_raised_is_handed_over(error: BaseException, wait: bool) -> None:
    """`SystemExit` and cancellation too: the loop and its caller never see them."""
    hands_over(error, wait)


def hands_over(error: BaseException, wait: bool) -> None:
    """A handler raises `error`, in its first step or, with `wait`, after a
    suspension: it is what the step ends with.
    """

    async def handler() -> None:
        if wait:
            await asyncio.sleep(0)
        raise error

    async def main() -> None:
        assert await Stepped().step(handler()).end() == (None, error)

    run(main)


async def in_each_step() -> list[Any]:
    """The current task in the first step, after a suspension, after a task of its
    own ended, and when it is cancelled.
    """
    found = [asyncio.current_task()]
    await asyncio.sleep(0)
    found.append(asyncio.current_task())
    await asyncio.create_task(suspended())
    found.append(asyncio.current_task())
    try:
        async with asyncio.timeout(1):
            await asyncio.sleep(50)
    except TimeoutError:
        found.append(asyncio.current_task())
    return found


def test_the_current_task_is_the_same_in_every_step() -> None:
    """Its Task from Python 3.12 on, before that the turn, which stands in for one;
    the caller is itself again afterwards.
    """

    async def main() -> None:
        me = asyncio.current_task()
        turn = Stepped().step(in_each_step())
        assert asyncio.current_task() is me
        found, error = await turn.end()
        assert error is None
        assert found == [turn.task if EAGER else turn] * 4

    run(main)


def test_a_turn_stepped_from_within_a_step_leaves_the_current_task_as_it_was() -> None:
    """In the first step of the outer one and in a later one; each is its own
    current task, in each of its steps.
    """

    async def outer() -> list[Any]:
        me = asyncio.current_task()
        first = Stepped().step(in_each_step())
        assert asyncio.current_task() is me
        await asyncio.sleep(0)
        assert asyncio.current_task() is me
        second = Stepped().step(in_each_step())
        at_once = Stepped().step(inline())
        assert asyncio.current_task() is me
        assert at_once.ends == [(5, None)]
        ends = [await first.end(), await second.end()]
        assert asyncio.current_task() is me
        return [me, *(task for tasks, _ in ends for task in set(tasks))]

    async def main() -> None:
        tasks, error = await Stepped().step(outer()).end()
        assert error is None
        assert len(set(tasks)) == len(tasks) == 3

    run(main)


def test_a_turn_that_ends_another_in_its_step_is_itself_afterwards() -> None:
    """What one handler sets, another waited for; its end is told from the loop, not from within."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        async def waits() -> int:
            return int(await future)

        async def sets() -> bool:
            me = asyncio.current_task()
            future.set_result(5)
            return asyncio.current_task() is me

        waiting = Stepped().step(waits())
        assert Stepped().step(sets()).ends == [(True, None)]
        assert waiting.ends == []
        assert await waiting.end() == (5, None)

    run(main)


def test_what_asyncio_takes_for_a_task_of_a_turn_is_a_native_coroutine() -> None:
    """Since 3.12 it refuses coroutines made of generators."""

    async def main() -> None:
        turn = Stepped().step(suspended())
        assert turn.task is not None
        assert inspect.iscoroutine(turn.task.get_coro())
        await turn.end()

    run(main)


@pytest.mark.skipif(EAGER, reason="3.12 has eager tasks")
def test_a_stand_in_has_what_a_task_has() -> None:
    """Each public method of `asyncio.Task`, and what anyio reads of one."""
    missing = [name for name in dir(asyncio.Task) if not name.startswith("_") and not hasattr(StandIn, name)]
    assert missing == []
    assert hasattr(StandIn, "_fut_waiter")
    assert hasattr(StandIn, "_must_cancel")


def test_a_callback_for_the_end_of_a_turn_is_called() -> None:
    """Added in the first step or later, of one that suspends and one that does not;
    one that was removed is not.
    """
    told: list[str] = []

    def add(name: str) -> Callable[[Any], None]:
        task = asyncio.current_task()
        assert task is not None

        def callback(ended: Any) -> None:
            told.append(name)

        task.add_done_callback(callback)
        return callback

    async def handler() -> None:
        task = asyncio.current_task()
        assert task is not None
        assert task.remove_done_callback(add("removed")) == 1
        add("first")
        await asyncio.sleep(0)
        assert task.remove_done_callback(add("removed")) == 1
        add("later")

    async def at_once() -> None:
        add("at once")

    async def main() -> None:
        await Stepped().step(handler()).end()
        assert Stepped().step(at_once()).ends == [(None, None)]
        await asyncio.sleep(0)
        assert told == ["first", "later", "at once"]

    run(main)


def test_a_timeout_entered_in_the_first_step_works() -> None:
    """It cancels what it guards, and only that; one that is not reached does nothing."""

    async def handler() -> str:
        async with asyncio.timeout(100):
            try:
                async with asyncio.timeout(1):
                    await asyncio.sleep(50)
            except TimeoutError:
                await asyncio.sleep(1)
                return "in time"
        return "never"

    async def main() -> None:
        assert await Stepped().step(handler()).end() == ("in time", None)

    run(main)


def test_a_timeout_that_has_passed_already_works_too() -> None:
    """It is due at the first suspension."""

    async def handler() -> None:
        async with asyncio.timeout(0):
            await asyncio.sleep(50)

    async def main() -> None:
        result, error = await Stepped().step(handler()).end()
        assert (result, type(error)) == (None, TimeoutError)

    run(main)


def test_a_task_group_entered_in_the_first_step_works() -> None:
    """Its children run; if one fails the others are cancelled and the group is raised."""
    over: list[str] = []

    async def child(name: str, wait_s: float, *, fail: bool = False) -> str:
        try:
            await asyncio.sleep(wait_s)
            if fail:
                raise ValueError(name)
            return name
        finally:
            over.append(name)

    async def good() -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(child(name, 1)) for name in "ab"]
        return [task.result() for task in tasks]

    async def bad() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child("slow", 100))
            group.create_task(child("bad", 1, fail=True))
            await asyncio.sleep(100)

    async def main() -> None:
        assert await Stepped().step(good()).end() == (["a", "b"], None)
        result, error = await Stepped().step(bad()).end()
        assert result is None
        assert isinstance(error, ExceptionGroup)
        assert [type(each) for each in error.exceptions] == [ValueError]
        assert over == ["a", "b", "bad", "slow"]
        assert asyncio.get_running_loop().time() == 2

    run(main)


def test_a_cancellation_before_there_is_a_task_takes_effect_at_the_first_suspension() -> None:
    """What the first step still does without suspending is done."""
    found: list[str] = []

    async def handler() -> None:
        me = asyncio.current_task()
        assert me is not None
        me.cancel()
        found.append("still here")
        await asyncio.sleep(10)
        found.append("never")

    async def main() -> None:
        result, error = await Stepped().step(handler()).end()
        assert (result, type(error), found) == (None, asyncio.CancelledError, ["still here"])

    run(main)


def test_a_cancellation_taken_back_before_there_is_a_task_does_nothing() -> None:
    """`uncancel` counts, and never below zero. On 3.12 a Task is cancelled all the
    same, as asyncio's own are.
    """

    async def handler() -> int:
        me = asyncio.current_task()
        assert me is not None
        assert (me.uncancel(), me.cancelling()) == (0, 0)
        me.cancel()
        assert (me.cancelling(), me.uncancel()) == (1, 0)
        await asyncio.sleep(1)
        return 5

    async def main() -> None:
        result, error = await Stepped().step(handler()).end()
        if sys.version_info[:2] == (3, 12):
            assert (result, type(error)) == (None, asyncio.CancelledError)
        else:
            assert (result, error) == (5, None)

    run(main)


def test_a_suspended_turn_can_be_cancelled_and_may_clean_up() -> None:
    """The handler meets the cancellation where it waits; a handler that ignores it goes on."""
    found: list[str] = []

    async def clean() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1)
            found.append("clean")

    async def stubborn() -> int:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            return await suspended()
        return 0

    async def main() -> None:
        one, other = Stepped().step(clean()), Stepped().step(stubborn())
        await asyncio.sleep(0)
        one.cancel()
        other.cancel()
        result, error = await one.end()
        assert (result, type(error), found) == (None, asyncio.CancelledError, ["clean"])
        assert await other.end() == (5, None)

    run(main)


def test_a_turn_that_is_left_ends_though_its_handler_ignores_cancellation() -> None:
    """Its Task is over, so the loop can close; nothing more is heard of it."""

    async def stubborn() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    async def main() -> None:
        turn = Stepped().step(stubborn())
        turn.cancel()
        await asyncio.sleep(1)
        assert not turn.done()
        turn.abandon()
        assert turn.task is not None
        await asyncio.wait((turn.task,))
        assert turn.ends == []

    run(main)


def test_the_context_is_the_same_before_and_after_the_suspension() -> None:
    """And the caller's is not touched."""

    async def handler() -> str:
        colour.set("red")
        await asyncio.sleep(0)
        return colour.get()

    async def main() -> None:
        assert await Stepped().step(handler()).end() == ("red", None)
        assert colour.get() == "none"

    run(main)


def test_a_keyboard_interrupt_is_nobodys_answer() -> None:
    """Who runs the process wants it to stop: it goes on up."""

    async def handler() -> None:
        raise KeyboardInterrupt

    turn = Stepped()
    with pytest.raises(KeyboardInterrupt):
        run(lambda: _step(turn, handler()))
    assert turn.ends == []


@pytest.mark.parametrize("wait", [False, True], ids=["in the first step", "after a suspension"])
def test_where_ctrl_c_is_a_signal_to_the_loop_a_keyboard_interrupt_is_the_handlers(wait: bool) -> None:
    """As any other error: what else runs is not touched."""
    with signals_are_the_loops():
        hands_over(KeyboardInterrupt(), wait)


async def _step(turn: Stepped, coro: Coroutine[Any, Any, Any]) -> None:
    turn.step(coro)


def test_every_awaitable_of_asyncio_can_be_the_first() -> None:
    """Futures, tasks, gather, wait_for, events and locks."""

    async def handler() -> list[Any]:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_later(1, future.set_result, 1)
        event, lock = asyncio.Event(), asyncio.Lock()
        loop.call_later(2, event.set)
        first = await future
        async with lock:
            await event.wait()
        return [
            first,
            *await asyncio.gather(suspended(), suspended()),
            await asyncio.wait_for(suspended(), 5),
        ]

    async def main() -> None:
        assert await Stepped().step(handler()).end() == ([1, 5, 5, 5], None)

    run(main)


def test_the_running_turn_is_told_and_nobody_when_none_runs() -> None:
    """In each of its steps, also when it is closed; within a step that leads to another, the inner one's."""

    async def main() -> None:
        seen: list[int] = []

        async def inner() -> None:
            seen.append(now()[0])

        async def handler() -> None:
            seen.append(now()[0])
            run_inline(asyncio.get_running_loop(), Context(), inner(), TaskLike(), lambda *_: None, 8)
            seen.append(now()[0])
            try:
                await asyncio.sleep(0)
                seen.append(now()[0])
                await asyncio.sleep(10)
            finally:
                seen.append(now()[0])

        turn = TaskLike()
        run_inline(asyncio.get_running_loop(), Context(), handler(), turn, lambda *_: None, 7)
        assert now()[0] == 0
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert now()[0] == 0
        turn.abandon()
        assert turn.task is not None
        await asyncio.wait([turn.task])
        assert (seen, now()[0]) == ([7, 8, 7, 7, 7], 0)

    asyncio.run(main())
