"""Run a coroutine at once, as one asyncio task from its first step to its last.

Most handlers never suspend: their awaits are answered from memory. To schedule each of them as a Task would
cost more than the rest of the turn. From Python 3.12 on the handler is an eager Task, which runs its first
step where it is made. Before, a stand-in is the current task in every step, and a Task is made only if the
handler suspends.

Laws [test_stepping.py]
- `done(turn, result, error)` is called exactly once, at once or from the loop;
  never for one that was abandoned.
- What the handler raises, SystemExit and CancelledError too, is handed over, never raised into the loop. So
  is a KeyboardInterrupt where Ctrl-C cannot have raised it (see `signals_are_the_loops`).
- `asyncio.current_task()` is the same in every step of a handler. The task of the code that steps it, which
  may be another handler, is current again afterwards.
- A Task whose handler ignores its cancellation ends all the same when it is abandoned, so that a loop that
  waits for its Tasks can close.
- While a handler's code runs, and only then, `now()[0]` holds the word of its turn (0 if it was given none):
  the innermost one's, if a step led to another.
"""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import Context
from types import CodeType
from typing import Any, TypeVar

from perdure.streams.turns.task import PENDING, StandIn, Stepped, abandon_all

__all__ = [
    "STEPS",
    "USER_CODE",
    "TaskLike",
    "abandon_all",
    "is_ctrl_c",
    "now",
    "run_inline",
    "signals_are_the_loops",
    "user_code",
    "write_word_to",
]

_F = TypeVar("_F", bound=Callable[..., Any])
Done = Callable[[Any, Any, BaseException | None], None]

_interruptible = True  # may a KeyboardInterrupt be one?
_now: memoryview = memoryview(bytearray(8)).cast("q")


def now() -> memoryview:
    """Return one signed 64-bit number: the word of the turn whose code is running, 0 if none is."""
    return _now


def write_word_to(page: memoryview | None) -> None:
    """Write the running turn's word into `page` from now on, which may outlive the
    process; None: stop that.
    """
    global _now
    _now = memoryview(bytearray(8)).cast("q") if page is None else page


@contextmanager
def signals_are_the_loops() -> Iterator[None]:
    """Within, Ctrl-C is a signal to the event loop (a server's), never a
    KeyboardInterrupt in the middle of a handler.
    """
    global _interruptible
    before, _interruptible = _interruptible, False
    try:
        yield
    finally:
        _interruptible = before


def is_ctrl_c(error: BaseException) -> bool:
    """True if the operator wants the process to stop: it is not just what a handler raised."""
    return _interruptible and isinstance(error, KeyboardInterrupt)


class _Raised:
    """Holds the error that a handler has raised."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


_ENDED: Any = object()  # in place of what a handler waits for
_ABANDONED: Any = object()  # the same, and `done` must not be called
_Steps = Generator[Any, Any, None]


@types.coroutine
def _steps(coro: Coroutine[Any, Any, Any], turn: Stepped) -> _Steps:
    """The steps of a handler: what it waits for, each time. What it ended with is `turn.ended_with` then.

    It returns nothing itself: then `next` with a default needs no StopIteration, whose making and catching
    would cost as much as the handler.
    """
    try:
        turn.ended_with = yield from coro
    except BaseException as error:  # a handler may raise anything; none of it is the loop's
        if is_ctrl_c(error):
            raise
        turn.ended_with = _Raised(error)


def _step(step: Callable[..., Any], steps: _Steps, argument: Any, word: int) -> Any:
    """One step of a handler: what it waits for, or `_ENDED`."""
    page = _now
    outer, page[0] = page[0], word
    try:
        return step(steps, argument)
    finally:
        page[0] = outer


def _throw(steps: _Steps, error: BaseException) -> Any:
    try:
        return steps.throw(error)
    except StopIteration:
        return _ENDED


def _close(steps: _Steps, _: object) -> Any:
    steps.close()  # it was abandoned: what it does then is not an answer
    return _ABANDONED


@types.coroutine
def _rest(steps: _Steps, waits_for: Any, turn: Stepped, word: int, done: Done) -> Generator[Any, Any, None]:
    """The steps after the one that `waits_for` came of, up to the call of `done`."""
    while waits_for is not _ENDED and waits_for is not _ABANDONED:
        try:
            yield waits_for  # nothing is sent to a Task
        except BaseException as error:  # noqa: BLE001 - whatever is thrown in belongs to the handler
            waits_for = _advance(turn, _close if turn.abandoned else _throw, steps, error, word)
        else:
            waits_for = _advance(turn, next, steps, _ENDED, word)
    if waits_for is not _ABANDONED:
        _finish(turn, done)


def _finish(turn: Stepped, done: Done) -> None:
    ended_with, turn.ended_with = turn.ended_with, None
    if type(ended_with) is _Raised:
        done(turn, None, ended_with.error)
    else:
        done(turn, ended_with, None)


if sys.version_info >= (3, 12):
    TaskLike = Stepped
    _Task = asyncio.Task

    def run_inline(
        loop: asyncio.AbstractEventLoop,
        context: Context,
        coro: Coroutine[Any, Any, Any],
        turn: Stepped,
        done: Done,
        word: int = 0,
    ) -> None:
        """Step `coro` in `context`; call `done(turn, result, error)` now or when it has ended.

        `word` stands for the turn, not 0 and below 2**62, for observers outside
        this thread's code (see `now`).
        """
        whole = _whole(coro, turn, word, done)
        task = _Task(whole, loop=loop, name="turn", context=context, eager_start=True)
        ended_with = turn.ended_with
        if ended_with is PENDING:
            turn.task = task
            for _ in range(turn.cancels):
                task.cancel()
            return
        turn.ended_with = None
        if type(ended_with) is _Raised:
            done(turn, None, ended_with.error)
        else:
            done(turn, ended_with, None)

    async def _whole(coro: Coroutine[Any, Any, Any], turn: Stepped, word: int, done: Done) -> None:
        """All steps of a handler. `done` is called here if they are more than one."""
        steps = _steps(coro, turn)
        page = _now
        outer, page[0] = page[0], word
        try:
            for waits_for in steps:  # noqa: B007 - the first: cheaper than to call `next`
                break
            else:
                return
        finally:
            page[0] = outer
        await _rest(steps, waits_for, turn, word, done)

    def _advance(turn: Stepped, step: Callable[..., Any], steps: _Steps, argument: Any, word: int) -> Any:
        return _step(step, steps, argument, word)

else:
    from asyncio.tasks import _current_tasks, _enter_task, _leave_task  # type: ignore[attr-defined]  # there is no public way

    TaskLike = StandIn

    def run_inline(
        loop: asyncio.AbstractEventLoop,
        context: Context,
        coro: Coroutine[Any, Any, Any],
        turn: StandIn,
        done: Done,
        word: int = 0,
    ) -> None:
        """Step `coro` in `context`; call `done(turn, result, error)` now or when it has ended.

        `word` stands for the turn, not 0 and below 2**62, for observers outside
        this thread's code (see `now`).
        """
        page, outer = _now, 0
        caller = _current_tasks.get(loop)
        if caller is not None:
            outer = page[0]  # it may be a step itself
            _leave_task(loop, caller)
        _enter_task(loop, turn)  # type: ignore[arg-type]  # a stand-in, on purpose
        turn.coro = coro
        steps = _steps(coro, turn)
        page[0] = word
        try:
            waits_for = context.run(next, steps, _ENDED)
        finally:
            page[0] = outer
            _leave_task(loop, turn)  # type: ignore[arg-type]  # as above
            if caller is not None:
                _enter_task(loop, caller)
        if waits_for is _ENDED:
            if turn._callbacks is not None:
                turn.ended_at_once(loop)
            ended_with, turn.ended_with = turn.ended_with, None  # as `_finish`
            if type(ended_with) is _Raised:
                done(turn, None, ended_with.error)
            else:
                done(turn, ended_with, None)
            return
        rest = _rest_as_task(steps, waits_for, turn, word, done)
        rest.send(None)  # up to where it can be cancelled
        turn.goes_on_as(loop.create_task(rest, name="turn", context=context))

    async def _rest_as_task(steps: _Steps, waits_for: Any, turn: StandIn, word: int, done: Done) -> None:
        try:
            await _primed()
        except BaseException as error:  # noqa: BLE001 - as above
            waits_for = _advance(turn, _close if turn.abandoned else _throw, steps, error, word)
        await _rest(steps, waits_for, turn, word, done)

    @types.coroutine
    def _primed() -> Generator[None, None, None]:
        yield  # to run_inline: a Task may be cancelled before its own first step

    def _advance(turn: Stepped, step: Callable[..., Any], steps: _Steps, argument: Any, word: int) -> Any:
        """A step in which the stand-in is the current task, in place of its Task."""
        task = turn.task
        assert task is not None
        loop = task.get_loop()
        _leave_task(loop, task)
        _enter_task(loop, turn)  # type: ignore[arg-type]  # as above
        try:
            return _step(step, steps, argument, word)
        finally:
            _leave_task(loop, turn)  # type: ignore[arg-type]  # as above
            _enter_task(loop, task)


# the code right below which a handler's own begins, on the stack of a step; a generator that is closed closes
# what it
# waits for without a frame of its own
STEPS = frozenset((_steps.__code__, _close.__code__))

# the same of perdure's own, between that and the handler
USER_CODE: set[CodeType] = set()  # code of perdure's own that calls the user's, and may be interrupted in it


def user_code(function: _F) -> _F:
    """Marks an `async def` that runs the user's code: what is interrupted below it is a handler."""
    USER_CODE.add(function.__code__)
    return function
