"""Follows the journals of an app and folds them into projections: what a projection process does.

    DATA/projections/{generation}/     the folder that the processes of one machine share

Laws [test_projections.py, tests/acceptance/test_projections.py]
- It reads durable records only, and writes nothing to the log: no turn waits for it.
- A partition that cannot go on stops alone, and its progress says why. Brokers that do not answer stop
  nothing: it tries again.
- An older version of a projection is kept, and shown, until the newer one has reached the end of the journal
  in every partition.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import structlog

from perdure.objects.projection import Projection
from perdure.schemas.errors import ConfigError, LogUnreachable, OperatorError, PerdureError, StorageFailed
from perdure.streams import failpoints
from perdure.streams.log.base import Bounds, Followed, LogRecord, Topic
from perdure.streams.projections.fold import Fold, FoldGroup, behind_the_log
from perdure.streams.projections.reading import complete_everywhere
from perdure.streams.projections.rows import FOLDER, Progress, RowKeys, RowStore, versions_in
from perdure.streams.projections.shares import Shares

IDLE_S = {True: 0.02, False: 0.1}  # by `Log.exclusive`: between two looks at a log that had nothing new
SHARES_S = 0.5  # between two looks at who else folds
RETRY_S = 1.0
PIECE_RECORDS = 20_000  # of one group, before the next one has its turn

_logger = structlog.get_logger(__name__)


def folder_in(data_dir: Path, log: Followed) -> Path:
    """Where the rows of an app's projections lie in its data directory."""
    return data_dir / FOLDER / log.generation


class PartitionFolds:
    """All projections in one partition: its database, and the groups of folds that stand at one place."""

    def __init__(
        self, partition: int, folder: Path, projections: Sequence[Projection[Any]], *, exclusive: bool
    ) -> None:
        self.partition = partition
        self.store = RowStore(folder / str(partition))
        self._exclusive = exclusive
        self.groups: list[FoldGroup] = []
        self._reads: dict[FoldGroup, AsyncIterator[Sequence[LogRecord]]] = {}
        by_position: dict[Any, list[Fold]] = {}
        for projection in projections:
            try:
                fold = Fold(projection, self.store)
            except ConfigError as error:
                _logger.error("a projection is not folded", projection=projection.name, reason=str(error))
                continue
            by_position.setdefault(fold.progress.position, []).append(fold)
        for folds in by_position.values():
            self.groups.append(self._group(folds))

    def _group(self, folds: Sequence[Fold]) -> FoldGroup:
        return FoldGroup(self.partition, folds, self.store, exclusive=self._exclusive)

    async def advance(self, log: Followed, bounds: Bounds) -> int:
        """Fold what is on the log, a piece of each group at most; returns how many records that were."""
        moved = 0
        for group in list(self.groups):
            if any(fold.stopped for fold in group.folds):
                continue
            try:
                moved += await self._advance(group, log, bounds)
            except LogUnreachable:
                self._reads.pop(group, None)
                raise
            except (OperatorError, OSError) as error:
                if isinstance(error, StorageFailed):
                    raise
                self._stop(group, error)
        self._join()
        return moved

    async def _advance(self, group: FoldGroup, log: Followed, bounds: Bounds) -> int:
        position = group.position
        if (problem := behind_the_log(bounds.start, bounds.end, position, self.partition)) is not None:
            raise problem
        moved = 0
        while moved < PIECE_RECORDS and group.position.offset < bounds.end:
            reading = self._reads.get(group)
            if reading is None:
                at = group.position.offset
                reading = self._reads[group] = log.read(Topic.JOURNAL, self.partition, at, bounds.end)
            records = await anext(reading, None)
            if records is None:  # it read up to the end that was known when it began
                del self._reads[group]
                continue
            moved += len(records)
            try:
                parted = group.take(records)
            finally:
                failpoints.hit("projections.before_write")
                self._write(group, bounds)
            for fold in parted:
                _logger.warning(
                    "the function of a projection raised",
                    projection=fold.projection.name,
                    partition=self.partition,
                    offset=fold.poison,
                    error=fold.failure,
                )
                self.groups.append(self._group([fold]))
            if not group.folds:
                await self._drop(group)
                return moved
            if group.folds[0].stopped:
                return moved
        if group.folds and not group.folds[0].progress.live and group.position.offset >= bounds.end:
            self._write(group, bounds)
        return moved

    def _write(self, group: FoldGroup, bounds: Bounds) -> None:
        if not group.folds:
            return
        if group.position.offset >= bounds.end:
            for fold in group.folds:
                fold.progress.live = not fold.stopped
                fold.progress.complete = fold.progress.complete or not fold.stopped
        group.write()
        failpoints.hit("projections.after_write")

    async def _drop(self, group: FoldGroup) -> None:
        self.groups.remove(group)
        reading = self._reads.pop(group, None)
        if reading is not None:
            await _end(reading)

    def _stop(self, group: FoldGroup, error: Exception) -> None:
        for fold in group.folds:
            fold.stop(str(error))
        group.write()
        _logger.error(
            "projections have stopped in a partition",
            partition=self.partition,
            projections=[fold.projection.name for fold in group.folds],
            reason=str(error),
        )

    def _join(self) -> None:
        """Make groups that stand at the same place one."""
        for one in list(self.groups):
            for other in list(self.groups):
                both = one is not other and one in self.groups and other in self.groups
                if both and one not in self._reads and other not in self._reads and one.joins(other):
                    self.groups.remove(one)
                    self.groups.remove(other)
                    self.groups.append(self._group([*one.folds, *other.folds]))

    def drop_older(self, newest: Mapping[str, int]) -> None:
        """Remove the rows of versions older than these."""
        for name, version, _ in list(versions_in(self.store)):
            if version < newest.get(name, 0):
                keys = RowKeys(name, version)
                self.store.write([(keys.rows, keys.behind)], [(keys.progress, None)])
                _logger.info(
                    "an older version of a projection is removed",
                    projection=name,
                    version=version,
                    partition=self.partition,
                )

    @property
    def has_older(self) -> bool:
        """True if there are rows of a version older than the one that is folded here."""
        folded = {
            fold.projection.name: fold.projection.version for group in self.groups for fold in group.folds
        }
        return any(version < folded.get(name, 0) for name, version, _ in versions_in(self.store))

    async def close(self) -> None:
        """Close the database; what was folded is written."""
        for reading in self._reads.values():
            await _end(reading)
        self._reads.clear()
        self.store.close()


async def _end(reading: AsyncIterator[Any]) -> None:
    close = getattr(reading, "aclose", None)
    if close is not None:
        await close()


class Feed(Protocol):
    """A receiver of the records of partitions, beside their projections (events.py)."""

    async def advance(self, log: Followed, partition: int, bounds: Bounds) -> int:
        """Take a piece of a partition; returns how many records. Raises `LogUnreachable`."""

    def forget(self, partition: int) -> None:
        """Another process has the partition now."""

    async def close(self) -> None: ...


class ProjectionWorker:
    """A process that folds projections: its share of the partitions, until it is cancelled.

    projections: what is folded.
    log: the app's log, followed.
    folder: where the rows lie (`folder_in`), which other processes may share.
    feed: what also gets the records of the partitions that this process has; None for nothing.
    """

    def __init__(
        self,
        projections: Sequence[Projection[Any]],
        log: Followed,
        folder: Path,
        feed: Feed | None = None,
    ) -> None:
        self._feed = feed
        self._projections = projections
        self._log = log
        self._folder = folder
        self._shares = Shares(folder, log.partitions)
        self._partitions: dict[int, PartitionFolds] = {}
        self._looked_s = -SHARES_S

    async def run(self, *, until_end: bool = False) -> dict[tuple[int, str], Progress]:
        """Fold until cancelled; with `until_end`, until each of its partitions is at the end that it had.

        Returns the progress, by (partition, projection), of what this process folded.

        Raises `StorageFailed` or `StoreCorrupt` of the rows.
        """
        clock = asyncio.get_running_loop().time
        ends: dict[int, Bounds] = {}
        try:
            while True:
                try:
                    if clock() - self._looked_s >= SHARES_S:
                        self._looked_s = clock()
                        await self._settle()
                    moved = await self.step(ends if until_end else None)
                except LogUnreachable as error:
                    _logger.warning("the log cannot be read; trying again", reason=str(error))
                    await asyncio.sleep(RETRY_S)
                    continue
                if until_end and not moved and self._at(ends):
                    return self.progress
                if not moved:
                    await asyncio.sleep(IDLE_S[self._log.exclusive])
        finally:
            await self.close()

    async def step(self, ends: dict[int, Bounds] | None = None) -> int:
        """Fold a piece of each partition; returns how many records. `ends` gets the bounds first seen."""
        bounds = await self._log.all_bounds(Topic.JOURNAL)
        if ends is not None:
            for partition, each in bounds.items():
                ends.setdefault(partition, each)
        moved = 0
        for partition, folds in list(self._partitions.items()):
            if partition in bounds:
                moved += await folds.advance(self._log, bounds[partition])
                if self._feed is not None:
                    moved += await self._feed.advance(self._log, partition, bounds[partition])
                await asyncio.sleep(0)
        return moved

    def _at(self, ends: Mapping[int, Bounds]) -> bool:
        """True if all partitions of this process have been folded up to `ends`, or have stopped."""
        return bool(ends) and all(
            group.position.offset >= ends[partition].end or any(fold.stopped for fold in group.folds)
            for partition, folds in self._partitions.items()
            for group in folds.groups
        )

    async def _settle(self) -> None:
        """Give up what is more than this process's share, take what is free, and remove old versions."""
        for partition in self._shares.excess():
            await self._partitions.pop(partition).close()
            if self._feed is not None:
                self._feed.forget(partition)
            self._shares.give_up(partition)
        while (taken := self._shares.take()) is not None:
            try:
                self._partitions[taken] = PartitionFolds(
                    taken, self._folder, self._projections, exclusive=self._log.exclusive
                )
            except BaseException:
                self._shares.give_up(taken)
                raise
        if any(each.has_older for each in self._partitions.values()):
            newest = {each.name: each.version for each in self._projections}
            whole = complete_everywhere(self._folder, self._log.partitions, newest)
            for each in self._partitions.values():
                each.drop_older(whole)

    @property
    def progress(self) -> dict[tuple[int, str], Progress]:
        """By (partition, projection), of what this process folds."""
        return {
            (partition, fold.projection.name): fold.progress
            for partition, folds in self._partitions.items()
            for group in folds.groups
            for fold in group.folds
        }

    async def close(self) -> None:
        """Close all partitions and leave the folder to others."""
        if self._feed is not None:
            await self._feed.close()
        for folds in self._partitions.values():
            with contextlib.suppress(PerdureError):  # the failure that ends the process is raised
                await folds.close()
        self._partitions.clear()
        self._shares.close()
