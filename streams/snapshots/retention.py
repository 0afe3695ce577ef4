"""How far the journal may be trimmed: only behind snapshots that were verified.

Laws [test_retention.py]
- The journal keeps what the oldest of the `keep` newest verified snapshots needs, so each of them can be
  started from; without a verified snapshot it keeps everything.
- It keeps what is younger than `keep_journal`, by log time.
- The journal leads to the snapshot that it is trimmed behind: one of a log that was restored from a backup
  since does not count.
- A base is journaled before the journal is trimmed: what begins behind the newest base was trimmed from
  outside.
"""

from __future__ import annotations

from perdure.schemas.errors import SnapshotDamaged
from perdure.schemas.journal import Base
from perdure.streams.log.base import Log, Topic
from perdure.streams.log.log_time import SKEW_MS
from perdure.streams.log.time_search import first_since
from perdure.streams.snapshots.accept import (
    check_bounds,
    check_chain,
    check_identity,
    stored_in,
    verified_names,
)
from perdure.streams.snapshots.manifest import SnapshotIdentity, StoredSnapshot
from perdure.streams.snapshots.places import SnapshotPlace


def oldest_kept(
    place: SnapshotPlace, identity: SnapshotIdentity, partition: int, keep: int
) -> StoredSnapshot | None:
    """The oldest of the newest `keep` verified snapshots of a partition; None if there are none.

    Raises `StorageFailed`.
    """
    verified = verified_names(place, identity.app, partition)
    good: list[StoredSnapshot] = []
    for stored in stored_in(place, identity.app, partition):
        if isinstance(stored, StoredSnapshot) and stored.name in verified:
            try:
                check_identity(stored, identity, partition)
            except SnapshotDamaged:
                continue  # of another app or journal
            good.append(stored)
    good.sort(key=lambda each: each.manifest.time_ms, reverse=True)
    return min(good[:keep], key=lambda each: each.manifest.out, default=None)


async def base_behind(
    stored: StoredSnapshot, identity: SnapshotIdentity, log: Log, keep_ms: int, now_ms: int
) -> Base | None:
    """The base that lets the journal begin behind a verified snapshot; None if there is nothing to trim.

    Args:
        stored: the oldest snapshot that has to remain usable.
        identity: the app, as the base repeats it.
        log: the app's log.
        keep_ms: how long journal records are kept all the same, in ms.
        now_ms: the time by this node's clock.

    Raises `LogUnreachable`, or `SnapshotDamaged` if it is of another history than this journal.
    """
    partition = stored.manifest.partition
    bounds = await log.bounds(Topic.JOURNAL, partition)
    if stored.manifest.out <= bounds.start:
        return None
    check_bounds(stored, partition, bounds, await log.bounds(Topic.COMMANDS, partition))
    await check_chain(stored, partition, log, bounds.start)
    start = await first_since(
        log,
        Topic.JOURNAL,
        partition,
        bounds.start,
        stored.manifest.out,
        now_ms - keep_ms,
        now_ms + SKEW_MS,
    )
    if start <= bounds.start:
        return None
    return Base(
        -1, 0, start, stored.name, identity.app, identity.app_uuid, identity.partitions, identity.topics
    )
