"""Keeps the store behind the journal: writes folded pieces lazily, flushes, trims what nobody needs.

Laws
- A failing store stops the node's partitions with its name; it is never retried behind their back.
- Flushes come every 2 s or 100,000 records, so a replay after a crash stays short.
- A log that does not answer is trimmed later; that alone stops nobody.
- Commands and replies go when they are older than 24 h of log time and, for commands, below the low mark.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import aclosing

from perdure.schemas.errors import LogUnreachable, OutcomeUnknown, Unavailable
from perdure.streams.folding import write_out
from perdure.streams.log import Log, LogRecord, Topic
from perdure.streams.logtime import SKEW_MS
from perdure.streams.owner import Owner
from perdure.streams.owning import OwnerState
from perdure.streams.store import Store

WRITE_EVERY_S = 0.5
FLUSH_EVERY_S = 2.0
FLUSH_EVERY_RECORDS = 100_000
TRIM_EVERY_S = 60.0


class Keeper:
    """Writes, flushes and trims for all partitions of a node."""

    def __init__(
        self,
        store: Store,
        owners: Iterable[Owner],
        *,
        clock_ms: Callable[[], int],
        keep_ms: int | None,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._store = store
        self._owners = list(owners)
        self._clock_ms = clock_ms
        self._keep_ms = keep_ms
        self._failed = failed
        self._written = 0

    async def write_all(self) -> None:
        """Write everything folded so far, in pieces between which the loop goes on."""
        for owner in self._owners:
            tables = owner.tables
            self._written += tables.info.unwritten
            await write_out(tables)

    async def flush(self) -> None:
        """Make what was written survive."""
        self._written = 0
        await asyncio.get_running_loop().run_in_executor(None, self._store.flush)

    async def keep(self) -> None:
        """Run until cancelled."""
        loop = asyncio.get_running_loop()
        flushed_at = loop.time()
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            try:
                await self.write_all()
                due = loop.time() - flushed_at >= FLUSH_EVERY_S
                if self._written and (due or self._written >= FLUSH_EVERY_RECORDS):
                    await self.flush()
                    flushed_at = loop.time()
            except Exception as error:  # noqa: BLE001 - whatever keeps the store from being written stops the node
                self._failed(error)
                return

    async def trim_forever(self) -> None:
        """Trim once a minute until cancelled."""
        while self._keep_ms is not None:
            await asyncio.sleep(TRIM_EVERY_S)
            for owner in self._owners:
                if owner.state is not OwnerState.SERVING:
                    continue
                try:
                    await self.trim(owner)
                except (LogUnreachable, OutcomeUnknown, Unavailable):
                    break  # the log does not answer: what could go can go a minute later

    async def trim(self, owner: Owner) -> None:
        """Trim one partition's commands and replies."""
        assert self._keep_ms is not None
        now_ms = self._clock_ms()
        cutoff_ms = now_ms - self._keep_ms
        log, partition = owner.log, owner.partition
        low = min(owner.tables.meta.low, owner.release.commands.mark)
        for topic, end in ((Topic.COMMANDS, low), (Topic.REPLIES, None)):
            bounds = await log.bounds(topic, partition)
            until = bounds.end if end is None else end
            before = await first_since(
                log, topic, partition, bounds.start, until, cutoff_ms, now_ms + SKEW_MS
            )
            if before > bounds.start:
                await log.trim(topic, partition, before)


async def first_since(
    log: Log, topic: Topic, partition: int, start: int, end: int, time_ms: int, latest_ms: int = 1 << 62
) -> int:
    """The first offset in start..end whose record is not older than `time_ms`.

    A stamp above `latest_ms` was made by a wrong clock and says nothing: the next one that does speaks for its record.
    """
    if not log.exclusive and start < end:  # brokers have an index by time
        indexed = await log.since(topic, partition, time_ms)
        if indexed is None:
            return end
        if indexed.time_ms <= latest_ms:
            return min(max(indexed.offset, start), end)
    low, high = start, end
    while low < high:
        middle = (low + high) // 2
        found = None
        async for chunk in log.read(topic, partition, middle, min(middle + 1, end)):
            found = chunk[0] if chunk else found
        if found is not None and found.time_ms > latest_ms:
            found = await _first_true(log, topic, partition, found, end, latest_ms)
        if found is None or found.time_ms < time_ms:
            low = (
                middle if found is None else found.offset
            ) + 1  # a gap counts as old: there is nothing to keep
        else:
            high = middle
    return low


async def _first_true(
    log: Log, topic: Topic, partition: int, wrong: LogRecord, end: int, latest_ms: int
) -> LogRecord:
    """The first record behind `wrong` whose stamp may be true; `wrong` itself if there is none."""
    async with aclosing(log.read(topic, partition, wrong.offset + 1, end)) as chunks:  # type: ignore[type-var]  # all are generators
        async for chunk in chunks:
            for record in chunk:
                if record.time_ms <= latest_ms:
                    return record
    return wrong
