"""Reading a snapshot back: its rows, checked against its manifest, as files that a store ingests.

Laws [test_snapshots.py]
- Each file has the hash and the number of rows that the manifest says, the rows are in order and those of
  this partition, and the meta row among them has the manifest's place: only then is anything of it used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

from perdure.schemas.errors import SnapshotDamaged, StoreCorrupt
from perdure.streams import failpoints
from perdure.streams.journal.reader import Position
from perdure.streams.snapshots.manifest import Manifest, StoredSnapshot, file_name, folder_of
from perdure.streams.snapshots.places import SnapshotPlace
from perdure.streams.snapshots.row_files import StoredRow, unpacked
from perdure.streams.state.rows import decode_meta

WriteFile = Callable[[Iterator[StoredRow], Path], None]  # rows, in order, into a file that a store can ingest


def rows_of(place: SnapshotPlace, stored: StoredSnapshot, partition: int) -> Iterator[StoredRow]:
    """The rows of a snapshot, in order, each file checked before its rows are given.

    What was given may be used only once all were: the last checks come at the end. Raises `SnapshotDamaged`
    or `StorageFailed`.
    """
    manifest = stored.manifest
    folder = folder_of(manifest.app, manifest.partition)
    number, before, meta = partition.to_bytes(2, "big"), b"", None
    for entry in manifest.files:
        name = file_name(folder, entry.sha256)
        data = place.get(name)
        if data is None:
            raise SnapshotDamaged(
                f"the snapshot {stored.name} of partition {partition} has lost its file {name}"
            )
        failpoints.hit("snapshot.read_file")
        for row in unpacked(data, name, entry.sha256, entry.rows):
            key = row[0]
            if key <= before or key[1:3] != number:
                raise SnapshotDamaged(
                    f"{name}: the row {key[:80]!r} does not belong into partition {partition} behind {before[:80]!r}"
                )
            before = key
            if key == b"m" + number:
                meta = row[1]
            yield row
    _check_meta(stored, partition, meta)


def _check_meta(stored: StoredSnapshot, partition: int, data: bytes | None) -> None:
    manifest: Manifest = stored.manifest
    where = f"the snapshot {stored.name} of partition {partition}"
    if data is None:
        raise SnapshotDamaged(f"{where} has no meta row")
    try:
        meta = decode_meta(data, partition)
    except StoreCorrupt as error:
        raise SnapshotDamaged(
            f"{where} has rows that this version of perdure does not read: {error}"
        ) from error
    position = Position(meta.offset, meta.epoch, meta.seq, meta.chain)
    if (position, meta.app_uuid, meta.out) != (manifest.position, manifest.app_uuid, manifest.out):
        raise SnapshotDamaged(
            f"{where} is of journal offset {meta.offset}, its manifest says {manifest.offset}"
        )


def write_files(
    place: SnapshotPlace, stored: StoredSnapshot, partition: int, folder: Path, write: WriteFile
) -> list[str]:
    """Write the rows of a snapshot into files, one for each kind of row; returns their paths.

    place, stored, partition: the snapshot, as of `rows_of`.
    folder: where the files go.
    write: writes rows, in order, into a file.

    Raises as `rows_of`, also after files were written.
    """
    files = []
    for letter, rows in groupby(rows_of(place, stored, partition), key=lambda row: row[0][:1]):
        file = folder / f"{partition}-{letter.decode()}"
        write(rows, file)
        files.append(str(file))
    return files
