"""The wall clock, but for jumps that do not last."""

from __future__ import annotations

import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from perdure.streams.log.steady_clock import HOLD_MS, SKEW_MS, SteadyClock

MS = 1_000_000
YEAR_MS = 365 * 24 * 3_600_000
NOW_MS = 1_700_000_000_000


class Times:
    """A wall clock with a skew, and the time that has passed."""

    def __init__(self) -> None:
        self.passed_ms, self.skew_ms = 5_000, 0
        self.clock = SteadyClock(
            lambda: (NOW_MS + self.passed_ms + self.skew_ms) * MS, lambda: self.passed_ms * MS
        )

    @property
    def off_ms(self) -> int:
        """How far the clock is from the true time."""
        return self.clock.ms() - NOW_MS - self.passed_ms


@pytest.mark.parametrize("jump_ms", [YEAR_MS, -YEAR_MS, SKEW_MS + 1])
def test_a_jump_that_does_not_last_does_nothing(jump_ms: int) -> None:
    """It is said when it comes, and when it is over."""
    times = Times()
    with capture_logs() as lines:
        for _ in range(3):
            times.skew_ms = jump_ms
            for _ in range(100):
                assert times.off_ms == 0
                times.passed_ms += HOLD_MS // 101
            times.skew_ms = 0
            assert times.off_ms == 0
    assert len(lines) == 6
    assert lines[0]["jumped_ms"] == jump_ms


@pytest.mark.parametrize("jump_ms", [YEAR_MS, -YEAR_MS, SKEW_MS + 1])
def test_a_jump_that_lasts_is_followed(jump_ms: int) -> None:
    """After a minute, and at once if the clock is asked again only then."""
    times = Times()
    times.skew_ms = jump_ms
    assert times.off_ms == 0
    times.passed_ms += HOLD_MS - 1
    assert times.off_ms == 0
    times.passed_ms += 1
    with capture_logs() as lines:
        times.clock.ms()
        assert times.off_ms == jump_ms
    assert [line["log_level"] for line in lines] == ["warning"]


@pytest.mark.parametrize("step_ms", [1, -1, SKEW_MS, -SKEW_MS])
def test_a_clock_that_is_set_right_by_little_is_followed_at_once(step_ms: int) -> None:
    """As often as it likes."""
    times = Times()
    for n in range(1, 5):
        times.skew_ms = n * step_ms
        assert times.off_ms == n * step_ms


def test_time_that_passed_unasked_is_no_jump() -> None:
    """A night without a command."""
    times = Times()
    times.passed_ms += YEAR_MS
    assert times.off_ms == 0


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_jumps_the_clock_is_right_a_minute_after_it_was_set_right(seed: int) -> None:
    """And never off by more than the jumps that lasted."""
    random, times = Random(seed), Times()
    lasting = {0}
    for _ in range(30):
        times.skew_ms = random.choice((0, YEAR_MS, -YEAR_MS, 90_000, random.randrange(SKEW_MS)))
        lasting.add(times.skew_ms)
        for _ in range(random.randrange(4)):
            times.passed_ms += random.randrange(HOLD_MS)
            assert any(abs(times.off_ms - each) <= SKEW_MS for each in lasting)
    times.skew_ms = 0
    times.clock.ms()
    times.passed_ms += HOLD_MS
    times.clock.ms()
    assert times.off_ms == 0


def test_it_is_the_wall_clock() -> None:
    """Of this machine."""
    assert abs(SteadyClock().ms() - time.time() * 1000) < 1000
