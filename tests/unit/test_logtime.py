"""Log time: what an owner makes of stamps and clocks, of which any may be wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from perdure.schemas.commands import Command
from perdure.streams.log.base import LogRecord
from perdure.streams.log.log_time import SKEW_MS, LogTime, log_time

HOUR_MS = 3_600_000
YEAR_MS = 365 * 24 * HOUR_MS
NOW_MS = 1_700_000_000_000
TIMES = st.integers(NOW_MS - 2 * YEAR_MS, NOW_MS + 2 * YEAR_MS)


class Clock:
    """A wall clock that is set by hand."""

    def __init__(self) -> None:
        self.ms = NOW_MS

    def __call__(self) -> int:
        return self.ms


def read(time: LogTime, *stamps_ms: int, offset: int = 0) -> list[int]:
    """The log times of records with these stamps."""
    records = [LogRecord(at, stamp_ms, b"key", b"value") for at, stamp_ms in enumerate(stamps_ms, offset)]
    return [time.read(record).time_ms for record in records]


def story(told: Callable[[Clock, LogTime], Awaitable[None]]) -> None:
    """Tell it of a partition that begins on an empty journal."""

    async def main() -> None:
        clock = Clock()
        time = LogTime(3, clock, "node")
        time.begin(-1, 0)
        await told(clock, time)

    asyncio.run(main())


@given(TIMES, TIMES, TIMES)
def test_log_time_is_never_far_ahead_of_the_clock_and_falls_only_if_it_was(
    before_ms: int, stamp_ms: int, clock_ms: int
) -> None:
    """Whatever the stamp, the clock and the time before."""
    time_ms = log_time(before_ms, stamp_ms, clock_ms)
    assert time_ms <= clock_ms + SKEW_MS
    assert time_ms >= before_ms or before_ms > clock_ms + SKEW_MS
    assert time_ms in (before_ms, stamp_ms, clock_ms + SKEW_MS)


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_random_jumps_of_both_clocks_never_hold_log_time_up(seed: int) -> None:
    """Stamps and the owner's clock jump by anything up to a year; once both are
    right, log time is, within the skew.
    """
    random = Random(seed)

    async def told(clock: Clock, time: LogTime) -> None:
        true_ms, before_ms, offset = NOW_MS, 0, 0
        for _ in range(30):
            true_ms += random.randrange(5 * HOUR_MS)
            clock.ms = true_ms + random.choice(
                (0, 0, -YEAR_MS, YEAR_MS, 25 * HOUR_MS, random.randrange(SKEW_MS))
            )
            stamp_ms = true_ms + random.choice((0, 0, -YEAR_MS, YEAR_MS, 25 * HOUR_MS, -90_000))
            (time_ms,) = read(time, stamp_ms, offset=offset)
            assert time_ms <= clock.ms + SKEW_MS
            assert time_ms >= before_ms or before_ms > clock.ms + SKEW_MS
            before_ms, offset = time_ms, offset + 1
            if random.random() < 0.2:  # another reign, which knows what the journal says
                time.begin(offset - 1, time_ms)
        clock.ms = true_ms + 1
        (time_ms,) = read(time, true_ms + 1, offset=offset)
        assert abs(time_ms - clock.ms) <= SKEW_MS

    story(told)


def test_a_bad_stamp_is_bounded_and_said() -> None:
    """One record a year ahead: log time is a minute ahead, and stands still until
    the stamps have come up to it.
    """

    async def told(clock: Clock, time: LogTime) -> None:
        with capture_logs() as lines:
            stamps_ms = [NOW_MS, NOW_MS + YEAR_MS, NOW_MS + 5, NOW_MS + SKEW_MS + 7]
            assert read(time, *stamps_ms) == [NOW_MS, NOW_MS + SKEW_MS, NOW_MS + SKEW_MS, NOW_MS + SKEW_MS]
        (line,) = lines
        assert (line["log_level"], line["partition"], line["offset"]) == ("warning", 3, 1)
        assert (line["stamp_ms"], line["clock_ms"]) == (NOW_MS + YEAR_MS, NOW_MS)
        assert line["bound_ms"] == NOW_MS + SKEW_MS
        assert time.corrected == 2

    story(told)


def test_log_time_of_a_wrong_clock_steps_back_once_the_clock_is_right() -> None:
    """Also if the journal of an earlier start says so. It is said, and counted."""

    async def told(clock: Clock, time: LogTime) -> None:
        time.begin(0, NOW_MS + YEAR_MS)
        with capture_logs() as lines:
            assert read(time, NOW_MS, NOW_MS + 1, offset=1) == [NOW_MS, NOW_MS + 1]
        (line,) = lines
        assert line["log_time_ms"] == NOW_MS + YEAR_MS
        assert time.corrected == 1

    story(told)


def test_what_runs_again_has_the_time_of_its_stamp() -> None:
    """As it had before, though later commands have entries; what comes behind those
    does not fall below them.
    """

    async def told(clock: Clock, time: LogTime) -> None:
        clock.ms += HOUR_MS
        time.begin(5, NOW_MS + 50)
        assert read(time, NOW_MS + 3, NOW_MS + 4, offset=3) == [NOW_MS + 3, NOW_MS + 4]
        assert read(time, NOW_MS + 40, NOW_MS + 60, offset=6) == [NOW_MS + 50, NOW_MS + 60]

    story(told)


def test_the_same_is_said_once_a_minute() -> None:
    """However often it happens; all of it is counted."""

    async def told(clock: Clock, time: LogTime) -> None:
        with capture_logs() as lines:
            read(time, *[NOW_MS + YEAR_MS] * 1000)
        assert len(lines) == 1
        assert time.corrected == 1000

    story(told)


def waited(time: LogTime, stamp_ms: int, id_: str = "", deadline_ms: int = 30_000) -> float:
    """How much of a command's deadline had passed when it was read."""
    read(time, stamp_ms, offset=9)
    until_s = time.until_s(Command("A/a", "call", "m", id=id_, deadline_ms=deadline_ms))
    assert until_s is not None
    return deadline_ms / 1000 - (until_s - asyncio.get_running_loop().time())


@pytest.mark.parametrize("behind_ms", [0, 500, 5_000, HOUR_MS, YEAR_MS])
def test_a_command_of_this_nodes_door_is_as_old_as_this_nodes_clock_says(behind_ms: int) -> None:
    """However far the clock that stamps is behind; the commands of others are
    judged by what that has shown.
    """

    async def told(clock: Clock, time: LogTime) -> None:
        with capture_logs() as lines:
            mine = f"3-{clock.ms - 2_000:x}-node-1f"
            known_s = waited(time, clock.ms - 2_000 - behind_ms, mine)
            others_s = waited(time, clock.ms - 4_000 - behind_ms, "3-1-other-1")
        assert known_s == pytest.approx(2, abs=0.01)
        assert others_s == pytest.approx(4 if behind_ms > SKEW_MS else 4 + behind_ms / 1000, abs=0.01)
        said = [line for line in lines if "synchronize" in line["event"]]
        assert len(said) == (behind_ms > SKEW_MS)
        if said:
            assert said[0]["behind_ms"] == behind_ms

    story(told)


def test_a_command_that_is_read_too_late_is_said() -> None:
    """With the stamp and the clock, since that is also what clocks that differ look like."""

    async def told(clock: Clock, time: LogTime) -> None:
        with capture_logs() as lines:
            assert waited(time, NOW_MS - HOUR_MS) == pytest.approx(3600, abs=0.01)
        (line,) = lines
        assert (line["stamp_ms"], line["clock_ms"], line["deadline_ms"]) == (NOW_MS - HOUR_MS, NOW_MS, 30_000)

    story(told)


@pytest.mark.parametrize("id_", ["", "-node-", "x-node-1", "3-zz-node-1", "3--node-1", "é-node-é"])
def test_an_id_that_is_none_of_this_nodes_says_nothing(id_: str) -> None:
    """Ids are a client's to choose on Kafka."""

    async def told(clock: Clock, time: LogTime) -> None:
        assert waited(time, NOW_MS - 5_000, id_) == pytest.approx(5, abs=0.01)

    story(told)


def test_a_stamp_ahead_of_the_clock_gives_no_more_time_than_there_is() -> None:
    """The deadline begins when the command is read."""

    async def told(clock: Clock, time: LogTime) -> None:
        assert waited(time, NOW_MS + YEAR_MS) == pytest.approx(0, abs=0.01)

    story(told)
