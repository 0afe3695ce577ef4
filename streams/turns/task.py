"""The task of a turn: what a turn knows of the task in which it runs, and, before
Python 3.12, the stand-in for that task.

A turn is cancelled and abandoned through its `Stepped`. On Python 3.11 a `StandIn`, which is a `Stepped` too,
is what `asyncio.current_task()` returns in every step of the handler: a Task is made only if the handler
suspends.

Laws [test_stepping.py]
- A cancellation before there is a Task takes effect at the first suspension.
- A stand-in has every public method of `asyncio.Task`, and the private ones that anyio reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context
from typing import Any, TextIO

import msgspec

PENDING: Any = object()


class Stepped(msgspec.Struct, eq=False, weakref=True, kw_only=True):
    """A handler that runs step by step. `task`: its Task, once it has suspended;
    `ended_with`: its result, until taken.

    It is a Struct, like everything that is made for each turn: that costs a third
    of a class with an `__init__`.
    """

    task: asyncio.Task[Any] | None = None
    abandoned: bool = False
    ended_with: Any = PENDING
    cancels: int = 0  # before there was a Task

    def cancel(self, msg: Any = None) -> bool:
        """Ask the handler to stop at its next suspension."""
        if self.task is not None:
            return self.task.cancel(msg)
        self.cancels += 1
        return True

    def abandon(self) -> None:
        """Close the handler where it waits and end its Task; `done` is not called for it any more."""
        self.abandoned = True
        self.cancel()

    def done(self) -> bool:
        """True if the handler has suspended, and has ended since."""
        return self.task is not None and self.task.done()


class StandIn(Stepped, eq=False, weakref=True, kw_only=True):
    """Stands in for the Task of a turn in every step of its handler. Its methods are those of a Task."""

    coro: Coroutine[Any, Any, Any] | None = None
    _callbacks: list[tuple[Callable[[Any], object], Context | None]] | None = None  # before there was a Task

    def goes_on_as(self, task: asyncio.Task[Any]) -> None:
        """It has suspended: `task` makes the steps after the first."""
        self.task = task
        for callback, context in self._callbacks or ():
            task.add_done_callback(callback, context=context)
        for _ in range(self.cancels):
            task.cancel()

    def ended_at_once(self, loop: asyncio.AbstractEventLoop) -> None:
        """It has ended and never suspended."""
        for callback, context in self._callbacks or ():
            loop.call_soon(callback, self, context=context)

    # What a Task has

    def cancelling(self) -> int:
        return self.cancels if self.task is None else self.task.cancelling()

    def uncancel(self) -> int:
        if self.task is not None:
            return self.task.uncancel()
        self.cancels = max(self.cancels - 1, 0)
        return self.cancels

    def cancelled(self) -> bool:
        return self.task is not None and self.task.cancelled()

    def result(self) -> Any:
        return self._after_its_end().result()

    def exception(self) -> BaseException | None:
        return self._after_its_end().exception()

    def set_result(self, result: object) -> None:
        raise RuntimeError("Task does not support set_result operation")

    def set_exception(self, exception: object) -> None:
        raise RuntimeError("Task does not support set_exception operation")

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        if self.task is not None:
            self.task.add_done_callback(fn, context=context)
        else:
            self._callbacks = [*(self._callbacks or ()), (fn, context)]

    def remove_done_callback(self, fn: Callable[[Any], object], /) -> int:
        if self.task is not None:
            return self.task.remove_done_callback(fn)
        before = self._callbacks or []
        self._callbacks = [each for each in before if each[0] != fn]
        return len(before) - len(self._callbacks)

    def get_coro(self) -> Coroutine[Any, Any, Any] | None:
        return self.coro

    def get_name(self) -> str:
        return "turn" if self.task is None else self.task.get_name()

    def set_name(self, value: object, /) -> None:
        if self.task is not None:
            self.task.set_name(value)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def get_stack(self, *, limit: int | None = None) -> list[Any]:
        return [] if self.task is None else self.task.get_stack(limit=limit)

    def print_stack(self, *, limit: int | None = None, file: TextIO | None = None) -> None:
        if self.task is not None:
            self.task.print_stack(limit=limit, file=file)

    # read by anyio's cancel scopes

    @property
    def _fut_waiter(self) -> Any:
        return None if self.task is None else self.task._fut_waiter  # type: ignore[attr-defined]  # of the C Task

    @property
    def _must_cancel(self) -> bool:
        return self.cancels > 0 if self.task is None else self.task._must_cancel  # type: ignore[attr-defined]  # as above

    def _after_its_end(self) -> asyncio.Task[Any]:
        if self.task is None:
            raise asyncio.InvalidStateError("Result is not set.")
        return self.task


def abandon_all(turns: Iterable[Stepped]) -> None:
    """Abandon those that still run."""
    for turn in list(turns):
        turn.abandon()
