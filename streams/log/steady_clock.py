"""The wall clock, but for jumps that do not last.

Laws
- A jump is a change of the wall clock against the time that has passed since the machine started, of more
  than `SKEW_MS` at once. It is taken for true when it has lasted for `HOLD_MS`; until then time goes on at
  its previous pace.
- What the clock is when the process starts is true: there is nothing to hold it against.
- Each jump is said, when it is seen and when it is followed or over. [all: test_steady_clock.py]
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from perdure.streams.log.log_time import SKEW_MS

HOLD_MS = 60_000
_logger = structlog.get_logger(__name__)
_MS = 1_000_000  # ns
_SKEW_NS = SKEW_MS * _MS
_HOLD_NS = HOLD_MS * _MS
_UNKNOWN = 1 << 100
# on Linux it includes the time in which the machine sleeps, so that a sleep is not a jump
_PASSING = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _passed_ns() -> int:
    return time.clock_gettime_ns(_PASSING)


class SteadyClock:
    """A clock of ms since 1970. `wall_ns` may jump, `passed_ns` does not."""

    def __init__(
        self, wall_ns: Callable[[], int] = time.time_ns, passed_ns: Callable[[], int] = _passed_ns
    ) -> None:
        self._wall_ns = wall_ns
        self._passed_ns = passed_ns
        self._last_ns = _UNKNOWN
        self._began_ns = wall_ns() - passed_ns()  # by the wall clock, when the time that has passed was 0
        self._jump_ns = 0  # how far the clock has jumped, if that is held
        self._since_ns = 0

    def ms(self) -> int:
        """The time now, in ms since 1970."""
        now_ns = self._wall_ns  # in two steps: a call of an attribute that is not a method is slow
        wall_ns = now_ns()
        if 0 <= wall_ns - self._last_ns <= _SKEW_NS:  # no jump, whatever has passed
            self._last_ns = wall_ns
            return wall_ns // _MS
        return self._check(wall_ns)

    def _check(self, wall_ns: int) -> int:
        passed_ns = self._passed_ns()
        ahead_ns = wall_ns - passed_ns - self._began_ns
        if -_SKEW_NS <= ahead_ns <= _SKEW_NS:
            self._began_ns += ahead_ns
            self._last_ns = wall_ns
            if self._jump_ns:
                self._jump_ns = 0
                _logger.warning("the wall clock is back: it had jumped for a moment")
            return wall_ns // _MS
        return self._jumped(ahead_ns, passed_ns)

    def _jumped(self, ahead_ns: int, passed_ns: int) -> int:
        if abs(ahead_ns - self._jump_ns) > _SKEW_NS:
            self._jump_ns, self._since_ns, self._last_ns = ahead_ns, passed_ns, _UNKNOWN
            _logger.warning(
                "the wall clock jumped: time goes on as before until that has lasted for a minute",
                jumped_ms=ahead_ns // _MS,
            )
        elif passed_ns - self._since_ns >= _HOLD_NS:
            self._began_ns += ahead_ns
            self._jump_ns = 0
            _logger.warning(
                "the jump of the wall clock has lasted: it is followed", jumped_ms=ahead_ns // _MS
            )
        return (self._began_ns + passed_ns) // _MS
