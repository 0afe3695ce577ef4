"""Pruning: which snapshots are kept, and which files no snapshot has any more.

Laws [test_snapshots.py]
- Of each journal (by app uuid, number of partitions and topic) the last `keep` snapshots that were taken
  stay, and the last `keep` verified ones: behind the oldest of these the journal may have been trimmed.
- A snapshot goes manifest first, and a file only when no readable manifest has it: a process that dies in
  between leaves files at most, which the next pruning finds.
"""

from __future__ import annotations

from typing import NamedTuple

from perdure.streams import failpoints
from perdure.streams.log.base import Topic
from perdure.streams.snapshots.accept import names_of, stored_in, verified_names
from perdure.streams.snapshots.manifest import (
    StoredSnapshot,
    file_name,
    files_in,
    folder_of,
    manifest_path,
    offset_in,
    verified_path,
)
from perdure.streams.snapshots.places import SnapshotPlace


class Pruned(NamedTuple):
    """The result of a pruning: the names of the snapshots that were removed, the number of files and their
    bytes.
    """

    names: list[str]
    files: int
    bytes: int


def prune(place: SnapshotPlace, app: str, partition: int, keep: int) -> Pruned:
    """Remove the snapshots of a partition that are not to be kept, and what only they had. Raises
    `StorageFailed`.
    """
    folder = folder_of(app, partition)
    kept = kept_of(place, app, partition, keep)
    oldest = min((offset_in(name) for name in kept), default=0)
    readable = {each.name for each in stored_in(place, app, partition) if isinstance(each, StoredSnapshot)}
    gone = []
    for name in names_of(place, app, partition):
        if name in kept or (name not in readable and offset_in(name) >= oldest):
            continue  # a damaged one stays to be looked at, as long as older ones are kept
        place.delete(manifest_path(folder, name))
        place.delete(verified_path(folder, name))
        gone.append(name)
    failpoints.hit("snapshot.before_prune")
    return Pruned(gone, *_drop_files(place, app, partition))


def kept_of(place: SnapshotPlace, app: str, partition: int, keep: int) -> dict[str, StoredSnapshot]:
    """The snapshots that a pruning leaves, by name. Raises `StorageFailed`."""
    verified = verified_names(place, app, partition)
    journals: dict[tuple[str, int, str], list[StoredSnapshot]] = {}
    for stored in stored_in(place, app, partition):
        if isinstance(stored, StoredSnapshot):
            manifest = stored.manifest
            topic = manifest.topics.get(Topic.JOURNAL.value, "")
            journals.setdefault((manifest.app_uuid, manifest.partitions, topic), []).append(stored)
    kept: dict[str, StoredSnapshot] = {}
    for snapshots in journals.values():
        snapshots.sort(
            key=lambda each: each.manifest.time_ms, reverse=True
        )  # a restored log begins lower again
        good = [stored for stored in snapshots if stored.name in verified]
        kept |= {stored.name: stored for stored in (*snapshots[:keep], *good[:keep])}
    return kept


def _drop_files(place: SnapshotPlace, app: str, partition: int) -> tuple[int, int]:
    """Delete the files that no readable manifest has; returns their number and bytes."""
    folder = folder_of(app, partition)
    present = place.names(files_in(folder))
    for stored in stored_in(
        place, app, partition
    ):  # after the files: one that is new by now has a manifest later
        if isinstance(stored, StoredSnapshot):
            for entry in stored.manifest.files:
                present.pop(file_name(folder, entry.sha256), None)
    for name in present:
        place.delete(name)
    return len(present), sum(present.values())
