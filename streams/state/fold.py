"""The fold of a journal outside an owner: for checks, copies, and rebuilt state."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

import structlog

from perdure.schemas.errors import LogCorrupt
from perdure.schemas.journal import EntryRecord, JournalRecord, Migration, NoOp
from perdure.streams import failpoints
from perdure.streams.journal.reader import JournalReader
from perdure.streams.log.base import LogRecord, Progress, Readable, Topic, silent
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


def drop_older(store: Store, partitions: Iterable[int]) -> None:
    """Remove the rows of these partitions that an earlier perdure wrote in another format: their journals
    have
    everything."""
    older = []
    for partition in partitions:
        meta = store.get(b"m" + partition.to_bytes(2, "big"))
        if meta is not None and is_older(meta):
            store.write(ranges_of(partition), ())
            older.append(partition)
    if older:
        _logger.warning(
            "the state of some partitions has an older format: it is rebuilt from the log", partitions=older
        )


async def fold(log: Readable, tables: Tables, end: int, progress: Progress = silent) -> Folded:
    """Fold the journal in `log` from where `tables` stand up to `end`; call `progress` after each chunk.

    Raises `LogCorrupt`.
    """
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


async def recall_ends(log: Readable, tables: Tables) -> None:
    """Read the journal from the output watermark to where `tables` stand, before a fold goes on from there.

    The ends of batches in between are kept in memory only, and the watermark moves along them. Raises
    `LogCorrupt` if the journal does not lead to where the tables stand.
    """
    before = JournalReader(tables.reader.name, tables.out_position, exclusive=log.exclusive)
    if not before.offset:
        return
    async for chunk in log.read(Topic.JOURNAL, tables.partition, before.offset, tables.reader.offset):
        for each in chunk:
            recall_end(tables, before, each)
    check_same_place(tables, before)


def recall_end(tables: Tables, before: JournalReader, each: LogRecord) -> JournalRecord | None:
    """Read a record that the tables have applied with `before`; the record if it counts."""
    record = before.step(each.offset, each.value)
    if isinstance(record, (EntryRecord, NoOp)) and record.out:
        tables.remember_end(before.position)
    return record


def check_same_place(tables: Tables, before: JournalReader) -> None:
    """Raises `LogCorrupt` unless the journal, as `before` has read it, leads to the place where the tables
    stand.
    """
    if before.position != tables.reader.position:
        raise LogCorrupt(
            f"{tables.reader.name}: at offset {before.offset} it has record {before.seq} of epoch {before.epoch}, chain "
            f"{before.chain.hex()}; the state was made from record {tables.reader.seq} of epoch {tables.reader.epoch}, "
            f"chain {tables.reader.chain.hex()}: their histories differ. Nothing was changed"
        )


async def write_out(tables: Tables) -> None:
    """Write everything folded so far, one memtable per step of the event loop."""
    tables.freeze()
    while tables.write_memtable():  # noqa: ASYNC110 - as above
        await asyncio.sleep(0)
