"""How far the journal may be trimmed: only behind snapshots that were verified.

Laws [test_retention.py]
- The journal keeps what the oldest of the `keep` newest verified snapshots needs, so each of them can be
  started from; without a verified snapshot it keeps everything.
- It keeps what is younger than `keep_journal`, by log time.
- A base is journaled before the journal is trimmed: what begins behind the newest base was trimmed from
  outside.
"""

from __future__ import annotations

from perdure.schemas.errors import SnapshotDamaged
from perdure.schemas.journal import Base
from perdure.streams.log.base import Log, Topic
from perdure.streams.log.log_time import SKEW_MS
from perdure.streams.log.time_search import first_since
from perdure.streams.snapshots.accept import check_identity, stored_in, verified_names
from perdure.streams.snapshots.manifest import SnapshotIdentity, StoredSnapshot
from perdure.streams.snapshots.places import SnapshotPlace


def oldest_kept(
    place: SnapshotPlace, identity: SnapshotIdentity, partition: int, keep: int
) -> StoredSnapshot | None:
    """The oldest of the newest `keep` verified snapshots of a partition; None if there are none.

    Raises `StorageFailed`.
    """
    verified = verified_names(place, identity.app, partition)
    kept: list[StoredSnapshot] = []
    for stored in stored_in(place, identity.app, partition):
        if isinstance(stored, StoredSnapshot) and stored.name in verified and len(kept) < keep:
            try:
                check_identity(stored, identity, partition)
            except SnapshotDamaged:
                continue  # of another app or journal
            kept.append(stored)
    return kept[-1] if kept else None


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

    Raises `LogUnreachable`.
    """
    partition = stored.manifest.partition
    bounds = await log.bounds(Topic.JOURNAL, partition)
    start = await first_since(
        log,
        Topic.JOURNAL,
        partition,
        bounds.start,
        max(stored.manifest.out, bounds.start),
        now_ms - keep_ms,
        now_ms + SKEW_MS,
    )
    if start <= bounds.start:
        return None
    return Base(
        -1, 0, start, stored.name, identity.app, identity.app_uuid, identity.partitions, identity.topics
    )
