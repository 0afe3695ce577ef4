"""Journals that begin behind a snapshot: whose they are, and how a store for them is made.

Law: where the header is gone, the data directory says whose an embedded log is. On Kafka the state says it,
and without state the newest snapshot of these topics.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from perdure.schemas.config import Config
from perdure.schemas.errors import LogCorrupt, StorageFailed
from perdure.schemas.journal import Header
from perdure.streams.datadir import DataDir
from perdure.streams.journal.bootstrap import Vouch
from perdure.streams.log.base import Log, Topic
from perdure.streams.snapshots.accept import stored_in
from perdure.streams.snapshots.manifest import StoredSnapshot
from perdure.streams.snapshots.places import place_at
from perdure.streams.snapshots.service import Snapshots, snapshots_of
from perdure.streams.snapshots.take import meta_of
from perdure.streams.state.tables import Tables
from perdure.streams.store.rocks import RocksStore


def vouch_by(config: Config, log: Log, data: DataDir, store: RocksStore | None) -> Vouch:
    """What returns the headers of journals that were trimmed, for `bootstrap_log`.

    Args:
        config: the configuration of the app.
        log: its log.
        data: the data directory of this node.
        store: its store; None if there is none.
    """

    async def vouch(partition: int) -> Header | None:
        if log.exclusive:
            return Header(config.name, data.app_uuid, partition, log.partitions)
        meta = None if store is None else meta_of(store, partition)
        if meta is not None and meta.app_uuid:
            return Header(config.name, meta.app_uuid, partition, meta.partitions)
        if config.snapshots is None:
            return None
        return await asyncio.to_thread(_header_in_snapshots, config, log, partition)

    return vouch


def _header_in_snapshots(config: Config, log: Log, partition: int) -> Header | None:
    assert config.snapshots is not None
    place = place_at(config.snapshots.to, config.snapshots.endpoint)
    try:
        for stored in stored_in(place, config.name, partition):
            if not isinstance(stored, StoredSnapshot):
                continue
            manifest, topic = stored.manifest, Topic.JOURNAL.value
            if manifest.topics.get(topic) == log.topic_ids.get(topic):
                return Header(manifest.app, manifest.app_uuid, manifest.partition, manifest.partitions)
    except StorageFailed as error:
        raise LogCorrupt(
            f"the journal of partition {partition} was trimmed, and its snapshots cannot be read: {error}"
        ) from error
    return None


async def trimmed_among(log: Log, partitions: Sequence[int]) -> set[int]:
    """Those of the partitions whose journal does not begin at offset 0."""
    return {each for each in partitions if (await log.bounds(Topic.JOURNAL, each)).start > 0}


async def begin_from_snapshots(
    config: Config, log: Log, data: DataDir, store: RocksStore, app_uuid: str, tables: Sequence[Tables]
) -> None:
    """Load a snapshot into those of these tables that have nothing, and whose journal was trimmed.

    Args:
        config: the configuration of the app.
        log: its log.
        data: the data directory.
        store: the store of the tables.
        app_uuid: the app's uuid.
        tables: the tables of all partitions.

    Raises `SnapshotDamaged` if none can be used, `LogCorrupt` if the configuration does not say where they
    are.
    """
    trimmed = await trimmed_among(log, [each.partition for each in tables])
    if not trimmed:
        return
    snapshots: Snapshots | None = snapshots_of(config, log, data, store, app_uuid)
    if snapshots is None:
        raise LogCorrupt(
            f"the journals of partitions {', '.join(map(str, sorted(trimmed)))} were trimmed behind snapshots, and the "
            "configuration has no [snapshots], which says where they are; nothing was changed"
        )
    for each in tables:
        if each.partition in trimmed:
            await snapshots.restoring.ingest(each)
