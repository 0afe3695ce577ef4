"""The fold of a journal outside an owner: for checks, copies, and rebuilt state."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import structlog

from perdure.schemas.errors import LogCorrupt
from perdure.schemas.journal import EntryRecord, Migration
from perdure.streams import failpoints
from perdure.streams.log.base import Progress, Readable, Topic, silent
from perdure.streams.state.rows import is_older, ranges_of
from perdure.streams.state.tables import Tables
from perdure.streams.store.base import Store

_logger = structlog.get_logger(__name__)
FLUSH_EVERY_RECORDS = 500_000
# not at every 700th object: a fold makes millions of objects and no reference cycles. Young objects are
# collected in steps of about 1 ms; a full collection, a second at a million objects, is as rare as possible
GC_THRESHOLD = (5_000, 4, 2_500)


class Folded(NamedTuple):
    """The counts of a fold: records read, and entries among them that count."""

    records: int
    entries: int


def drop_older(store: Store, partitions: int) -> None:
    """Remove the rows of each partition that an earlier perdure wrote in another format: the journal has
    everything."""
    older = []
    for partition in range(partitions):
        meta = store.get(b"m" + partition.to_bytes(2, "big"))
        if meta is not None and is_older(meta):
            store.write(ranges_of(partition), ())
            older.append(partition)
    if older:
        _logger.warning(
            "the state of some partitions has an older format: it is rebuilt from the log", partitions=older
        )


async def fold(log: Readable, tables: Tables, end: int, progress: Progress = silent) -> Folded:
    """Fold the journal from where `tables` stand up to `end`. Raises `LogCorrupt`."""
    records = entries = 0
    await finish_removal(tables)
    start = tables.reader.offset
    unflushed = 0
    async for chunk in log.read(Topic.JOURNAL, tables.partition, start, end):
        for each in chunk:
            record = tables.apply(each.offset, each.value, in_pieces=True)
            if type(record) is EntryRecord:
                entries += 1
            elif type(record) is Migration:
                await finish_removal(tables)
        while tables.write_memtable():  # noqa: ASYNC110 - this yields between memtables, it does not wait
            await asyncio.sleep(0)
        records += len(chunk)
        unflushed += len(chunk)
        if unflushed >= FLUSH_EVERY_RECORDS:
            unflushed = 0
            await asyncio.get_running_loop().run_in_executor(None, tables.store.flush)
        progress(tables.partition, records, end - start)
    if tables.reader.offset < end:
        raise LogCorrupt(
            f"{tables.reader.name}: it ends at offset {tables.reader.offset}, {end} was expected"
        )
    return Folded(records, entries)


async def finish_removal(tables: Tables) -> None:
    """Fold and write the rest of a step that deletes namespaces, one piece per step of the event loop."""
    while tables.remove_piece():
        while tables.write_memtable():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        failpoints.hit("state.removing")


async def write_out(tables: Tables) -> None:
    """Write everything folded so far, one memtable per step of the event loop."""
    tables.freeze()
    while tables.write_memtable():  # noqa: ASYNC110 - as above
        await asyncio.sleep(0)
