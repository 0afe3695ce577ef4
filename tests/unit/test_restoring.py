"""Beginning with a snapshot: when it is worth it, what is tried next, and how several are read at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from tests.unit.harness import rows
from tests.unit.one_owner import OneOwner, story

from perdure.objects.durable import DurableObject
from perdure.schemas.errors import SnapshotDamaged
from perdure.streams.log.base import Bounds, Topic
from perdure.streams.snapshots import restoring as restoring_module
from perdure.streams.snapshots.accept import load
from perdure.streams.snapshots.jobs import JobMessage, SnapshotPart, SnapshotRefused, SnapshotRestored
from perdure.streams.snapshots.manifest import SnapshotIdentity
from perdure.streams.snapshots.places import MemoryPlace
from perdure.streams.snapshots.process import OnMessage
from perdure.streams.snapshots.restore import rows_of
from perdure.streams.snapshots.restoring import Restoring, _Readers
from perdure.streams.snapshots.take import take
from perdure.streams.state.fold import fold
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore

ME = SnapshotIdentity("app", "app-uuid", 1, {})
_Rows = list[tuple[bytes, bytes]]


class Thing(DurableObject):
    async def put(self, value: int) -> int:
        await self.state.put({"value": value, "twice": 2 * value})
        return value


class Files(MemoryStore):
    """A store in memory that takes in files which are in memory, too."""

    def __init__(self, files: dict[str, _Rows]) -> None:
        super().__init__()
        self.files = files
        self.taken_in = 0

    def take_in(self, files: Iterable[Path]) -> None:
        for file in files:
            self.taken_in += 1
            self.write((), self.files[str(file)])


class Reading:
    """Reads snapshots back without a process; those in `refused` it cannot read."""

    def __init__(self, place: MemoryPlace) -> None:
        self.place = place
        self.files: dict[str, _Rows] = {}
        self.refused: set[str] = set()
        self.read: list[str] = []

    async def __call__(self, parts: list[SnapshotPart], on_message: OnMessage) -> None:
        for part in parts:
            self.read.append(part.name)
            await asyncio.sleep(0.01)
            message: JobMessage = SnapshotRefused(part.partition, SnapshotDamaged.code, "it cannot be read")
            if part.name not in self.refused:
                stored = load(self.place, "app", part.partition, part.name)
                self.files[part.name] = list(rows_of(self.place, stored, part.partition))
                message = SnapshotRestored(part.partition, [part.name])
            await on_message(message)


class _Trimmed:
    """The log, as if its journal had been trimmed; the check at the end of a story needs it whole."""

    def __init__(self, log: Any) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def bounds(self, topic: Topic, partition: int) -> Bounds:
        bounds: Bounds = await self._log.bounds(topic, partition)
        return bounds._replace(start=5) if topic is Topic.JOURNAL else bounds


async def _direct(function: Callable[..., Any], *given: Any) -> Any:
    return function(*given)


async def _snapshot(harness: OneOwner, place: MemoryPlace, puts: int) -> str:
    """Change some objects, and take a snapshot; its name."""
    random = Random(puts)
    for n in range(puts):
        await harness.call(str(random.randrange(9)), "put", n)
    harness.owner.tables.write_all()
    taken = take(harness.store, 0, place, ME, now_ms=harness.clock_ms(), version="1")
    assert taken is not None
    return taken.stored.name


def _restoring(harness: OneOwner, reading: Reading, store: Files) -> Restoring:
    return Restoring(reading.place, "memory", ME, harness.log, store, reading, _direct)


async def _folded(harness: OneOwner, tables: Tables) -> _Rows:
    """The rows of these tables, once the rest of the journal is folded on top."""
    await fold(harness.log, tables, harness.owner.tables.reader.offset)
    tables.write_all()
    return rows(tables)


def test_the_next_older_one_is_tried_and_the_rest_is_folded() -> None:
    """The newest cannot be read: the one before it is taken in, and with the tail the rows are the live
    ones.
    """

    async def told(harness: OneOwner) -> None:
        reading = Reading(MemoryPlace())
        older, newest = (
            await _snapshot(harness, reading.place, 20),
            await _snapshot(harness, reading.place, 30),
        )
        reading.refused.add(newest)
        store = Files(reading.files)
        tables = Tables(store, 0, exclusive=True)
        await _restoring(harness, reading, store).ingest(tables)
        assert reading.read == [newest, older]
        assert await _folded(harness, tables) == rows(harness.owner.tables)

    story(Thing, told)


@pytest.mark.parametrize("behind", [20, 10_000])
def test_a_state_that_is_far_behind_begins_with_a_snapshot(
    behind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that comes back has a state of long ago: it reads a snapshot if that saves enough."""
    monkeypatch.setattr(restoring_module, "BEHIND", behind)

    async def told(harness: OneOwner) -> None:
        reading = Reading(MemoryPlace())
        store = Files(reading.files)
        await _snapshot(harness, MemoryPlace(), 5)
        tables = Tables(store, 0, exclusive=True)
        old = harness.owner.tables.reader.offset
        await fold(harness.log, tables, old)
        tables.write_all()
        await _snapshot(harness, reading.place, 40)
        await harness.call("3", "put", 0)
        harness.owner.tables.write_all()
        await _restoring(harness, reading, store).ingest(tables)
        assert (tables.reader.offset > old) == bool(reading.read) == (behind == 20)
        assert await _folded(harness, tables) == rows(harness.owner.tables)

    story(Thing, told)


def test_a_partition_that_needs_a_snapshot_and_has_none_says_so() -> None:
    """Its journal was trimmed: what `restore` met is raised when the partition begins, and the next attempt
    looks again."""

    async def told(harness: OneOwner) -> None:
        reading = Reading(MemoryPlace())
        name = await _snapshot(harness, reading.place, 20)
        reading.refused.add(name)
        store = Files(reading.files)
        tables = Tables(store, 0, exclusive=True)
        restoring = _restoring(harness, reading, store)
        restoring._log = cast("Any", _Trimmed(harness.log))
        await restoring.restore([tables])
        with pytest.raises(SnapshotDamaged, match="so its state needs a snapshot"):
            await restoring.ingest(tables)
        reading.refused.clear()
        await restoring.ingest(tables)
        assert await _folded(harness, tables) == rows(harness.owner.tables)

    story(Thing, told)


def test_what_is_not_waited_for_any_more_is_not_taken_in() -> None:
    """The partition went elsewhere while its snapshot was read: its tables stay as they are."""

    async def told(harness: OneOwner) -> None:
        reading = Reading(MemoryPlace())
        await _snapshot(harness, reading.place, 20)
        store = Files(reading.files)
        tables = Tables(store, 0, exclusive=True)
        task = asyncio.create_task(_restoring(harness, reading, store).ingest(tables))
        await harness.until(lambda: reading.read)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await asyncio.sleep(1)
        assert (store.taken_in, tables.reader.offset) == (0, 0)

    story(Thing, told)


@pytest.mark.parametrize("wanted", [1, 2, 3, 17])
def test_several_are_read_at_once_by_few_processes(wanted: int) -> None:
    """Each partition's snapshot is read once; no more processes run than the machine has processors; a
    partition does not wait for those that are read after it."""

    async def told(harness: OneOwner) -> None:
        running, most, ended = 0, 0, list[int]()

        async def read(
            parts: list[SnapshotPart], on_message: Callable[[JobMessage], Awaitable[None]]
        ) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                for part in parts:
                    await asyncio.sleep(0.1)
                    await on_message(SnapshotRestored(part.partition, [str(part.partition)]))
                    assert not set(ended) & {each.partition for each in parts[parts.index(part) + 1 :]}
                    assert part is parts[0] or parts[0].partition in ended
            finally:
                running -= 1

        readers = _Readers(read)
        readers._most = 2

        async def one(partition: int) -> None:
            files: list[str] = []
            await readers.read(SnapshotPart(partition, "name"), files.extend)
            assert files == [str(partition)]
            ended.append(partition)

        await asyncio.gather(*map(one, range(wanted)))
        assert sorted(ended) == list(range(wanted))
        assert (most, running) == (min(wanted, 2), 0)

    story(Thing, told)
