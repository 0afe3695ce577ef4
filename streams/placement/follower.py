"""A follower folds the journal of a partition that another node serves, so that its store is warm.

It reads up to the end that the owner's heartbeats name, and no further: while nothing is written there is
nothing to read. A snapshot shortens what an empty store has to read.

Laws [test_placement.py]
- A follower only folds. When it has stopped, the tables are where its last record left them, and an owner may
  begin on them.
- What it cannot fold stops it alone; the node then does not offer itself for the partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from perdure.schemas.errors import PerdureError
from perdure.streams.log.base import Log
from perdure.streams.state.fold import fold, recall_ends
from perdure.streams.state.tables import Tables
from perdure.streams.turns.supervision.internal_faults import broken

_logger = structlog.get_logger(__name__)


class Follower:
    """The follower of one partition: folds its journal up to where it is known to end.

    `ingest(tables)` puts a snapshot into tables that have nothing, or are behind the journal's first record.
    """

    def __init__(self, log: Log, tables: Tables, ingest: Callable[[Tables], Awaitable[object]]) -> None:
        self._log = log
        self._ingest = ingest
        self._tables = tables
        self._end = 0
        self._more = asyncio.Event()
        self.failed = self._folding = False
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def offset(self) -> int:
        """The journal offset up to which the tables have the partition."""
        return self._tables.reader.offset

    def up_to(self, end: int) -> None:
        """Note that the journal reaches at least `end`."""
        if end > self._end:
            self._end = end
            self._more.set()

    async def _run(self) -> None:
        try:
            while True:
                await self._more.wait()
                self._more.clear()
                await self._ingest(self._tables)
                if not self._folding:
                    self._folding = True
                    await recall_ends(self._log, self._tables)  # so that the watermarks are those of a replay
                if self.offset < self._end:
                    await fold(self._log, self._tables, self._end)
        except Exception as error:  # noqa: BLE001 - one partition's; its owner would meet the same
            self.failed = True
            why = error if isinstance(error, PerdureError) else broken(self._tables.partition, error)
            _logger.error("a partition cannot be followed", partition=self._tables.partition, reason=str(why))

    def cancel(self) -> None:
        """Fold nothing more; what runs ends in the next steps of the loop."""
        self._task.cancel()

    async def stop(self) -> None:
        """Stop folding; returns when nothing of it runs any more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
