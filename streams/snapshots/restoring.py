"""Restoring: a partition without state, or far behind its journal, begins with the newest snapshot that fits.

An owner or a follower that begins calls `ingest`. Processes beside the node read snapshots back
(`worker.py`), and the store takes in the files that they make. A snapshot that is being taken or compared
delays none.

Laws [test_restoring.py, tests/acceptance/test_snapshots.py, tests/simulation]
- A snapshot that cannot be used is named in the log as an error, and the next older one is tried. Where none
  is left, the journal is replayed if that is possible; if it is not, `ingest` raises, and names the reason.
- Rows are taken in only for a partition that still waits for them.
- It is the one way in which a partition begins from a snapshot, whichever node asks and when.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import structlog

from perdure.schemas.errors import (
    LogCorrupt,
    LogUnreachable,
    OperatorError,
    SnapshotDamaged,
    StorageFailed,
)
from perdure.streams import failpoints
from perdure.streams.log.base import Bounds, Log, Topic
from perdure.streams.snapshots.accept import (
    check_bounds,
    check_chain,
    check_identity,
    names_of,
    stored_in,
)
from perdure.streams.snapshots.jobs import JobMessage, SnapshotPart, SnapshotRefused, SnapshotRestored
from perdure.streams.snapshots.manifest import SnapshotIdentity, StoredSnapshot, offset_in
from perdure.streams.snapshots.places import SnapshotPlace
from perdure.streams.snapshots.process import OnMessage
from perdure.streams.state.fold import recall_ends
from perdure.streams.state.rows import ranges_of
from perdure.streams.state.tables import Tables

BEHIND = 100_000  # journal records, some seconds of a fold: a state that lacks more begins with a snapshot
MOST_READERS = 4  # processes; on a machine with fewer processors as many as it has

_logger = structlog.get_logger(__name__)
Read = Callable[[list[SnapshotPart], OnMessage], Awaitable[object]]
InThread = Callable[..., Awaitable[Any]]  # a function and its arguments, as `asyncio.to_thread`


class IngestingStore(Protocol):
    """A store that takes in the files which a reader of snapshots has made."""

    def write(
        self, removed: Iterable[tuple[bytes, bytes]], rows: Iterable[tuple[bytes, bytes | None]]
    ) -> None: ...

    def take_in(self, files: Iterable[Path]) -> None: ...


class Restoring:
    """Begins the partitions of one node from snapshots.

    Args:
        place: where the snapshots lie; `named` is how errors name it.
        identity: whose they are.
        log: the app's log.
        store: the store of the partitions' tables.
        read: reads snapshots back, in a process of its own; called with the parts of one job.
        in_thread: runs a function that blocks.
    """

    def __init__(
        self,
        place: SnapshotPlace,
        named: str,
        identity: SnapshotIdentity,
        log: Log,
        store: IngestingStore,
        read: Read,
        in_thread: InThread = asyncio.to_thread,
    ) -> None:
        self._place = place
        self._named = named
        self._identity = identity
        self._log = log
        self._store = store
        self._readers = _Readers(read)
        self._in_thread = in_thread
        self._errors: dict[int, SnapshotDamaged] = {}  # of partitions for which no snapshot fits

    async def ingest(self, tables: Tables) -> None:
        """Begin with a snapshot, if there is reason to and one fits.

        Raises `SnapshotDamaged` if the partition needs one and none can be used.
        """
        if (error := self._errors.pop(tables.partition, None)) is not None:
            raise error
        try:
            await self._begin(tables)
        except LogUnreachable:
            return  # the owner that begins asks again, for as long as necessary

    async def restore(self, tables: Iterable[Tables]) -> None:
        """As `ingest`, for several partitions; what it raises for one is raised when that one begins."""

        async def one(each: Tables) -> None:
            try:
                await self.ingest(each)
            except SnapshotDamaged as error:
                self._errors[each.partition] = error

        await asyncio.gather(*map(one, tables))

    async def _begin(self, tables: Tables) -> None:
        partition, refused = tables.partition, list[str]()
        while (stored := await self._choose(tables, refused)) is not None:

            def take_in(files: Sequence[str], stored: StoredSnapshot = stored) -> None:
                self._take_in(tables, files, stored)

            try:
                await self._readers.read(SnapshotPart(partition, stored.name), take_in)
                await recall_ends(self._log, tables)
            except LogUnreachable:
                raise  # the rows stay: the owner reads on from there
            except OperatorError as error:
                if tables.reader.position == stored.manifest.position:  # they had been taken in
                    self._store.write(ranges_of(partition), ())
                    tables.load()
                refused.append(stored.name)
                _log_refused(partition, str(error))
            else:
                return

    def _take_in(self, tables: Tables, files: Sequence[str], stored: StoredSnapshot) -> None:
        partition, manifest = tables.partition, stored.manifest
        if tables.reader.offset:
            self._store.write(ranges_of(partition), ())  # the state that is too old
        failpoints.hit("snapshot.before_ingest")
        self._store.take_in([Path(file) for file in files])
        failpoints.hit("snapshot.after_ingest")
        tables.load()
        if tables.reader.position != manifest.position:
            self._store.write(ranges_of(partition), ())
            led_to = tables.reader.position
            tables.load()
            raise SnapshotDamaged(
                f"the snapshot {stored.name} led to {led_to}, its manifest says {manifest.position}"
            )
        _logger.info(
            "the partition starts from a snapshot",
            partition=partition,
            snapshot=stored.name,
            offset=manifest.offset,
            rows=manifest.rows,
        )

    async def _choose(self, tables: Tables, refused: Sequence[str]) -> StoredSnapshot | None:
        """The newest snapshot that the partition is to begin with, but for the names in `refused`; None: its
        journal is read instead.
        """
        log, partition = self._log, tables.partition
        journal = await log.bounds(Topic.JOURNAL, partition)
        lost = tables.out_position.offset < journal.start  # it cannot read on from where it stands
        ahead = 0 if lost or not tables.reader.offset else tables.reader.offset + BEHIND
        if journal.end <= max(ahead, 1):  # the journal has its header at most, or is near
            return None
        commands = await log.bounds(Topic.COMMANDS, partition)
        candidates, reason = await self._candidates(partition, ahead)
        for stored in candidates:
            if isinstance(stored, StoredSnapshot) and stored.name in refused:
                reason = f"{stored.name} was refused"
                continue
            try:
                if isinstance(stored, SnapshotDamaged):
                    raise stored
                await self._check(stored, partition, journal, commands)
            except (SnapshotDamaged, LogCorrupt) as error:
                reason = str(error)
                _log_refused(partition, reason)
            else:
                return stored
        if lost:
            raise SnapshotDamaged(
                f"the journal of partition {partition} begins at offset {journal.start}, so its state needs a snapshot, "
                f"and none at {self._named} can be used"
                f"{': ' + reason if reason else ', where there are none'}. Nothing was changed: restore the snapshots"
            )
        return None

    async def _candidates(
        self, partition: int, ahead: int
    ) -> tuple[list[StoredSnapshot | SnapshotDamaged], str]:
        """The snapshots of places behind `ahead`, the newest first, and why there may be others."""
        place, app = self._place, self._identity.app

        def read() -> list[StoredSnapshot | SnapshotDamaged]:
            if ahead and not any(offset_in(name) > ahead for name in names_of(place, app, partition)):
                return []
            stored = list(stored_in(place, app, partition))
            return [
                each
                for each in stored
                if not ahead or (isinstance(each, StoredSnapshot) and each.manifest.offset > ahead)
            ]

        try:
            return await self._in_thread(read), ""
        except StorageFailed as error:
            _log_refused(partition, str(error))
            return [], str(error)

    async def _check(self, stored: StoredSnapshot, partition: int, journal: Bounds, commands: Bounds) -> None:
        check_identity(stored, self._identity, partition)
        check_bounds(stored, partition, journal, commands)
        await check_chain(stored, partition, self._log, journal.start)


class _Wanted:
    """A snapshot that a partition waits for. `take_in` is called with the files of its rows."""

    __slots__ = ("ended", "part", "share", "take_in")

    def __init__(self, part: SnapshotPart, take_in: Callable[[Sequence[str]], None]) -> None:
        self.part = part
        self.take_in = take_in
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.share: asyncio.Task[None] | None = None  # the process that reads it


class _Readers:
    """Processes that read snapshots back, each a share of those that are waited for."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._waiting: list[_Wanted] = []
        self._reading: dict[asyncio.Task[None], list[_Wanted]] = {}
        self._most = max(1, min(os.cpu_count() or 1, MOST_READERS))

    async def read(self, part: SnapshotPart, take_in: Callable[[Sequence[str]], None]) -> None:
        """Return when `take_in` has been called with the snapshot's files. Raises why it was not."""
        wanted = _Wanted(part, take_in)
        self._waiting.append(wanted)
        self._begin()
        try:
            await wanted.ended
        finally:
            if wanted in self._waiting:
                self._waiting.remove(wanted)
            share = wanted.share
            if share is not None and all(each.ended.done() for each in self._reading.get(share, ())):
                share.cancel()
                await asyncio.gather(share, return_exceptions=True)  # no process of it is left

    def _begin(self) -> None:
        while self._waiting and (free := self._most - len(self._reading)) > 0:
            number = -(-len(self._waiting) // free)
            share, self._waiting = self._waiting[:number], self._waiting[number:]
            task = asyncio.get_running_loop().create_task(self._run(share))
            self._reading[task] = share
            for each in share:
                each.share = task
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._reading[task]
        self._begin()

    async def _run(self, share: list[_Wanted]) -> None:
        wanted = {each.part.partition: each for each in share}

        async def on_message(message: JobMessage) -> None:
            each = wanted[message.partition]
            if each.ended.done():
                return  # it is not waited for any more
            try:
                if isinstance(message, SnapshotRestored):
                    each.take_in(message.files)
                    each.ended.set_result(None)
                else:
                    reason = message.reason if isinstance(message, SnapshotRefused) else str(message)
                    raise SnapshotDamaged(reason)
            except Exception as error:  # noqa: BLE001 - it is that partition's
                each.ended.set_exception(error)

        try:
            await self._read([each.part for each in share], on_message)
        except Exception as error:  # noqa: BLE001 - reported to each that waits
            for each in share:
                if not each.ended.done():
                    each.ended.set_exception(error)


def _log_refused(partition: int, reason: str) -> None:
    _logger.error("a snapshot cannot be used", partition=partition, reason=reason)
