"""Where in a partition a time begins: from the index that brokers keep, or by a binary search.

Laws
- A stamp above `latest_ms` was made by a wrong clock and says nothing: the next one that does speaks for its
  record. So does the next record for an offset that has none. Where a long stretch says nothing the offset
  given may be too early, never too late.
- A probe of the binary search reads `NEAR` records, and where they say nothing as
  many at distances that double.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing

from perdure.streams.log.base import LogRecord, Readable, Topic

NEAR = 256  # records
Took = Callable[[int], Awaitable[None]]


async def _free(records: int) -> None:
    """Nothing bounds what is read."""


async def first_since(
    log: Readable,
    topic: Topic,
    partition: int,
    start: int,
    end: int,
    time_ms: int,
    latest_ms: int = 1 << 62,
    took: Took = _free,
) -> int:
    """The first offset in `start`..`end` whose record is not older than `time_ms`; `end` if there is none.

    Args:
        log: the log; if others write to it too, it has an index by time, which is used first.
        topic, partition: what is searched.
        start, end: the offsets between which is searched.
        time_ms: in ms since 1970.
        latest_ms: no true stamp is later.
        took: `took(records)` is awaited after each read, with the number of records read.
    """
    if not log.exclusive and start < end:
        indexed = await log.since(topic, partition, time_ms)
        if indexed is None:
            return end
        if indexed.time_ms <= latest_ms:
            return min(max(indexed.offset, start), end)
    low, high = start, end
    while low < high:
        middle = (low + high) // 2
        at, distance, record_at = middle, NEAR, None
        while record_at is None and at < high:
            record_at = await _true_one(log, topic, partition, (at, min(at + NEAR, high)), latest_ms, took)
            last = at + NEAR >= high
            at, distance = high if last else min(at + distance, high - NEAR), 2 * distance
        if record_at is None or record_at.time_ms >= time_ms:
            high = middle
        else:
            low = record_at.offset + 1
    return low


async def _true_one(
    log: Readable, topic: Topic, partition: int, span: tuple[int, int], latest_ms: int, took: Took
) -> LogRecord | None:
    """The first record of a span whose stamp may be true."""
    async with aclosing(log.read(topic, partition, *span)) as chunks:  # type: ignore[type-var]  # all are generators
        async for chunk in chunks:
            await took(len(chunk))
            for record in chunk:
                if record.time_ms <= latest_ms:
                    return record
    return None
