"""The run queue of a node: what may run in this pass of the event loop, and what waits for a later one.

The turns of all objects, the timers and the sockets of a node share one thread. Without a bound, the commands
accepted in one pass would all run in it: 200 commands of 20 ms for one object would delay everything else by
4 s.

Laws [test_run_queue.py, test_busy_objects.py]
- While the slice of the current pass (`SLICE_S`) is not spent, a step runs at once, without a callback.
- After that, steps wait here in order of arrival. An object waits with one turn; its other commands stay in
  its mailbox. So a busy object yields to all waiting ones after each of its turns.
- After a slice the event loop runs for as many passes as the slice took ms (uvloop accepts one connection in
  each), but no longer than the slice took. In these passes new commands share one slice, and everything else,
  `/livez` included, has as much time as it needs. Then comes a slice for the waiting steps.
- A slice ends with the step that spends it, and each slice of the queue runs at
  least one step: both sides progress.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

SLICE_S = 0.005
PASS_EACH_S = 0.001
LOOKS_AFTER_S = 0.001  # spent in one pass; then the end of the pass has to be noticed


class RunQueue:
    """The queue of all turns that share an event loop. `clock` returns seconds; the loop's own by default.

    The clock must move within a step: uvloop's own does not.
    """

    __slots__ = (
        "_armed",
        "_context",
        "_fresh",
        "_loop",
        "_passes",
        "_until_s",
        "_waiting",
        "clock",
        "spent_s",
    )

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.spent_s = 0.0  # in this pass of the event loop, as far as its start was noticed
        self._waiting: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._armed = False
        self._fresh = True  # what comes new has a slice in the next pass
        self._passes = 0  # that are the event loop's before the next slice,
        self._until_s = 0.0  # but no more from then on
        loop = self._loop = asyncio.get_running_loop()
        self.clock = clock or loop.time
        self._context: Context = copy_context()  # not that of the turn that happens to put something here

    def __len__(self) -> int:
        return len(self._waiting)

    def run(self, step: Callable[[Any], None], argument: Any) -> bool:
        """Call `step(argument)` here and now if the slice is not spent; False if it is: `put` it.

        `Turns.take` has this inlined, since it runs for each command.
        """
        if self.spent_s >= SLICE_S:
            return False
        began_s = self.clock()
        step(argument)
        self.spent_s += self.clock() - began_s
        if self.spent_s >= LOOKS_AFTER_S:
            self.look()
        return True

    def look(self) -> None:
        """Arrange for the end of this pass to be noticed, and yield to the loop if the slice is spent."""
        if self.spent_s >= SLICE_S:
            self._give_way(self.clock(), self.spent_s)
        if not self._armed:
            self._arm()

    def put(self, run: Callable[[Any], None], argument: Any) -> None:
        """Call `run(argument)` when it is its turn; never from within this call."""
        self._waiting.append((run, argument))
        if not self._armed:
            self._arm()

    def _arm(self) -> None:
        self._armed = True
        self._soon(self._looped if self.spent_s >= LOOKS_AFTER_S else self._slice)

    def _soon(self, next_: Callable[[], None]) -> None:
        self._loop.call_soon(next_, context=self._context)

    def _give_way(self, now_s: float, took_s: float) -> None:
        self._passes, self._until_s = int(took_s / PASS_EACH_S), now_s + took_s

    def _looped(self) -> None:
        """A pass is over."""
        self._passes -= 1
        if self._fresh:
            self.spent_s, self._fresh = 0.0, False
        if self._passes > 0 and self.clock() < self._until_s:
            self._soon(self._looped)
            return
        self.spent_s, self._fresh = 0.0, True
        self._armed = bool(self._waiting)
        if self._armed:
            self._soon(self._slice)

    def _slice(self) -> None:
        waiting, clock = self._waiting, self.clock
        now_s = began_s = clock()
        try:
            while waiting and now_s - began_s < SLICE_S:
                run, argument = waiting.popleft()
                run(argument)
                now_s = clock()
        finally:
            self._armed = False
            ended_s = clock()
            took_s = ended_s - began_s
            # what comes later in this pass waits behind those that wait already
            self.spent_s = max(SLICE_S if waiting else 0.0, self.spent_s, took_s)
            self._give_way(ended_s, took_s)
            if waiting or self.spent_s >= LOOKS_AFTER_S:
                self._arm()
