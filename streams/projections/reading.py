"""Reads projections in any process: their rows, and how far they are behind the journal.

The rows of a partition are written by the process that folds it; others open the database beside it, and see
what was written until they look.

Laws [test_projections.py]
- The version that is shown is the newest whose rows have reached the end of the journal in every partition;
  before the first one has, the newest there is.
- Rows that may be older than the journal say so: `stale` is True while a partition has no process, has
  stopped, or has not caught up since its process began.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from perdure.objects.projection import Projection
from perdure.streams.projections.rows import Progress, RowKeys, RowReading, after, progress_in, versions_in
from perdure.streams.projections.shares import is_locked, lock_in

LIVE, CATCHING_UP, STOPPED, ABANDONED, NEW = "live", "catching up", "stopped", "no process", "not begun"


class PartitionProgress(NamedTuple):
    """The progress of one version of a projection in a partition, and its state."""

    partition: int
    state: str
    progress: Progress


class ProjectedRow(NamedTuple):
    """A row as it is shown; `partition` is None if it was merged of those of all partitions."""

    key: str
    row: Any
    partition: int | None


class RowPage(NamedTuple):
    """A page of rows: the version that they are of, and the key to continue with, None at the end."""

    version: int
    rows: list[ProjectedRow]
    cursor: str | None


class ProjectionReading:
    """The projections in a folder, as they are when a method is called. Close it."""

    def __init__(self, folder: Path, partitions: int) -> None:
        self._folder = folder
        self._partitions = partitions
        self._open: dict[int, RowReading] = {}

    def _stores(self) -> dict[int, RowReading]:
        for partition in range(self._partitions):
            path = self._folder / str(partition)
            if partition not in self._open and (path / "CURRENT").exists():
                self._open[partition] = RowReading(path)
        for store in self._open.values():
            store.catch_up()
        return self._open

    def versions(self) -> dict[str, dict[int, list[PartitionProgress]]]:
        """By name and version: the progress in each partition. Raises `StoreCorrupt`, `StorageFailed`."""
        stores = self._stores()
        versions: dict[str, dict[int, list[PartitionProgress]]] = {}
        for partition, store in stores.items():
            locked = is_locked(lock_in(self._folder, partition))
            for name, version, progress in versions_in(store):
                shown = PartitionProgress(partition, _state(progress, locked=locked), progress)
                versions.setdefault(name, {}).setdefault(version, []).append(shown)
        for of_name in versions.values():
            for parts in of_name.values():
                there = {each.partition for each in parts}
                missing = (each for each in range(self._partitions) if each not in there)
                parts += [PartitionProgress(each, NEW, Progress()) for each in missing]
                parts.sort(key=lambda each: each.partition)
        return versions

    def shown_version(self, name: str) -> int | None:
        """The version of a projection whose rows are shown; None if it was never begun."""
        versions = self.versions().get(name)
        if not versions:
            return None
        whole = [each for each, parts in versions.items() if all(part.progress.complete for part in parts)]
        return max(whole) if whole else max(versions)

    def rows(
        self, projection: Projection[Any], *, prefix: str = "", start: str = "", limit: int = 100
    ) -> RowPage:
        """A page of rows by key.

        projection: its declaration.
        prefix: only keys that begin with it.
        start: only keys from this one on.
        limit: so many keys at most.
        """
        version = self.shown_version(projection.name)
        if version is None:
            return RowPage(0, [], None)
        keys, stores = RowKeys(projection.name, version), self._stores()
        known = [progress_in(store, keys) for store in stores.values()]
        typed = all(each is None or each.fingerprint == projection.fingerprint for each in known)
        # rows of an older version may have another type: they are shown as they lie
        decode = (msgspec.msgpack.Decoder(projection.row_type) if typed else msgspec.msgpack.Decoder()).decode
        merge = projection.merge if typed else None
        low = keys.of(max(prefix, start))
        high = after(keys.of(prefix)) if prefix else keys.behind
        each = [_numbered(store, low, high, partition) for partition, store in stores.items()]
        shown: list[ProjectedRow] = []
        for key, partition, row in heapq.merge(*each, key=lambda numbered: numbered[:2]):
            name = keys.name_in(key)
            if merge is not None and shown and shown[-1].key == name:
                shown[-1] = ProjectedRow(name, merge(shown[-1].row, decode(row)), None)
                continue
            if len(shown) >= limit and shown[-1].key != name:
                return RowPage(version, shown, name)
            shown.append(ProjectedRow(name, decode(row), None if merge else partition))
        return RowPage(version, shown, None)

    def close(self) -> None:
        for store in self._open.values():
            store.close()
        self._open.clear()


def _numbered(
    store: RowReading, low: bytes, high: bytes, partition: int
) -> Iterator[tuple[bytes, int, bytes]]:
    for key, row in store.scan(low, high):
        yield key, partition, row


def _state(progress: Progress, *, locked: bool) -> str:
    if progress.error:
        return STOPPED
    if not locked:
        return ABANDONED
    return LIVE if progress.live else CATCHING_UP


def complete_everywhere(folder: Path, partitions: int, versions: Mapping[str, int]) -> dict[str, int]:
    """Those of these projections (name → version) whose rows have been complete in every partition."""
    reading = ProjectionReading(folder, partitions)
    try:
        stores = reading._stores()
        return {
            name: version
            for name, version in versions.items()
            if len(stores) == partitions
            and all(_is_complete(each, name, version) for each in stores.values())
        }
    finally:
        reading.close()


def _is_complete(store: RowReading, name: str, version: int) -> bool:
    progress = progress_in(store, RowKeys(name, version))
    return progress is not None and progress.complete
