"""The snapshots of a node: they are taken while it serves, verified, and the journal is trimmed behind them.

Laws [tests/acceptance/test_snapshots.py]
- A failure to take one is logged and counted, and stops nothing.
- Nothing is trimmed behind a snapshot that was not verified. [tests/simulation]
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from perdure.schemas.config import Config
from perdure.schemas.errors import (
    OperatorError,
    OutcomeUnknown,
    SnapshotDamaged,
    StorageFailed,
    Unavailable,
)
from perdure.schemas.journal import Base
from perdure.schemas.snapshots import SnapshotConfig
from perdure.streams.datadir import DataDir, remove_folder
from perdure.streams.log.base import Log
from perdure.streams.opening import clock_ms
from perdure.streams.snapshots.accept import stored_in, verified_names
from perdure.streams.snapshots.counts import SnapshotCounts
from perdure.streams.snapshots.jobs import (
    Compared,
    JobMessage,
    SnapshotPart,
    SnapshotRefused,
    Took,
    Work,
    job_for,
)
from perdure.streams.snapshots.listing import list_all
from perdure.streams.snapshots.manifest import SnapshotIdentity, StoredSnapshot
from perdure.streams.snapshots.places import place_at
from perdure.streams.snapshots.process import OnMessage, ignored, run
from perdure.streams.snapshots.prune import prune
from perdure.streams.snapshots.restoring import Restoring
from perdure.streams.snapshots.retention import base_behind, oldest_kept
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
    """The snapshots of a node, as configured; None if they are not. Raises `ConfigError`.

    The arguments are those of `Snapshots`.
    """
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
        self._state = data.state_path
        self._scratch = data.path / "snapshots.tmp"
        shutil.rmtree(self._scratch, ignore_errors=True)  # what a process that was killed has left
        self._owners: Sequence[ServedPartition] = ()
        self._save: Callable[[], Awaitable[None]]
        self._rebase: Callable[[Any, Base], Awaitable[None]]
        keep_s = config.keep_journal_s
        self._keep_ms = None if keep_s is None else int(keep_s * 1000)
        self.counts: dict[int, SnapshotCounts] = {}
        self._numbers = count()
        self._busy = asyncio.Lock()  # one process that takes or compares at a time: they read much
        restoring = self.place, self.settings.to, self.identity, log, store, self._read
        self.restoring = Restoring(*restoring)

    async def _read(self, parts: list[SnapshotPart], on_message: OnMessage) -> None:
        """Read snapshots back, in a process of its own; its files are removed when all were taken in."""
        folder = self._scratch / f"restore-{next(self._numbers)}"
        try:
            await self._run("restore", parts, folder, on_message)
        finally:
            await remove_folder(folder)
            with suppress(OSError):  # others are at work in it
                self._scratch.rmdir()

    async def take(self, partitions: Sequence[int]) -> list[JobMessage]:
        """Take a snapshot of each of these partitions, as the store has them flushed; what became of each."""
        async with self._busy:
            messages = await self._run("take", [SnapshotPart(each) for each in partitions], self._scratch)
        for message in messages.values():
            self._count(message)
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
            await self._look()
            await asyncio.sleep(self.settings.every_s)
            await self.turn()

    async def _look(self) -> None:
        """Learn when the newest snapshots were taken of partitions that this node serves since not long."""
        for owner in self._owners:
            counts = self.counts_of(owner.partition)
            if owner.state is OwnerState.SERVING and counts.taken_ms is None:
                with suppress(StorageFailed):  # taking the next one reports it
                    await asyncio.to_thread(self._look_up, owner.partition, counts)

    def _look_up(self, partition: int, counts: SnapshotCounts) -> None:
        for stored in stored_in(self.place, self.identity.app, partition):
            if isinstance(stored, StoredSnapshot):
                manifest = stored.manifest
                counts.taken_ms, counts.bytes, counts.rows = (
                    manifest.time_ms,
                    manifest.size_bytes,
                    manifest.rows,
                )
                return

    def counts_of(self, partition: int) -> SnapshotCounts:
        """What is known of the snapshots of a partition."""
        return self.counts.setdefault(partition, SnapshotCounts())

    def _count(self, message: JobMessage) -> None:
        counts = self.counts_of(message.partition)
        if isinstance(message, SnapshotRefused):
            counts.failed += 1
        elif isinstance(message, Took) and message.name:
            counts.taken_ms, counts.bytes, counts.rows = message.time_ms, message.bytes, message.rows
            counts.taken += 1
            counts.seconds = message.seconds
            counts.bytes_sent += message.bytes_sent

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
                    part = SnapshotPart(partition, name)
                    outcome = (await self._run("compare", [part], self._scratch))[partition]
                if not isinstance(outcome, Compared):
                    self.counts_of(partition).verify_failed += 1
                    raise SnapshotDamaged(
                        outcome.reason if isinstance(outcome, SnapshotRefused) else str(outcome)
                    )
            self.counts_of(partition).verified_ms = self.counts_of(partition).taken_ms
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

    async def _run(
        self, work: Work, parts: list[SnapshotPart], folder: Path, on_message: OnMessage = ignored
    ) -> dict[int, JobMessage]:
        settings = self.settings
        job = job_for(work, parts, self.identity, self._config, settings, state=self._state, folder=folder)
        return await run(job, on_message)
