"""Where a time begins: never too late, whatever has no stamp or a wrong one, and by reading few records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.streams.log import time_search
from perdure.streams.log.base import Log, LogRecord, Stamped, Topic
from perdure.streams.log.time_search import NEAR, first_since

LATEST_MS = 1_000
WRONG_MS = 1_000_000


class Stamps:
    """A partition of which only the stamps matter; None: an offset without a record."""

    def __init__(self, times_ms: Sequence[int | None], *, exclusive: bool) -> None:
        self.times_ms = times_ms
        self.exclusive = exclusive
        self.read_records = 0

    async def read(
        self, topic: Topic, partition: int, start: int, end: int
    ) -> AsyncIterator[Sequence[LogRecord]]:
        found = [
            LogRecord(at, time_ms, None, None)
            for at, time_ms in enumerate(self.times_ms[start:end], start)
            if time_ms is not None
        ]
        self.read_records += len(found)
        if found:
            yield found

    async def since(self, topic: Topic, partition: int, time_ms: int) -> Stamped | None:
        for at, each in enumerate(self.times_ms):
            if each is not None and each >= time_ms:
                return Stamped(at, each)
        return None


def found_at(stamps: Stamps, time_ms: int, took: Any = time_search._free) -> int:
    log = cast(Log, stamps)
    end = len(stamps.times_ms)
    return asyncio.run(first_since(log, Topic.COMMANDS, 0, 0, end, time_ms, LATEST_MS, took))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(("true", "true", "wrong", "gap"))), max_size=60),
    st.integers(0, 60),
    st.booleans(),
    st.integers(1, 4),
)
def test_no_record_that_is_young_enough_lies_before_what_is_found(
    steps: list[tuple[int, str]], time_ms: int, exclusive: bool, near: int
) -> None:
    """Whatever is stamped a year ahead or missing; and without those it is the first one exactly."""
    times_ms: list[int | None] = []
    now_ms = 0
    for step_ms, what in steps:
        now_ms += step_ms
        times_ms.append({"true": now_ms, "wrong": WRONG_MS, "gap": None}[what])
    young = [at for at, each in enumerate(times_ms) if each is not None and time_ms <= each <= LATEST_MS]
    first = young[0] if young else len(times_ms)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(time_search, "NEAR", near)
        at = found_at(Stamps(times_ms, exclusive=exclusive), time_ms)
    assert at <= first
    if all(what == "true" for _, what in steps):
        assert at == first


def test_a_long_stretch_of_wrong_stamps_is_passed_by_reading_few() -> None:
    """An hour of a broker's wrong clock between two of a right one: on both logs,
    and each read is counted.
    """
    times_ms = [*range(100), *[WRONG_MS] * 20_000, *range(100, 200), *[200] * 30_000, *[300] * 30_000]
    for exclusive in (False, True):
        stamps, counted = Stamps(times_ms, exclusive=exclusive), 0

        async def took(records: int) -> None:
            nonlocal counted
            counted += records

        assert found_at(stamps, 50, took) == 50
        assert found_at(stamps, 300, took) == len(times_ms) - 30_000
        assert counted == stamps.read_records <= 60 * NEAR
