"""An event loop whose time is virtual: waiting costs nothing, and the same program
runs the same way each time.

Laws
- Time moves only when nothing is ready, and then straight to the next timer; or by `spend`.
- Waiting for something that no timer will bring is a deadlock, and says so.

The package looptime also moves time, but waits in real time when no timer is set: a test that waits forever
ends at a time-out, not at once.
"""

from __future__ import annotations

import asyncio
from typing import Any


class VirtualLoop(asyncio.BaseEventLoop):
    """`loop.time()` starts at 0 s. No sockets, no threads: what runs here gets
    the world through its ports.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._selector = self  # what BaseEventLoop asks to wait

    def time(self) -> float:
        return self._now_s

    def spend(self, seconds: float) -> None:
        """The code that runs takes so long: the clock moves on, and nothing else runs meanwhile."""
        self._now_s += seconds

    def select(self, timeout: float | None) -> list[Any]:
        """Wait: that is, move the clock."""
        if timeout is None:
            raise RuntimeError("deadlock: everything waits and no timer is set")
        self._now_s += timeout
        return []

    def _process_events(self, events: list[Any]) -> None:
        assert not events, "there is nothing to poll"

    def _write_to_self(self) -> None:
        """Nothing sleeps, so nothing needs to be woken."""
