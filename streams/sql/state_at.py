"""The tables of all partitions as of now, or as of an earlier time: perdure's own fold, in memory.

As of now it begins with the rows that a node has flushed to its store, and folds the rest of the journal over
them in memory. As of a time it folds the journal from its start, as far as the log time goes.

Law: the store of the node is only read. [test_sql.py]
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from perdure.schemas.errors import LogCorrupt, StorageFailed, StoreCorrupt
from perdure.schemas.journal import EntryRecord, decode_record
from perdure.streams.audit.reader import SLACK_MS, AuditLog
from perdure.streams.log.base import LogRecord, Topic
from perdure.streams.state.fold import fold
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore
from perdure.streams.store.rocks import RocksReading


@asynccontextmanager
async def tables_at(log: AuditLog, state: Path | None, at_ms: int | None) -> AsyncIterator[list[Tables]]:
    """The tables of all partitions.

    log: the app's log.
    state: where a node's store lies; None if there is none here.
    at_ms: as of this log time; None: as of now.

    Raises `LogCorrupt` if the journal was trimmed and there is no store to begin with.
    """
    async with AsyncExitStack() as opened:
        store = None
        if at_ms is None and state is not None:
            with contextlib.suppress(StorageFailed, StoreCorrupt):  # then the journal is folded
                store = RocksReading(state)
                opened.callback(store.close)
        yield [await _partition(log, store, each, at_ms) for each in range(log.partitions)]


async def _partition(log: AuditLog, store: RocksReading | None, partition: int, at_ms: int | None) -> Tables:
    start, end = await log.bounds(Topic.JOURNAL, partition)
    if store is not None:
        with contextlib.suppress(StorageFailed, StoreCorrupt):  # a step that deletes a namespace must write
            tables = Tables(store, partition, exclusive=log.log.exclusive)
            if start <= tables.reader.offset <= end and tables.reader.offset:
                await _fold_over(log, tables, end)
                return tables
    if start > 0:
        raise LogCorrupt(
            f"the journal of partition {partition} begins at offset {start}, as it was trimmed (keep_journal), and no "
            "state to begin with can be read here: ask a server that has the partition, or ask as of now"
        )
    tables = Tables(MemoryStore(), partition, exclusive=log.log.exclusive)
    if at_ms is None:
        await fold(log.log, tables, end)
        return tables
    near = min(end, await log.offset_at(Topic.JOURNAL, partition, at_ms - SLACK_MS))
    await fold(log.log, tables, near)
    async for chunk in log.log.read(Topic.JOURNAL, partition, near, end):
        for record in chunk:
            if _is_later(record, at_ms):
                return tables
            tables.apply(record.offset, record.value)
    return tables


async def _fold_over(log: AuditLog, tables: Tables, end: int) -> None:
    """Fold the rest of the journal in memory; nothing is written to the store."""
    async for chunk in log.log.read(Topic.JOURNAL, tables.partition, tables.reader.offset, end):
        for record in chunk:
            tables.apply(record.offset, record.value)


def _is_later(record: LogRecord, at_ms: int) -> bool:
    """True if it is the entry of a turn after `at_ms`."""
    decoded = decode_record(record.value)
    return isinstance(decoded, EntryRecord) and decoded.entry.time_ms > at_ms
