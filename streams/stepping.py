"""Run a coroutine at once; make a Task of it only if it really suspends.

Most handlers never suspend: their awaits are answered from memory. A Task for each would cost as much as the
rest of the turn.

Laws
- `done(turn, result, error)` is called exactly once, at once or from the loop; never for one that was left.
- What the handler raises, SystemExit and CancelledError too, is handed over, never raised into the loop. So is a
  KeyboardInterrupt where Ctrl-C cannot have raised it (see `signals_are_the_loops`).
- In its first step `asyncio.current_task()` is the turn itself, which passes `cancel` and its kin on to
  the Task that it may become (so `asyncio.timeout` and TaskGroup work there too).
- A Task whose handler ignores its cancellation ends all the same when it is left, so that a loop that waits
  for its Tasks can close.
- While a handler's code runs, and only then, `now()[0]` holds the word of its turn (0 if it was given none): the
  innermost one's, if a step led to another.
"""

from __future__ import annotations

import asyncio
import types
from asyncio.tasks import _enter_task, _leave_task  # no public way before 3.12's swap_current_task
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import Context
from types import CodeType
from typing import Any, Protocol, TypeVar

import msgspec

_F = TypeVar("_F", bound=Callable[..., Any])
Step = Callable[[Any], Any]

_interruptible = True  # may a KeyboardInterrupt be one?
_now: memoryview = memoryview(bytearray(8)).cast("q")


def now() -> memoryview:
    """One signed 64-bit number: the word of the turn whose code is running, 0 if none is."""
    return _now


def tell(page: memoryview | None) -> None:
    """From here on the running turn's word is written into `page`, which may outlive the process; None: no more."""
    global _now
    _now = memoryview(bytearray(8)).cast("q") if page is None else page


@contextmanager
def signals_are_the_loops() -> Iterator[None]:
    """Within, Ctrl-C is a signal to the event loop (a server's), never a KeyboardInterrupt in the middle of a handler."""
    global _interruptible
    before, _interruptible = _interruptible, False
    try:
        yield
    finally:
        _interruptible = before


def is_ctrl_c(error: BaseException) -> bool:
    """Does whoever runs the process want it to stop, or is it only what a handler raised?"""
    return _interruptible and isinstance(error, KeyboardInterrupt)


class Stepped(Protocol):
    """What runs: it stands in for its Task until there is one."""

    task: asyncio.Task[Any] | None


class TaskLike(msgspec.Struct, eq=False, weakref=True, kw_only=True):
    """The part of a Task's face that structured concurrency asks for, before there is a Task.

    A Struct, like all that is made for each turn: it costs a third of a class with an `__init__`.
    """

    task: asyncio.Task[Any] | None = None
    left: bool = False
    _cancels: int = 0

    def cancel(self, msg: Any = None) -> bool:
        """Ask the handler to stop at its next suspension."""
        if self.task is not None:
            return self.task.cancel(msg)
        self._cancels += 1
        return True

    def leave(self) -> None:
        """Close the handler where it waits and end its Task; `done` is not called for it any more."""
        self.left = True
        self.cancel()

    def cancelling(self) -> int:
        return self._cancels if self.task is None else self.task.cancelling()

    def uncancel(self) -> int:
        if self.task is not None:
            return self.task.uncancel()
        self._cancels = max(self._cancels - 1, 0)
        return self._cancels

    def done(self) -> bool:
        return self.task is not None and self.task.done()

    def get_name(self) -> str:
        return "turn"

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()


def leave_all(turns: Iterable[TaskLike]) -> None:
    """Leave those that still run."""
    for turn in list(turns):
        turn.leave()


class _Finished:
    __slots__ = ("error", "value")

    def __init__(self, value: Any, error: BaseException | None) -> None:
        self.value = value
        self.error = error


def run_inline(
    loop: asyncio.AbstractEventLoop,
    context: Context,
    coro: Coroutine[Any, Any, Any],
    turn: TaskLike,
    done: Callable[[Any, Any, BaseException | None], None],
    word: int = 0,
) -> None:
    """Step `coro` in `context`; call `done(turn, result, error)` now or when it has ended.

    `word` stands for the turn, not 0 and below 2**62, for those who look on from outside (see `now`).
    """
    page, outer = _now, 0
    caller = asyncio.current_task(loop)
    if caller is not None:
        outer = page[0]  # it may be a step itself
        _leave_task(loop, caller)
    _enter_task(loop, turn)  # type: ignore[arg-type]  # a stand-in, on purpose
    waited_for = result = error = None
    ended = True
    page[0] = word
    try:
        waited_for = context.run(coro.send, None)
        ended = False
    except StopIteration as stop:
        result = stop.value
    except BaseException as raised:  # a handler may raise anything; none of it is the loop's
        if is_ctrl_c(raised):
            raise
        error = raised
    finally:
        page[0] = outer
        _leave_task(loop, turn)  # type: ignore[arg-type]  # as above
        if caller is not None:
            _enter_task(loop, caller)
    if ended:
        done(turn, result, error)
        return
    cancels = turn._cancels
    rest = _rest(coro, waited_for, turn, word, lambda end: done(turn, end.value, end.error))
    rest.send(None)  # up to where it can be cancelled: a Task may be, before its own first step
    task = loop.create_task(rest, context=context)
    turn.task = task
    for _ in range(cancels):
        task.cancel()


def _advance(step: Step, argument: Any, word: int) -> Any:
    page = _now
    outer, page[0] = page[0], word
    try:
        return step(argument)
    except StopIteration as stop:
        return _Finished(stop.value, None)
    except BaseException as error:  # as above
        if is_ctrl_c(error):
            raise
        return _Finished(None, error)
    finally:
        page[0] = outer


def _close(coro: Coroutine[Any, Any, Any]) -> None:
    coro.close()


@types.coroutine
def _rest(
    coro: Coroutine[Any, Any, Any],
    waited_for: Any,
    turn: TaskLike,
    word: int,
    ended: Callable[[_Finished], None],
) -> Generator[Any, Any, None]:
    try:
        yield  # to run_inline
    except BaseException as error:  # noqa: BLE001 - as below
        waited_for = _advance(coro.throw, error, word)
    while type(waited_for) is not _Finished:
        try:
            sent = yield waited_for
        except BaseException as error:  # noqa: BLE001 - whatever is thrown in belongs to the handler
            if turn.left:
                # it was left behind: what it says to that is nothing to anybody
                _advance(_close, coro, word)
                return
            waited_for = _advance(coro.throw, error, word)
        else:
            waited_for = _advance(coro.send, sent, word)
    ended(waited_for)


# the code below which a handler's own begins, on the stack of a step
DOORWAYS: set[CodeType] = set()  # code of perdure's own that calls the user's, and may be interrupted in it


def doorway(function: _F) -> _F:
    """Marks an `async def` that runs the user's code: what is interrupted below it is a handler."""
    DOORWAYS.add(function.__code__)
    return function


STEPS = frozenset((run_inline.__code__, _advance.__code__, _close.__code__))
