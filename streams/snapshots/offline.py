"""`perdure snapshot`: what operators do with snapshots beside a stopped app, or beside the place alone.

Laws
- `take` needs the data directory for itself. `list`, `verify` and `prune` only need the place.
- Nothing here changes the log or the state.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from perdure.schemas.config import Config
from perdure.schemas.errors import ConfigError, PerdureError
from perdure.schemas.snapshots import SnapshotConfig
from perdure.streams.journal.bootstrap import bootstrap_log
from perdure.streams.opening import open_data, start_log
from perdure.streams.snapshots.accept import load, stored_in
from perdure.streams.snapshots.compare import compare_with_replay
from perdure.streams.snapshots.jobs import SnapshotPart, job_for
from perdure.streams.snapshots.listing import shown
from perdure.streams.snapshots.manifest import SnapshotIdentity, StoredSnapshot
from perdure.streams.snapshots.places import SnapshotPlace, place_at
from perdure.streams.snapshots.prune import prune
from perdure.streams.snapshots.restore import rows_of
from perdure.streams.snapshots.take import take
from perdure.streams.snapshots.trimmed import vouch_by
from perdure.streams.store.rocks import RocksReading


def settings_of(config: Config) -> SnapshotConfig:
    """The table `[snapshots]`. Raises `ConfigError` if there is none."""
    if config.snapshots is None:
        raise ConfigError(
            'the configuration has no [snapshots]: add it, with to = "file:///folder" or an object store\'s address'
        )
    return config.snapshots


def place_of(config: Config) -> SnapshotPlace:
    """Where an app's snapshots lie. Raises `ConfigError`."""
    settings = settings_of(config)
    return place_at(settings.to, settings.endpoint)


async def take_all(config: Config) -> dict[str, Any]:
    """Take a snapshot of each partition of a stopped app.

    Raises `DataDirError` if a running node has the directory, or there is none, and as `take`.
    """
    place = place_of(config)
    async with AsyncExitStack() as opened:
        data = open_data(config, must_exist=True)
        opened.callback(data.close)
        log = await start_log(config, data, "snapshot")
        opened.push_async_callback(log.close)
        rows = RocksReading(data.state_path)
        opened.callback(rows.close)
        vouch = vouch_by(config, log, data, rows)
        app_uuid = await bootstrap_log(log, config.name, data.app_uuid, vouch)
        identity = SnapshotIdentity(config.name, app_uuid, log.partitions, dict(log.topic_ids))
        snapshots = []
        for partition in range(log.partitions):
            taken = await asyncio.to_thread(
                take,
                rows,
                partition,
                place,
                identity,
                now_ms=int(time.time() * 1000),
                version=version("perdure"),
            )
            if taken is not None:
                line = shown(taken.stored)
                snapshots.append({**line, "files_sent": taken.files_sent, "bytes_sent": taken.bytes_sent})
        return {"snapshots": snapshots}


def verify_all(config: Config, *, replay: bool) -> dict[str, Any]:
    """Read each snapshot back and check it; with `replay` compare it with a replay of the journal too, and
    mark it.

    Returns counts, and in `failed` what is wrong with which partition's snapshots.
    """
    place, settings = place_of(config), settings_of(config)
    checked, rows, failed = 0, 0, list[dict[str, Any]]()
    scratch = Path(mkdtemp(prefix="perdure-snapshots-"))
    try:
        for partition in range(config.partitions):
            for stored in reversed(
                list(stored_in(place, config.name, partition))
            ):  # each is the base of the next
                try:
                    if not isinstance(stored, StoredSnapshot):
                        raise stored
                    manifest = stored.manifest
                    if replay:
                        identity = SnapshotIdentity(
                            config.name, manifest.app_uuid, manifest.partitions, manifest.topics
                        )
                        job = job_for(
                            "compare",
                            [SnapshotPart(partition, stored.name)],
                            identity,
                            config,
                            settings,
                            folder=scratch,
                        )
                        rows += asyncio.run(compare_with_replay(job, place, partition, stored.name)).rows
                    else:
                        load(place, config.name, partition, stored.name)
                        rows += sum(1 for _ in rows_of(place, stored, partition))
                    checked += 1
                except PerdureError as error:
                    failed.append({"partition": partition, "code": error.code, "reason": str(error)})
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return {"snapshots": checked, "rows": rows, "failed": failed}


def prune_all(config: Config) -> dict[str, Any]:
    """Remove what is not to be kept of each partition's snapshots; returns counts."""
    place, settings = place_of(config), settings_of(config)
    pruned = [prune(place, config.name, partition, settings.keep) for partition in range(config.partitions)]
    return {
        "removed": [name for each in pruned for name in each.names],
        "files": sum(each.files for each in pruned),
        "bytes": sum(each.bytes for each in pruned),
    }
