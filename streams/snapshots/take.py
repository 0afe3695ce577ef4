"""Taking a snapshot of a partition: its rows into files, the files to their place, the manifest last.

Laws
- The rows are those of one moment between two writes of the store, so they are the fold of the journal up to
  the offset in their meta row. What is read is flushed: it is durable, and no client waits for it.
- What is there already is not sent again, also if an interrupted snapshot sent it. [test_snapshots.py]
- A process that dies at any step leaves files without a manifest at most; the next one continues with them.
  [test_snapshots.py]
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple, Protocol

from perdure.schemas.errors import SnapshotDamaged
from perdure.streams import failpoints
from perdure.streams.snapshots.accept import load, names_of
from perdure.streams.snapshots.manifest import (
    FileEntry,
    Manifest,
    SnapshotIdentity,
    StoredSnapshot,
    encode_manifest,
    file_name,
    files_in,
    folder_of,
    manifest_path,
    offset_in,
)
from perdure.streams.snapshots.places import SnapshotPlace
from perdure.streams.snapshots.row_files import RowFile, packed
from perdure.streams.state.rows import FORMAT as ROWS_FORMAT
from perdure.streams.state.rows import Meta, decode_meta, ranges_of


class SnapshotRows(Protocol):
    """The rows that a snapshot is taken of: a store, or one that is only read."""

    def get(self, key: bytes) -> bytes | None: ...

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]: ...


class Taken(NamedTuple):
    """A snapshot that was taken, and what had to be sent for it."""

    stored: StoredSnapshot
    files_sent: int
    bytes_sent: int


def meta_of(rows: SnapshotRows, partition: int) -> Meta | None:
    """The meta row of a partition; None if the store has nothing of it. Raises `StoreCorrupt`."""
    data = rows.get(b"m" + partition.to_bytes(2, "big"))
    return None if data is None else decode_meta(data, partition)


def take(
    rows: SnapshotRows,
    partition: int,
    place: SnapshotPlace,
    identity: SnapshotIdentity,
    *,
    now_ms: int,
    version: str,
) -> Taken | None:
    """Take a snapshot of a partition as `rows` have it; None if they have nothing of it.

    If the newest one is of the same place already, it is returned.

    Args:
        rows: where the rows are read; they must not change meanwhile.
        partition: its number.
        place: where the snapshot goes.
        identity: whose it is.
        now_ms: the time that its manifest carries.
        version: the version of perdure, which its manifest carries.

    Raises `StorageFailed` if the place or the store cannot be used, `StoreCorrupt`, or `SnapshotDamaged` if a
    file is not there any more once all are sent.
    """
    meta = meta_of(rows, partition)
    if meta is None or meta.offset == 0:
        return None
    if (newest := _newest(place, identity, partition, meta)) is not None:
        return Taken(newest, 0, 0)
    folder = folder_of(identity.app, partition)
    present = place.names(files_in(folder))
    files: list[FileEntry] = []
    files_sent = bytes_sent = 0
    for each in packed(_rows_of(rows, partition)):
        files.append(FileEntry(each.sha256, len(each.data), each.rows))
        if _send(place, folder, each, present):
            files_sent += 1
            bytes_sent += len(each.data)
    manifest = Manifest(
        app=identity.app,
        app_uuid=meta.app_uuid,
        partition=partition,
        partitions=meta.partitions,
        topics=identity.topics,
        offset=meta.offset,
        epoch=meta.epoch,
        seq=meta.seq,
        chain=meta.chain,
        out=meta.out,
        watermark=meta.watermark,
        time_ms=now_ms,
        version=version,
        rows=sum(each.rows for each in files),
        files=tuple(files),
    )
    _check_present(place, folder, files)
    name, data = encode_manifest(manifest)
    failpoints.hit("snapshot.before_manifest")
    place.put(manifest_path(folder, name), data)
    failpoints.hit("snapshot.after_manifest")
    return Taken(StoredSnapshot(name, manifest), files_sent, bytes_sent)


def _newest(
    place: SnapshotPlace, identity: SnapshotIdentity, partition: int, meta: Meta
) -> StoredSnapshot | None:
    """The newest snapshot, if it is of the place of `meta` in this journal."""
    for name in names_of(place, identity.app, partition):
        if offset_in(name) < meta.offset:
            break
        with suppress(SnapshotDamaged):  # it is taken once more
            stored = load(place, identity.app, partition, name)
            manifest = stored.manifest
            ours = (meta.app_uuid, identity.topics, meta.offset, meta.chain, ROWS_FORMAT)
            theirs = manifest.app_uuid, manifest.topics, manifest.offset, manifest.chain, manifest.rows_format
            if theirs == ours:
                return stored
    return None


def _rows_of(rows: SnapshotRows, partition: int) -> Iterator[tuple[bytes, bytes]]:
    for start, end in ranges_of(partition):
        yield from rows.scan(start, end)


def _send(place: SnapshotPlace, folder: str, file: RowFile, present: dict[str, int]) -> bool:
    """Send a file unless it is there already; True if it was sent."""
    name = file_name(folder, file.sha256)
    if (size := present.get(name)) is not None:
        if size == len(file.data):
            return False
        place.delete(name)  # it was cut short
    failpoints.hit("snapshot.before_file")
    place.put(name, file.data)
    return True


def _check_present(place: SnapshotPlace, folder: str, files: list[FileEntry]) -> None:
    """Raises `SnapshotDamaged` unless all files are there, in their sizes: a pruning may have been under
    way.
    """
    present = place.names(files_in(folder))
    for each in files:
        name = file_name(folder, each.sha256)
        if present.get(name) != each.bytes:
            raise SnapshotDamaged(
                f"the snapshot of partition {int(folder.rpartition('/')[2])} is not complete: {name} has "
                f"{present.get(name, 'no')} of {each.bytes} bytes; nothing was finished. Take it again"
            )
