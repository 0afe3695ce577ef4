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

from perdure.schemas.errors import LogUnreachable, OutcomeUnknown, Unavailable
from perdure.streams.log.base import Topic
from perdure.streams.log.log_time import SKEW_MS
from perdure.streams.log.time_search import first_since
from perdure.streams.owner.owner import Owner
from perdure.streams.state.fold import write_out
from perdure.streams.store.base import Store
from perdure.streams.turns.ports import OwnerState

WRITE_EVERY_S = 0.5
FLUSH_EVERY_S = 2.0
FLUSH_EVERY_RECORDS = 100_000
TRIM_EVERY_S = 60.0


class Maintenance:
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

    async def flush_forever(self) -> None:
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
        low = min(owner.tables.meta.low, owner.output.commands.mark)
        for topic, end in ((Topic.COMMANDS, low), (Topic.REPLIES, None)):
            bounds = await log.bounds(topic, partition)
            until = bounds.end if end is None else end
            before = await first_since(
                log, topic, partition, bounds.start, until, cutoff_ms, now_ms + SKEW_MS
            )
            if before > bounds.start:
                await log.trim(topic, partition, before)
