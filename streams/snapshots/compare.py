"""Compares a snapshot with a replay of the journal, which verifies it.

The replay begins with the newest verified snapshot before it, or with the journal's first record; so by
induction each verified snapshot is what a replay from zero gives.

Laws [test_snapshots.py]
- A snapshot is marked as verified once each of its rows was read back from its place and is equal to the row
  of the replay, and there are no others.
- A file that turns out damaged is deleted: it is of no use, and the next snapshot sends it again.
"""

from __future__ import annotations

import shutil
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path

import msgspec
import structlog

from perdure.schemas.errors import SnapshotDamaged
from perdure.streams import failpoints
from perdure.streams.opening import open_reading
from perdure.streams.snapshots.accept import check_identity, load, names_of, verified_names
from perdure.streams.snapshots.jobs import Compared, SnapshotJob
from perdure.streams.snapshots.manifest import (
    Manifest,
    StoredSnapshot,
    file_name,
    folder_of,
    offset_in,
    verified_path,
)
from perdure.streams.snapshots.places import SnapshotPlace
from perdure.streams.snapshots.restore import rows_of, write_files
from perdure.streams.state.fold import fold, recall_ends
from perdure.streams.state.rows import ranges_of
from perdure.streams.state.tables import Tables
from perdure.streams.store.base import Store
from perdure.streams.store.rocks import RocksStore, write_rows

_logger = structlog.get_logger(__name__)


class VerifiedMark(msgspec.Struct, frozen=True):
    """The content of the mark of a verified snapshot: what was compared. `base`: where the replay began."""

    rows: int
    records: int
    base: str


async def compare_with_replay(job: SnapshotJob, place: SnapshotPlace, partition: int, name: str) -> Compared:
    """Compare a snapshot with a replay in a scratch store, and mark it. Raises `SnapshotDamaged`,
    `LogCorrupt`.
    """
    stored = load(place, job.app, partition, name)
    check_identity(stored, job.identity, partition)
    folder = Path(job.folder) / str(partition)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = await open_reading(job.config)
    try:
        store = RocksStore(folder / "store")
        try:
            base = _base_of(place, job, partition, stored.manifest)
            if base is not None:
                store.take_in(Path(file) for file in write_files(place, base, partition, folder, write_rows))
            tables = Tables(store, partition, exclusive=log.exclusive)
            await recall_ends(log, tables)
            replayed = await fold(log, tables, stored.manifest.offset)
            tables.write_all()
            if tables.reader.position != stored.manifest.position:
                raise SnapshotDamaged(
                    f"the snapshot {name} of partition {partition} is of {stored.manifest.position}, a replay leads "
                    f"to {tables.reader.position}"
                )
            rows = _compared(place, stored, store, partition)
        finally:
            store.close()
    except SnapshotDamaged:
        drop_damaged(place, stored)
        raise
    finally:
        await log.close()
        shutil.rmtree(folder, ignore_errors=True)
    mark = VerifiedMark(rows, replayed.records, "" if base is None else base.name)
    failpoints.hit("snapshot.before_mark")
    place.put(verified_path(folder_of(job.app, partition), name), msgspec.json.encode(mark) + b"\n")
    failpoints.hit("snapshot.after_mark")
    return Compared(partition, name, rows, replayed.records)


def _base_of(
    place: SnapshotPlace, job: SnapshotJob, partition: int, manifest: Manifest
) -> StoredSnapshot | None:
    """The newest verified snapshot below this one; None if there is none."""
    verified = verified_names(place, job.app, partition)
    for name in names_of(place, job.app, partition):
        if name in verified and offset_in(name) < manifest.offset:
            try:
                base = load(place, job.app, partition, name)
                check_identity(base, job.identity, partition)
            except SnapshotDamaged as error:
                _logger.error("a verified snapshot cannot be used", reason=str(error))
                continue
            return base
    return None


def _compared(place: SnapshotPlace, stored: StoredSnapshot, replayed: Store, partition: int) -> int:
    """The number of equal rows. Raises `SnapshotDamaged` for the first difference."""
    rows = 0
    theirs = (row for start, end in ranges_of(partition) for row in replayed.scan(start, end))
    for mine, other in zip_longest(rows_of(place, stored, partition), theirs):
        if mine != other:
            row = (mine or other)[0]
            raise SnapshotDamaged(
                f"the snapshot {stored.name} of partition {partition} is not what a replay of the journal gives: they "
                f"differ at the row {row[:80]!r}. Compare the state too: `perdure verify`"
            )
        rows += 1
    return rows


def drop_damaged(place: SnapshotPlace, stored: StoredSnapshot) -> list[str]:
    """Delete those files of a snapshot that do not have their hash; returns their names."""
    dropped = []
    for entry in stored.manifest.files:
        name = file_name(folder_of(stored.manifest.app, stored.manifest.partition), entry.sha256)
        data = place.get(name)
        if data is not None and sha256(data).hexdigest() != entry.sha256:
            place.delete(name)
            dropped.append(name)
    return dropped
