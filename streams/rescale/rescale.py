"""`perdure rescale`: gives a stopped app another number of partitions.

Law: the switch is one atomic step, behind everything that it rests on. [test_rescale.py]
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from os import getpid
from socket import gethostname
from time import perf_counter
from typing import Any

from perdure.schemas.admin import decode_record
from perdure.schemas.config import Config
from perdure.schemas.errors import ConfigError
from perdure.schemas.journal import Claim, Header
from perdure.schemas.keys import partition_of
from perdure.streams import failpoints
from perdure.streams.datadir import DataDir, app_in, is_data_dir, no_data_dir, remove_folder
from perdure.streams.journal.bootstrap import bootstrap_log
from perdure.streams.log.base import Log, Progress, Record, Topic, silent
from perdure.streams.log.embedded.log import EmbeddedLog
from perdure.streams.opening import clock_ms, new_uuid, open_data, start_embedded
from perdure.streams.rescale.compare import EqualCounts, compare
from perdure.streams.rescale.holdings import entries_of, parked_commands, parked_entry, under_way
from perdure.streams.rescale.new_journal import NewJournal
from perdure.streams.snapshots.trimmed import begin_from_snapshots, trimmed_among, vouch_by
from perdure.streams.state.fold import drop_older, fold, write_out
from perdure.streams.state.tables import Tables
from perdure.streams.store.base import Store
from perdure.streams.store.rocks import RocksStore

MOST = 1024  # as of `partitions` in the configuration
YIELD_EVERY = 64  # entries
_Findings = dict[str, Any]


async def rescale(config: Config, partitions: int, progress: Progress = silent) -> _Findings:
    """Give the app this number of partitions; it must be stopped. Its configuration may have either number.

    Returns counts (objects, client_keys, parked, entries), `from` and `partitions`, and where the old log is
    kept. Raises `ConfigError` or `DataDirError` if it cannot be done now, `StoreCorrupt` if the copy differs.
    """
    if not 0 < partitions <= MOST:
        raise ConfigError(f"--partitions {partitions}: between 1 and {MOST}")
    began = perf_counter()
    if config.kafka_brokers:
        raise ConfigError(f"{config.log}: only the embedded log can be rescaled in place")
    findings = await _embedded(config, partitions, progress)
    return {**findings, "partitions": partitions, "seconds": round(perf_counter() - began, 3)}


async def _embedded(config: Config, partitions: int, progress: Progress) -> _Findings:
    path = config.data_dir
    if not is_data_dir(path):
        raise no_data_dir(path)
    before = app_in(path).partitions
    _check_differs(before, partitions)
    old_config = config.model_copy(update={"partitions": before})
    async with AsyncExitStack() as opened:
        data = open_data(old_config, must_exist=True)
        opened.callback(data.close)
        if not data.has_log:
            raise ConfigError(f"{path} has no log yet: set partitions = {partitions} and start the app")
        log_path, state_path = data.of_next_generation()
        await remove_folder(log_path)  # of one that was interrupted
        await remove_folder(state_path)
        async with AsyncExitStack() as working:
            log = await start_embedded(old_config, data)
            working.push_async_callback(log.close)
            old = await _folded(log, old_config, data, working, progress)
            new_log = EmbeddedLog(log_path, partitions, clock_ms=clock_ms)
            await new_log.start()
            working.push_async_callback(new_log.close)
            entries = await copy(old, new_log, config.name, data.app_uuid)
            store = RocksStore(state_path)
            working.callback(store.close)
            compared = await checked(old, new_log, store, progress)
        failpoints.hit("rescale.before_switch")
        kept, old_state = data.log_path, data.state_path
        data.switch(partitions)
        failpoints.hit("rescale.after_switch")
        data.poison_path.unlink(missing_ok=True)  # it names places in the old log
        await remove_folder(old_state)
    return {"from": before, **compared._asdict(), "entries": entries, "kept": str(kept)}


def _check_differs(before: int, partitions: int) -> None:
    if before == partitions:
        raise ConfigError(
            f"the app has {partitions} partitions already: set partitions = {partitions} and start it"
        )


async def _folded(
    log: Log, config: Config, data: DataDir, working: AsyncExitStack, progress: Progress
) -> list[Tables]:
    """The tables of the old log, folded to its end. Raises `ConfigError` if something is under way."""
    store = RocksStore(data.state_path)
    working.callback(store.close)
    app_uuid = await bootstrap_log(log, config.name, data.app_uuid, vouch_by(config, log, data, store))
    drop_older(store, set(range(log.partitions)) - await trimmed_among(log, range(log.partitions)))
    tables = [Tables(store, partition, exclusive=log.exclusive) for partition in range(log.partitions)]
    await begin_from_snapshots(config, log, data, store, app_uuid, tables)
    for each in tables:
        await fold(log, each, (await log.bounds(Topic.JOURNAL, each.partition)).end, progress)
        await write_out(each)
    for each in tables:
        end = (await log.bounds(Topic.COMMANDS, each.partition)).end
        if (pending := under_way(each, end)) is not None:
            raise ConfigError(
                f"partition {each.partition} cannot be copied now: {pending.what}. {pending.mend}; nothing was changed"
            )
        if each.steps != tables[0].steps:
            raise ConfigError(
                f"migrations have run in partition 0 and not in {each.partition}: start the app until it is "
                "ready, stop it, and run this again"
            )
    return tables


async def copy(old: Sequence[Tables], log: Log, app: str, app_uuid: str) -> int:
    """Write what the old partitions hold to an empty log; how many entries. Raises `OutcomeUnknown`."""
    journals = [NewJournal(log, partition) for partition in range(log.partitions)]
    time_ms = max(tables.meta.clock_ms for tables in old)
    seal = next((tables.meta.seal for tables in old if tables.meta.seal), "")
    for partition, journal in enumerate(journals):
        header = Header(app, app_uuid, partition, log.partitions)
        claim = Claim(new_uuid(), "rescale", gethostname(), getpid(), None, dict(log.topic_ids), seal, 0)
        await journal.begin(header, claim, old[0].steps)
    count = 0
    for tables in old:
        for item in parked_commands(tables):
            journal = journals[partition_of(item.key, len(journals))]
            await journal.add(parked_entry(item, await journal.command(Record(*decode_record(item.record)))))
            count += 1
    for journal in journals:
        await journal.mark(f"rescaled from {len(old)} to {log.partitions} partitions", time_ms)
    for tables in old:
        for entry in entries_of(tables, time_ms):
            await journals[partition_of(entry.key, len(journals))].add(entry)
            count += 1
            if count % YIELD_EVERY == 0:
                await asyncio.sleep(0)
    for journal in journals:
        await journal.end()
    failpoints.hit("rescale.copied")
    return count


async def checked(old: Sequence[Tables], log: Log, store: Store, progress: Progress) -> EqualCounts:
    """Fold the new log into an empty store, and compare it with the old partitions. Raises `StoreCorrupt`."""
    new = [Tables(store, partition, exclusive=log.exclusive) for partition in range(log.partitions)]
    for each in new:
        await fold(log, each, (await log.bounds(Topic.JOURNAL, each.partition)).end, progress)
        await write_out(each)
    compared = await compare(old, new)
    await asyncio.to_thread(store.flush)
    failpoints.hit("rescale.compared")
    return compared
