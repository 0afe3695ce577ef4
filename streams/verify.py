"""I6 as a command: is the state what the log says? And its remedy: build the state anew.

Laws
- `verify` changes nothing that lasts. It replays the journal from zero into an empty store, checking every link
  of the hash chain, and compares all rows with the live ones, byte for byte, at the live ones' applied offset.
- `rebuild` removes the state only once the log has been opened, and never touches the log.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from perdure.schemas.config import Config
from perdure.schemas.errors import LogCorrupt, StoreCorrupt
from perdure.schemas.journal import EntryRecord
from perdure.streams.founding import found
from perdure.streams.log import Log, Topic
from perdure.streams.opening import open_data, start_log
from perdure.streams.store import RocksStore, Store
from perdure.streams.tables import Tables

Progress = Callable[[str, int, int], None]  # what, how far, of how much
TABLES = [bytes((letter,)) for letter in range(ord("a"), ord("z") + 1)]  # a new one is compared, too
FLUSH_EVERY_RECORDS = 500_000


def _silent(what: str, done: int, total: int) -> None:
    """No progress is shown."""


async def verify(config: Config, progress: Progress = _silent) -> dict[str, Any]:
    """Compare the live state with a replay.

    Returns counts: partitions, journal_records, entries, rows, and `chain`, each partition's last hash.
    Raises `StoreCorrupt` naming partition, row and both values if they differ, `LogCorrupt` for the log,
    `DataDirError` if a running node has the directory.
    """
    data = open_data(config)
    log: Log | None = None
    scratch = data.path / "verify.tmp"
    try:
        log = await start_log(config, data, "verify")
        app_uuid = await found(log, config.name, data.app_uuid)
        live = RocksStore(data.state_path)
        shutil.rmtree(scratch, ignore_errors=True)
        replayed = RocksStore(scratch)
        counts: dict[str, Any] = {"partitions": log.partitions, "journal_records": 0, "entries": 0, "rows": 0}
        chains = []
        try:
            for partition in range(log.partitions):
                chains.append(
                    await _verify_partition(log, live, replayed, partition, app_uuid, counts, progress)
                )
        finally:
            live.close()
            replayed.close()
        return {**counts, "differences": 0, "chain": chains}
    finally:
        if log is not None:
            await log.close()
        shutil.rmtree(scratch, ignore_errors=True)
        data.close()


async def _verify_partition(
    log: Log,
    live: Store,
    replayed: Store,
    partition: int,
    app_uuid: str,
    counts: dict[str, Any],
    progress: Progress,
) -> str:
    mine = Tables(live, partition, exclusive=log.exclusive)
    bounds = await log.bounds(Topic.JOURNAL, partition)
    commands = await log.bounds(Topic.COMMANDS, partition)
    mine.check_against(app_uuid, log.partitions, bounds.end, commands.end)
    again = Tables(replayed, partition, exclusive=log.exclusive)
    applied = mine.reader.offset
    records, entries = await fold(log, again, applied, progress)
    again.write_all()
    counts["rows"] += _compare(live, replayed, partition, applied)
    more, further = await fold(log, again, bounds.end, progress)  # the chain holds to the end
    counts["journal_records"] += records + more
    counts["entries"] += entries + further
    return again.reader.chain.hex()


def _compare(live: Store, replayed: Store, partition: int, applied: int) -> int:
    """How many rows are the same. Raises `StoreCorrupt` for the first that is not."""
    rows = 0
    number = partition.to_bytes(2, "big")
    for table in TABLES:
        start, end = table + number, table + (partition + 1).to_bytes(2, "big")
        left, right = live.scan(start, end), replayed.scan(start, end)
        for mine, other in _together(left, right):
            if mine != other:
                raise StoreCorrupt(
                    f"partition {partition} at journal offset {applied}: the state has {_shown(mine)}, a replay of "
                    f"the journal gives {_shown(other)}. Stop perdure and run `perdure state rebuild`"
                )
            rows += 1
    return rows


Row = tuple[bytes, bytes] | None


def _together(
    left: Iterator[tuple[bytes, bytes]], right: Iterator[tuple[bytes, bytes]]
) -> Iterator[tuple[Row, Row]]:
    while True:
        mine, other = next(left, None), next(right, None)
        if mine is None and other is None:
            return
        yield mine, other


def _shown(row: Row) -> str:
    return "no row" if row is None else f"{row[0][:80]!r} = {row[1][:80]!r}"


async def fold(log: Log, tables: Tables, end: int, progress: Progress = _silent) -> tuple[int, int]:
    """Fold the journal from where `tables` stand up to `end`; (records, entries) read. Raises `LogCorrupt`."""
    records = entries = 0
    start = tables.reader.offset
    unflushed = 0
    async for chunk in log.read(Topic.JOURNAL, tables.partition, start, end):
        for each in chunk:
            if type(tables.apply(each.offset, each.value)) is EntryRecord:
                entries += 1
        while tables.write_piece():
            pass
        records += len(chunk)
        unflushed += len(chunk)
        if unflushed >= FLUSH_EVERY_RECORDS:
            unflushed = 0
            tables.store.flush()
        progress(f"partition {tables.partition}", records, end - start)
    if tables.reader.offset < end:
        raise LogCorrupt(
            f"{tables.reader.name}: it ends at offset {tables.reader.offset}, {end} was expected"
        )
    return records, entries


async def rebuild(config: Config, progress: Progress = _silent) -> dict[str, Any]:
    """Remove the state files and fold the whole journal anew.

    Returns counts: partitions, journal_records, entries, seconds. Raises like `verify`.
    """
    data = open_data(config)
    log: Log | None = None
    try:
        log = await start_log(config, data, "rebuild")
        await found(log, config.name, data.app_uuid)
        began = time.perf_counter()
        _remove(data.state_path)
        store = RocksStore(data.state_path)
        counts: dict[str, Any] = {"partitions": log.partitions, "journal_records": 0, "entries": 0}
        try:
            for partition in range(log.partitions):
                tables = Tables(store, partition, exclusive=log.exclusive)
                end = (await log.bounds(Topic.JOURNAL, partition)).end
                records, entries = await fold(log, tables, end, progress)
                tables.write_all()
                counts["journal_records"] += records
                counts["entries"] += entries
            store.flush()
        finally:
            store.close()
        return {**counts, "seconds": round(time.perf_counter() - began, 3)}
    finally:
        if log is not None:
            await log.close()
        data.close()


def _remove(state: Path) -> None:
    if state.exists():
        shutil.rmtree(state)
