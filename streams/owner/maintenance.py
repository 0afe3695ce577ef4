"""Maintenance: writes folded rows to the store lazily, flushes it, and trims old records of the log.

One instance works for all owners of a node, in two background tasks.

Laws
- A failing store stops the node's partitions and is named; writing is never retried silently.
  [test_ending.py]
- Flushes happen every 2 s or 100,000 records, so a replay after a crash stays short.
- A log that does not answer is trimmed later, beginning with the next partition; that alone stops no
  partition, and no turn, drain or stop waits for it.
  [test_a_log_that_does_not_answer_is_trimmed_a_minute_later]
- Each flush leaves a mark of how far each journal is acknowledged, on a log that other nodes share
  (journal/end_marks.py). [test_a_mark_is_left_where_a_journal_ends]
- Commands and replies are trimmed when they are older than 24 h of log time and, for commands, below the low
  watermark. [test_only_commands_that_are_old_and_done_are_trimmed]
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from perdure.schemas.errors import LogUnreachable, OutcomeUnknown, Unavailable
from perdure.streams.journal.end_marks import append_mark
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
    """The background writer, flusher and trimmer of all partitions of a node.

    store: the store of all of them.
    owners: their owners.
    clock_ms: the wall clock, in ms since 1970.
    keep_ms: how long commands and replies are kept; None: forever.
    failed: called with an error of the store or the log, which stops the node.
    """

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
        self._marked: dict[Owner, tuple[int, int]] = {}  # which end of the journal, and when

    async def write_all(self) -> None:
        """Write everything folded so far, in pieces between which the event loop runs."""
        for owner in self._owners:
            tables = owner.tables
            self._written += tables.info.unwritten
            await write_out(tables)

    async def flush(self) -> None:
        """Make everything written so far survive a crash."""
        self._written = 0
        for owner in self._owners:
            self.mark(owner)
        await asyncio.get_running_loop().run_in_executor(None, self._store.flush)

    async def save(self) -> None:
        """Write and flush everything folded so far."""
        await self.write_all()
        await self.flush()

    async def flush_forever(self) -> None:
        """Write every `WRITE_EVERY_S` and flush as the laws say, until cancelled."""
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

    def mark(self, owner: Owner) -> None:
        """Leave a mark of the journal's end, if it has moved or the last mark will be trimmed some time."""
        if owner.log.exclusive or owner.state is not OwnerState.SERVING:
            return
        end, now_ms = owner.tables.reader.offset, self._clock_ms()
        marked, marked_ms = self._marked.get(owner, (0, 0))
        if end != marked or (self._keep_ms is not None and now_ms - marked_ms > self._keep_ms // 2):
            append_mark(owner.log, owner.partition, end)
            self._marked[owner] = end, now_ms

    async def trim_forever(self) -> None:
        """Trim once a minute until cancelled."""
        due = deque(self._owners)
        while self._keep_ms is not None:
            await asyncio.sleep(TRIM_EVERY_S)
            for _ in range(len(due)):
                owner = due[0]
                due.rotate(-1)
                if owner.state is not OwnerState.SERVING:
                    continue
                try:
                    await self.trim(owner)
                except (LogUnreachable, OutcomeUnknown, Unavailable):
                    break  # the log does not answer: try the next partition a minute later

    async def trim(self, owner: Owner) -> None:
        """Trim one partition's commands and replies."""
        assert self._keep_ms is not None
        self.mark(owner)
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
