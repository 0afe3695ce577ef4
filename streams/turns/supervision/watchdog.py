"""The watchdog: ends turns that do not return the thread. A handler that loops
forever must not stop its process.

The kernel sends a signal a few times per `step_s`; its handler runs in the main thread, between two bytecodes
of the code that is running there. It marks the current step (`inline_task.now`); any other step, and the end
of a step, removes the mark. So a turn pays nothing for supervision, and a process that was stopped for a
while is not mistaken for one that hangs.

Laws [test_watchdog.py, test_runaways.py]
- Only code of a turn is interrupted: handlers and what they call, never the owner's own code below or above
  it. A turn that was interrupted fails with `Runaway`, even if its handler caught the interruption.
- A call into C that does not check for signals cannot be interrupted. After `hold_s` it ends the process,
  with all stacks on stderr: by a thread if the call released Python's lock; otherwise, on Linux, by a timer
  on the main thread's CPU time. A call that holds the lock and uses no CPU is not noticed.
- The watchdog is off where signals do not work: outside the main thread, and where other code uses SIGALRM.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import math
import os
import signal
import sys
import threading
import time
from contextvars import Context
from types import FrameType
from typing import Any

from perdure.objects.overlay import current_turn
from perdure.schemas.errors import Runaway
from perdure.streams.turns import inline_task
from perdure.streams.turns.activation import Turn
from perdure.streams.turns.supervision.crash_marker import place_of

EXIT_HELD = 70
LOOKS = 10  # of the thread, per hold_s
RETRY_S = 0.001  # after a tick in code that must not be interrupted
_SEEN = 1 << 61
_OWNERS_ROOMS = ("perdure.streams.", "perdure.api.")
_LOOPS = frozenset(("asyncio.base_events", "asyncio.events", "asyncio.runners"))


class Interrupted(BaseException):
    """Raised into a handler that does not let go. Not an `Exception`, so that few
    handlers catch it by accident.
    """


class Watchdog:
    """Watches the turns of this process's main thread from `start` to `stop`.

    Times in seconds: `step_s` without awaiting interrupts a handler, `hold_s` in one call ends the process.
    """

    def __init__(self, *, step_s: float, hold_s: float) -> None:
        self.step_s = step_s
        self.hold_s = hold_s
        self._tick_s = min(step_s / 4, hold_s / (2 * LOOKS))
        self._limit = math.ceil(step_s / self._tick_s)  # ticks
        self._ticks = 0
        self._seen = 0  # ticks since the running step was marked
        self._child: asyncio.Task[Any] | None = None
        self._again = False
        self._retries = 0  # in a row
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._timer: _CpuTimer | None = None
        self._loop = asyncio.get_running_loop()

    def start(self) -> bool:
        """Start; True if turns are watched from now on."""
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
            return False
        if signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:
            return False
        signal.signal(signal.SIGALRM, self._tick)
        self._timer = _CpuTimer.made(self.hold_s)
        self._thread = threading.Thread(target=self._look_on, name="perdure-watchdog", daemon=True)
        self._thread.start()
        signal.setitimer(signal.ITIMER_REAL, self._tick_s, self._tick_s)
        return True

    def stop(self) -> None:
        """Stop; no effect if turns are not watched."""
        if self._thread is None:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        if self._timer is not None:
            self._timer.close()
        self._stop.set()
        self._thread.join()
        self._thread = None

    # In the main thread, between two bytecodes

    def _tick(self, signal_number: int, frame: FrameType | None) -> None:
        self._ticks += 1
        if self._timer is not None:
            self._timer.restart()
        again, self._again = self._again, False
        if not self._same_step(again):
            self._seen = 0
        elif not again:
            self._seen += 1
        if self._seen < self._limit:
            return
        self._retries = self._retries + 1 if again else 0
        if self._seen * self._tick_s + self._retries * RETRY_S >= self.step_s + self.hold_s:
            self._end("was interrupted again and again, and did not stop")
        if _is_turns_code(frame):
            text = f"it ran for {self.step_s:g} s without awaiting, and was interrupted"
            turn = current_turn.get(None)
            if isinstance(turn, Turn):
                turn.cut = Runaway(text)
            raise Interrupted(text)
        self._again = True
        signal.setitimer(signal.ITIMER_REAL, RETRY_S, self._tick_s)

    def _same_step(self, again: bool) -> bool:
        """True if the current step already ran at the last tick. Marks it."""
        page = inline_task.now()
        word = page[0]
        if word:
            self._child = None
            page[0] = word | _SEEN
            return bool(word & _SEEN)
        # a Task that a handler started is stepped by the loop itself
        task = asyncio.current_task(self._loop) if current_turn.get(None) is not None else None
        if task is None:
            return False
        if task is self._child:
            return True
        self._child = task
        self._loop.call_soon(self._loop_went_on, context=Context())
        return False

    def _loop_went_on(self) -> None:
        self._child = None

    # Beside it

    def _look_on(self) -> None:
        """End the process if the same turn runs at each look, and no tick has arrived since the first."""
        last, held = (0, 0), 0
        while not self._stop.wait(self.hold_s / LOOKS):
            look = (self._ticks, inline_task.now()[0])
            held = held + 1 if look == last and look[1] else 0
            last = look
            if held >= LOOKS:
                self._end("holds on in one call, which cannot be interrupted")

    def _end(self, what: str) -> None:
        word = inline_task.now()[0] & ~_SEEN
        who = "command {}:{}".format(*place_of(word)) if word else "a Task that a handler started"
        os.write(2, f"perdure: {who} {what}: the process ends\n".encode())
        faulthandler.dump_traceback(2, all_threads=True)
        os._exit(EXIT_HELD)


def _is_turns_code(frame: FrameType | None) -> bool:
    """True if the frame belongs to a turn, with no code of an owner between it and the step."""
    if frame is None or frame.f_code in inline_task.STEPS:
        return False
    while frame is not None and frame.f_code not in inline_task.STEPS:
        module = frame.f_globals.get("__name__", "")
        if module in _LOOPS:
            break
        if module.startswith(_OWNERS_ROOMS) and frame.f_code not in inline_task.USER_CODE:
            return False
        frame = frame.f_back
    return True


class _CpuTimer:
    """A timer on this thread's CPU time. Its signal, SIGVTALRM, prints all stacks and ends the process."""

    def __init__(self, libc: Any, timer: ctypes.c_void_p, seconds: float) -> None:
        self._libc = libc
        self._timer = timer
        whole = int(seconds)
        self._after = (ctypes.c_long * 4)(0, 0, whole, int((seconds - whole) * 1e9))  # struct itimerspec
        faulthandler.register(signal.SIGVTALRM, file=2, all_threads=True, chain=True)
        self.restart()

    @classmethod
    def made(cls, seconds: float) -> _CpuTimer | None:
        """None where there is no such timer."""
        if sys.platform != "linux":
            return None
        libc, timer = ctypes.CDLL(None), ctypes.c_void_p()
        # struct sigevent: what to carry along, the signal, SIGEV_SIGNAL, and room
        event = (ctypes.c_int * 16)(0, 0, signal.SIGVTALRM, 0)
        clock = time.pthread_getcpuclockid(threading.get_ident())
        try:
            failed = libc.timer_create(clock, event, ctypes.byref(timer))
        except AttributeError:
            return None
        return None if failed else cls(libc, timer, seconds)

    def restart(self) -> None:
        """Count from now."""
        self._libc.timer_settime(self._timer, 0, self._after, None)

    def close(self) -> None:
        self._libc.timer_delete(self._timer)
        faulthandler.unregister(signal.SIGVTALRM)
