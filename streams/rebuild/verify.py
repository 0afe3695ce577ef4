"""`perdure verify` compares the state with the log; `perdure state rebuild` builds it from scratch.

Laws
- Neither creates a data directory or a log: what is not there cannot be checked.
- `verify` changes nothing that lasts. It replays the journal from zero into an empty store, checking every
  link of the hash chain, and compares all rows with the live ones, byte for byte, at the live ones' applied
  offset. [tests/acceptance/test_damage.py]
- A store that a crash left within the deletion of a namespace is compared behind it, in a copy that ends it.
  [test_a_state_that_was_cut_within_a_deletion_is_verified]
- `rebuild` removes the state only once the log has been opened, and never touches the log.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

from perdure.schemas.config import Config
from perdure.schemas.errors import DataDirError, SnapshotDamaged, StoreCorrupt
from perdure.schemas.journal import Migration, decode_record
from perdure.streams.datadir import DataDir
from perdure.streams.journal.bootstrap import bootstrap_log
from perdure.streams.log.base import Log, Progress, Topic, silent
from perdure.streams.opening import open_data, start_log
from perdure.streams.rebuild.coordinator import Helpers
from perdure.streams.snapshots.trimmed import begin_from_snapshots, trimmed_among, vouch_by
from perdure.streams.state.fold import Folded, fold
from perdure.streams.state.rows import ranges_of
from perdure.streams.state.tables import Tables
from perdure.streams.store.base import Store
from perdure.streams.store.rocks import RocksStore


async def verify(config: Config, progress: Progress = silent) -> dict[str, Any]:
    """Compare the live state with a replay.

    Returns counts: partitions, journal_records, entries, rows, and `chain`, each partition's last hash.
    Raises `StoreCorrupt` naming partition, row and both values if they differ, `LogCorrupt` for the log,
    `DataDirError` if a running node has the directory or there is none.
    """
    async with AsyncExitStack() as opened:  # closes each of them, whatever the others do
        data = _there(config)
        opened.callback(data.close)
        log = await start_log(config, data, "verify")
        opened.push_async_callback(log.close)
        live = RocksStore(data.state_path)
        opened.callback(live.close)
        vouch = vouch_by(config, log, data, live)
        app_uuid = await bootstrap_log(log, config.name, data.app_uuid, vouch)
        scratch = data.path / "verify.tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        opened.callback(shutil.rmtree, scratch, ignore_errors=True)
        replayed = RocksStore(scratch / "replayed")
        opened.callback(replayed.close)
        tables = [Tables(replayed, each, exclusive=log.exclusive) for each in range(log.partitions)]
        await begin_from_snapshots(config, log, data, replayed, app_uuid, tables)
        counts: dict[str, Any] = {"partitions": log.partitions, "journal_records": 0, "entries": 0, "rows": 0}
        chains = [
            await _verify_partition(log, live, again, app_uuid, counts, progress, scratch) for again in tables
        ]
        return {**counts, "differences": 0, "chain": chains}


def _there(config: Config) -> DataDir:
    """The data directory of an app that has run; nothing is created. Raises `DataDirError`."""
    data = open_data(config, must_exist=True)
    if not config.kafka_brokers and not data.has_log:
        data.close()
        raise DataDirError(
            f"{data.path.absolute()} has no log: the app {config.name} has never run with this data directory"
        )
    return data


async def _verify_partition(
    log: Log,
    live: RocksStore,
    again: Tables,
    app_uuid: str,
    counts: dict[str, Any],
    progress: Progress,
    scratch: Path,
) -> str:
    partition, replayed = again.partition, again.store
    mine = Tables(live, partition, exclusive=log.exclusive)
    bounds = await log.bounds(Topic.JOURNAL, partition)
    commands = await log.bounds(Topic.COMMANDS, partition)
    mine.check_against(app_uuid, log.partitions, bounds.end, commands.end)
    applied = mine.reader.offset
    if again.reader.offset > applied:
        raise SnapshotDamaged(
            f"the state of partition {partition} is of journal offset {applied}, older than the snapshot that a replay "
            f"has to begin with, of {again.reader.offset}: start the node once, then verify"
        )
    records, entries = await fold(log, again, applied, progress)
    if await _deletes_at(log, partition, applied, bounds.end):
        more, _ = await fold(log, again, applied + 1, progress)
        again.write_all()
        with closing(_copy(live, partition, scratch)) as whole:
            rest = Tables(whole, partition, exclusive=log.exclusive)
            await fold(log, rest, applied + 1)
            rest.write_all()
            counts["rows"] += compare_rows(whole, replayed, partition, applied + 1)
        records += more
    else:
        again.write_all()
        counts["rows"] += compare_rows(live, replayed, partition, applied)
    more, further = await fold(log, again, bounds.end, progress)  # the chain holds to the end
    counts["journal_records"] += records + more
    counts["entries"] += entries + further
    return again.reader.chain.hex()


async def _deletes_at(log: Log, partition: int, offset: int, end: int) -> bool:
    """True if the journal record at `offset` deletes namespaces: a store before it
    may have begun with that.
    """
    async for chunk in log.read(Topic.JOURNAL, partition, offset, min(offset + 1, end)):
        record = decode_record(chunk[0].value)
        return isinstance(record, Migration) and bool(record.step.deleted)
    return False


def _copy(store: RocksStore, partition: int, scratch: Path) -> RocksStore:
    """A store with the rows of one partition of another."""
    copy = RocksStore(scratch / f"copy-{partition}")
    for start, end in ranges_of(partition):
        file = scratch / f"rows-{partition}-{start[:1].decode()}"
        if store.export(start, end, file):
            copy.take_in([file])
    return copy


def compare_rows(live: Store, replayed: Store, partition: int, applied: int) -> int:
    """The number of equal rows. Raises `StoreCorrupt` for the first difference.

    live, replayed: the state, and the one that a replay gave.
    partition: whose rows are compared.
    applied: the journal offset that both stand at.
    """
    rows = 0
    for start, end in ranges_of(partition):
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


async def rebuild(config: Config, progress: Progress = silent) -> dict[str, Any]:
    """Remove the state files and fold the whole journal from scratch.

    Returns counts: partitions, journal_records, entries, seconds. Raises like `verify`.
    """
    async with AsyncExitStack() as opened:
        data = _there(config)
        opened.callback(data.close)
        log = await start_log(config, data, "rebuild")
        opened.push_async_callback(log.close)
        began = time.perf_counter()
        aside = data.state_path.with_name(
            "state.tmp"
        )  # the state is all there is, if no snapshot can be used
        _remove(aside)
        trimmed = await trimmed_among(log, range(log.partitions))
        app_uuid = await _uuid_of(config, log, data)
        if not trimmed:
            _remove(data.state_path)
        async with AsyncExitStack() as working:
            store = RocksStore(aside if trimmed else data.state_path)
            working.callback(store.close)
            helpers = Helpers(config, store, data.rebuild_path)
            working.push_async_callback(helpers.close)
            tables = [Tables(store, each, exclusive=log.exclusive) for each in range(log.partitions)]
            await begin_from_snapshots(config, log, data, store, app_uuid, tables)
            await helpers.start(log, tables, progress)
            folded = [
                await _build(log, each, helpers, progress)
                for each in sorted(
                    tables, key=lambda each: helpers.has(each.partition)
                )  # ours while they work
            ]
            store.flush()
        if trimmed:
            _remove(data.state_path)
            aside.rename(data.state_path)
        records, entries = (sum(each) for each in zip(*folded, strict=True))
        return {
            "partitions": log.partitions,
            "journal_records": records,
            "entries": entries,
            "seconds": round(time.perf_counter() - began, 3),
        }


async def _build(log: Log, tables: Tables, helpers: Helpers, progress: Progress) -> Folded:
    """Fold a partition up to the end of its journal; returns the counts."""
    end = (await log.bounds(Topic.JOURNAL, tables.partition)).end
    ingested = await helpers.ingest(tables) or Folded(0, 0)
    records, entries = await fold(log, tables, end, progress)
    tables.write_all()
    return Folded(ingested.records + records, ingested.entries + entries)


async def _uuid_of(config: Config, log: Log, data: DataDir) -> str:
    """The app's uuid, by the journal, or by the state where that was trimmed."""
    live = RocksStore(data.state_path)
    try:
        return await bootstrap_log(log, config.name, data.app_uuid, vouch_by(config, log, data, live))
    finally:
        live.close()


def _remove(state: Path) -> None:
    if state.exists():
        shutil.rmtree(state)
