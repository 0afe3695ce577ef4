"""The snapshots of a node: they are taken while it serves, and a partition without state starts from one.

Laws [tests/acceptance/test_snapshots.py]
- A snapshot that cannot be used is named in the log as an error, and the next older one is tried; where none
  is left, the journal is replayed if it is whole. If it is not, the partition stops and names the reason.
- A failure to take one is logged, and stops nothing.
- `restore` is the one way in which a partition begins from a snapshot, whichever node asks and when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from perdure.schemas.config import Config
from perdure.schemas.errors import (
    LogCorrupt,
    LogUnreachable,
    OperatorError,
    OutcomeUnknown,
    SnapshotDamaged,
    StorageFailed,
    Unavailable,
)
from perdure.schemas.journal import Base
from perdure.schemas.snapshots import SnapshotConfig
from perdure.streams import failpoints
from perdure.streams.datadir import DataDir, remove_folder
from perdure.streams.log.base import Bounds, Log, Topic
from perdure.streams.opening import clock_ms
from perdure.streams.snapshots.accept import (
    check_bounds,
    check_chain,
    check_identity,
    stored_in,
    verified_names,
)
from perdure.streams.snapshots.jobs import (
    Compared,
    JobMessage,
    SnapshotPart,
    SnapshotRefused,
    SnapshotRestored,
    Took,
    Work,
    job_for,
)
from perdure.streams.snapshots.listing import list_all
from perdure.streams.snapshots.manifest import SnapshotIdentity, StoredSnapshot
from perdure.streams.snapshots.places import place_at
from perdure.streams.snapshots.process import run
from perdure.streams.snapshots.prune import prune
from perdure.streams.snapshots.retention import base_behind, oldest_kept
from perdure.streams.state.fold import recall_ends
from perdure.streams.state.rows import ranges_of
from perdure.streams.state.tables import Tables
from perdure.streams.store.rocks import RocksStore
from perdure.streams.turns.ports import OwnerState

_logger = structlog.get_logger(__name__)


class ServedPartition(Protocol):
    """An owner, as snapshots see it."""

    @property
    def partition(self) -> int: ...

    @property
    def state(self) -> OwnerState: ...


def snapshots_of(
    config: Config, log: Log, data: DataDir, store: RocksStore, app_uuid: str
) -> Snapshots | None:
    """The snapshots of a node, as configured; None if they are not. Raises `ConfigError`."""
    return None if config.snapshots is None else Snapshots(config, log, data, store, app_uuid)


class Snapshots:
    """The snapshots of one node's partitions.

    config: the app's configuration, with the table `snapshots`.
    log: the app's log.
    data: the data directory of this node.
    store: its store, which ingests the rows of a snapshot.
    app_uuid: the app's uuid.
    """

    def __init__(self, config: Config, log: Log, data: DataDir, store: RocksStore, app_uuid: str) -> None:
        assert config.snapshots is not None
        self.settings: SnapshotConfig = config.snapshots
        self.place = place_at(self.settings.to, self.settings.endpoint)
        self.identity = SnapshotIdentity(config.name, app_uuid, log.partitions, dict(log.topic_ids))
        self._config = config
        self._log = log
        self._store = store
        self._state = data.state_path
        self._scratch = data.path / "snapshots.tmp"
        self._owners: Sequence[ServedPartition] = ()
        self._save: Callable[[], Awaitable[None]]
        self._rebase: Callable[[Any, Base], Awaitable[None]]
        keep_s = config.keep_journal_s
        self._keep_ms = None if keep_s is None else int(keep_s * 1000)
        self._errors: dict[int, OperatorError] = {}  # of partitions for which no snapshot fits
        self._busy = asyncio.Lock()  # one worker at a time: they share a folder

    async def ingest(self, tables: Tables) -> None:
        """Start from a snapshot, if this partition has to. Raises `SnapshotDamaged` if it has to and
        cannot.
        """
        if tables.partition not in self._errors:
            await self.restore([tables])
        if (error := self._errors.pop(tables.partition, None)) is not None:
            raise error

    async def restore(self, tables: Iterable[Tables]) -> None:
        """Load the newest usable snapshot into each of these partitions that has no state, or too old a
        one.
        """
        async with self._busy:
            try:
                waiting = {each.partition: each for each in tables if await self._needed(each)}
                if waiting:
                    await self._restore(waiting)
            except LogUnreachable:
                return  # the owner that begins asks again, for as long as necessary
            finally:
                await remove_folder(self._scratch)

    async def _needed(self, tables: Tables) -> bool:
        """True if the partition has no state, or one from before the journal's first record."""
        journal = await self._log.bounds(Topic.JOURNAL, tables.partition)
        if tables.reader.offset == 0:
            return journal.end > 1  # otherwise it has its header at most
        return tables.out_position.offset < journal.start

    async def _restore(self, waiting: dict[int, Tables]) -> None:
        refused: dict[int, list[str]] = {partition: [] for partition in waiting}
        while waiting:
            chosen = {each: await self._choose(each, refused[each]) for each in waiting}
            for partition in [each for each, stored in chosen.items() if stored is None]:
                del waiting[partition]
            parts = [SnapshotPart(each, stored.name) for each, stored in chosen.items() if stored is not None]
            if not parts:
                return
            for message in (await self._run("restore", parts)).values():
                stored, partition = chosen[message.partition], message.partition
                assert stored is not None
                if isinstance(message, SnapshotRestored):
                    try:
                        self._take_in(waiting[partition], message.files, stored)
                        await recall_ends(self._log, waiting[partition])
                    except OperatorError as error:
                        self._store.write(ranges_of(partition), ())
                        waiting[partition].load()
                        message = SnapshotRefused(partition, error.code, str(error))
                    else:
                        del waiting[partition]
                if isinstance(message, SnapshotRefused):
                    refused[partition].append(stored.name)
                    _log_refused(message.partition, message.reason)

    def _take_in(self, tables: Tables, files: Sequence[str], stored: StoredSnapshot) -> None:
        partition, manifest = tables.partition, stored.manifest
        if tables.reader.offset:
            self._store.write(ranges_of(partition), ())  # older than the journal's first record
        failpoints.hit("snapshot.before_ingest")
        self._store.take_in([Path(file) for file in files])
        failpoints.hit("snapshot.after_ingest")
        tables.load()
        if tables.reader.position != manifest.position:
            raise SnapshotDamaged(
                f"the snapshot {stored.name} led to {tables.reader.position}, its manifest says {manifest.position}"
            )
        _logger.info(
            "the partition starts from a snapshot",
            partition=partition,
            snapshot=stored.name,
            offset=manifest.offset,
            rows=manifest.rows,
        )

    async def _choose(self, partition: int, refused: Sequence[str]) -> StoredSnapshot | None:
        """The newest snapshot that fits the log, but for the names in `refused`; None: the journal is
        replayed.
        """
        log = self._log
        journal = await log.bounds(Topic.JOURNAL, partition)
        commands = await log.bounds(Topic.COMMANDS, partition)
        reason = ""
        try:
            candidates = await asyncio.to_thread(
                lambda: list(stored_in(self.place, self._config.name, partition))
            )
        except StorageFailed as error:
            candidates, reason = [], str(error)
            _log_refused(partition, reason)
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
        if journal.start > 0:
            self._errors[partition] = SnapshotDamaged(
                f"the journal of partition {partition} begins at offset {journal.start}, so its state needs a snapshot, "
                f"and none at {self.settings.to} can be used"
                f"{': ' + reason if reason else ', where there are none'}. Nothing was changed: restore the snapshots"
            )
        return None

    async def _check(self, stored: StoredSnapshot, partition: int, journal: Bounds, commands: Bounds) -> None:
        check_identity(stored, self.identity, partition)
        check_bounds(stored, partition, journal, commands)
        await check_chain(stored, partition, self._log, journal.start)

    async def take(self, partitions: Sequence[int]) -> list[JobMessage]:
        """Take a snapshot of each of these partitions, as the store has them flushed; what became of each."""
        async with self._busy:
            messages = await self._run("take", [SnapshotPart(each) for each in partitions])
        for message in messages.values():
            if isinstance(message, Took) and message.name:
                fields = {"partition": message.partition, "snapshot": message.name, "rows": message.rows}
                fields |= {"files_sent": message.files_sent, "bytes_sent": message.bytes_sent}
                _logger.info("a snapshot was taken", **fields)
            elif isinstance(message, SnapshotRefused):
                _logger.error(
                    "a snapshot could not be taken", partition=message.partition, reason=message.reason
                )
        return list(messages.values())

    def serve(
        self,
        owners: Sequence[ServedPartition],
        save: Callable[[], Awaitable[None]],
        rebase: Callable[[Any, Base], Awaitable[None]],
    ) -> None:
        """Snapshots are taken of the partitions of these owners.

        `save` flushes the store; `rebase` lets the journal of an owner begin later.
        """
        self._owners, self._save, self._rebase = owners, save, rebase

    async def keep(self) -> None:
        """Take snapshots of the partitions that are served, every `snapshots.every`, until cancelled."""
        while True:
            await asyncio.sleep(self.settings.every_s)
            await self.turn()

    async def turn(self) -> list[JobMessage]:
        """Take a snapshot of each partition that is served, and prune those that are not to be kept."""
        serving = {each.partition: each for each in self._owners if each.state is OwnerState.SERVING}
        messages = await self.take(list(serving))
        for message in messages:
            if isinstance(message, Took):
                if self._keep_ms is not None and message.name:
                    await self._retain(serving[message.partition], message.name, self._keep_ms)
                await self._prune(message.partition)
        return messages

    async def _retain(self, owner: ServedPartition, name: str, keep_ms: int) -> None:
        """Verify the snapshot of this name, and trim the journal behind those that were verified."""
        partition, place, identity = owner.partition, self.place, self.identity
        try:
            if name not in await asyncio.to_thread(verified_names, place, identity.app, partition):
                async with self._busy:
                    outcome = (await self._run("compare", [SnapshotPart(partition, name)]))[partition]
                if not isinstance(outcome, Compared):
                    raise SnapshotDamaged(
                        outcome.reason if isinstance(outcome, SnapshotRefused) else str(outcome)
                    )
            stored = await asyncio.to_thread(oldest_kept, place, identity, partition, self.settings.keep)
            if stored is None:
                return
            base = await base_behind(stored, identity, self._log, keep_ms, clock_ms())
            if base is not None:
                await self._rebase(owner, base)
                _logger.info(
                    "the journal was trimmed", partition=partition, start=base.start, snapshot=base.snapshot
                )
        except (OperatorError, Unavailable, OutcomeUnknown) as error:
            _logger.error("the journal is not trimmed", partition=partition, snapshot=name, reason=str(error))

    async def _prune(self, partition: int) -> None:
        try:
            await asyncio.to_thread(prune, self.place, self.identity.app, partition, self.settings.keep)
        except StorageFailed as error:
            _logger.error("snapshots could not be pruned", partition=partition, reason=str(error))

    async def listed(self) -> Any:
        """The snapshots of the app, as JSON types. Raises `StorageFailed`."""
        return await asyncio.to_thread(list_all, self.place, self.identity.app, self.identity.partitions)

    async def take_now(self) -> Any:
        """Take a snapshot of each partition that is served, of all that was acknowledged before; as JSON
        types.

        Raises the error of the first one that could not be taken.
        """
        await self._save()
        messages = await self.turn()
        for message in messages:
            if isinstance(message, SnapshotRefused):
                raise StorageFailed(f"partition {message.partition}: {message.code}: {message.reason}")
        taken = [msgspec.to_builtins(each) for each in messages if isinstance(each, Took) and each.name]
        return {"snapshots": [{name: each[name] for name in each if name != "type"} for each in taken]}

    async def _run(self, work: Work, parts: list[SnapshotPart]) -> dict[int, JobMessage]:
        return await run(
            job_for(
                work,
                parts,
                self.identity,
                self._config,
                self.settings,
                state=self._state,
                folder=self._scratch,
            )
        )


def _log_refused(partition: int, reason: str) -> None:
    _logger.error("a snapshot cannot be used", partition=partition, reason=reason)
