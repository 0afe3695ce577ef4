"""What a rescale does on either log: the old partitions are settled, copied to an empty log, and compared.

Law: nothing is copied while something is under way. [test_what_is_under_way_is_refused]
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from os import getpid
from socket import gethostname

from perdure.schemas.admin import decode_record
from perdure.schemas.config import Config
from perdure.schemas.errors import ConfigError
from perdure.schemas.journal import Claim, Header
from perdure.schemas.keys import partition_of
from perdure.streams import failpoints
from perdure.streams.datadir import DataDir
from perdure.streams.journal.bootstrap import bootstrap_log
from perdure.streams.log.base import Log, Progress, Record, Topic
from perdure.streams.opening import new_uuid
from perdure.streams.rescale.compare import EqualCounts, compare
from perdure.streams.rescale.holdings import entries_of, own_steps, parked_commands, parked_entry, under_way
from perdure.streams.rescale.new_journal import NewJournal
from perdure.streams.snapshots.trimmed import begin_from_snapshots, trimmed_among, vouch_by
from perdure.streams.state.fold import drop_older, fold, write_out
from perdure.streams.state.tables import Tables
from perdure.streams.store.base import Store
from perdure.streams.store.rocks import RocksStore

YIELD_EVERY = 64  # entries


async def folded(
    log: Log, config: Config, data: DataDir, working: AsyncExitStack, progress: Progress
) -> tuple[list[Tables], str]:
    """The tables of the old log, folded to its end, and the app's uuid. The store is closed by `working`."""
    store = RocksStore(data.state_path)
    working.callback(store.close)
    app_uuid = await bootstrap_log(log, config.name, data.app_uuid, vouch_by(config, log, data, store))
    drop_older(store, set(range(log.partitions)) - await trimmed_among(log, range(log.partitions)))
    tables = [Tables(store, partition, exclusive=log.exclusive) for partition in range(log.partitions)]
    await begin_from_snapshots(config, log, data, store, app_uuid, tables)
    for each in tables:
        await fold(log, each, (await log.bounds(Topic.JOURNAL, each.partition)).end, progress)
        await write_out(each)
    return tables, app_uuid


def settled(old: Sequence[Tables], ends: Sequence[int]) -> None:
    """Check that old partitions, whose commands end there, can be copied. Raises `ConfigError`."""
    for tables, end in zip(old, ends, strict=True):
        if (pending := under_way(tables, end)) is not None:
            raise ConfigError(
                f"partition {tables.partition} cannot be copied now: {pending.what}. {pending.mend}; nothing was "
                "switched"
            )
        if own_steps(tables) != own_steps(old[0]):
            raise ConfigError(
                f"migrations have run in partition 0 and not in {tables.partition}: start the app until it is "
                "ready, stop it, and run this again"
            )


async def copy(old: Sequence[Tables], log: Log, app: str, app_uuid: str) -> int:
    """Write what the old partitions hold to an empty log; the number of entries. Raises `OutcomeUnknown`."""
    journals = [NewJournal(log, partition) for partition in range(log.partitions)]
    time_ms = max(tables.meta.clock_ms for tables in old)
    seal = next((tables.meta.seal for tables in old if tables.meta.seal), "")
    for partition, journal in enumerate(journals):
        header = Header(app, app_uuid, partition, log.partitions)
        claim = Claim(new_uuid(), "rescale", gethostname(), getpid(), None, dict(log.topic_ids), seal, 0)
        await journal.begin(header, claim, own_steps(old[0]))
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
