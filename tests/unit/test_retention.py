"""Trimming the journal: never before a verified snapshot holds what goes, and never further."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any
from unittest.mock import patch

import pytest
from msgspec.structs import replace
from tests.unit.harness import rows
from tests.unit.one_owner import OneOwner, story

from perdure.objects.durable import DurableObject
from perdure.schemas.errors import Fenced, LogCorrupt, SnapshotDamaged
from perdure.schemas.journal import Base, Header
from perdure.streams import failpoints
from perdure.streams.journal.bootstrap import bootstrap_log
from perdure.streams.log.base import Topic
from perdure.streams.owner.rebase import rebase
from perdure.streams.owner.recovery import _see_rivals
from perdure.streams.snapshots import retention
from perdure.streams.snapshots.accept import check_bounds, check_chain, check_identity, stored_in
from perdure.streams.snapshots.manifest import (
    SnapshotIdentity,
    StoredSnapshot,
    encode_manifest,
    folder_of,
    manifest_path,
    verified_path,
)
from perdure.streams.snapshots.places import MemoryPlace
from perdure.streams.snapshots.prune import prune
from perdure.streams.snapshots.restore import rows_of
from perdure.streams.snapshots.retention import base_behind, oldest_kept
from perdure.streams.snapshots.take import take
from perdure.streams.state.fold import fold, recall_ends
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore
from perdure.streams.turns.ports import OwnerState

HOUR_MS = KEEP_MS = 3_600_000


class Thing(DurableObject):
    async def put(self, value: int) -> int:
        await self.state.put({"value": value, f"v{value % 5}": value})
        return value

    async def get(self) -> int:
        value: int = await self.state.get("value", 0)
        return value


class Kept:
    """A harness whose partition has snapshots in `place`, which are verified or not as the story has it."""

    def __init__(self, harness: OneOwner) -> None:
        self.harness = harness
        self.place = MemoryPlace()
        self.identity = SnapshotIdentity("app", "app-uuid", 1, {})
        self.values: dict[str, int] = {}

    async def puts(self, count: int) -> None:
        for _ in range(count):
            name, value = str(len(self.values) % 7), len(self.values) + 1
            self.values[f"{value}"] = value
            reply = await self.harness.call(name, "put", value)
            assert reply.outcome == "ok"
        self.harness.owner.tables.write_all()

    def snapshot(self, *, verified: bool = True) -> StoredSnapshot:
        taken = take(
            self.harness.store, 0, self.place, self.identity, now_ms=self.harness.clock_ms(), version="1"
        )
        assert taken is not None
        if verified:
            self.place.put(verified_path(folder_of("app", 0), taken.stored.name), b"{}")
        return taken.stored

    async def trim(self, keep: int = 2) -> int:
        """What a node does after a snapshot; where the journal begins then."""
        harness = self.harness
        stored = oldest_kept(self.place, self.identity, 0, keep)
        if stored is not None:
            base = await base_behind(stored, self.identity, harness.log, KEEP_MS, harness.clock_ms())
            if base is not None:
                await rebase(harness.owner, base)
        return (await harness.log.bounds(Topic.JOURNAL, 0)).start

    async def restored(self) -> MemoryStore:
        """A store from the newest snapshot that fits, checked as a node checks it."""
        log, store = self.harness.log, MemoryStore()
        journal, commands = await log.bounds(Topic.JOURNAL, 0), await log.bounds(Topic.COMMANDS, 0)
        for stored in stored_in(self.place, "app", 0):
            assert isinstance(stored, StoredSnapshot)
            check_identity(stored, self.identity, 0)
            check_bounds(stored, 0, journal, commands)
            await check_chain(stored, 0, log, journal.start)
            store.write((), rows_of(self.place, stored, 0))
            return store
        raise AssertionError("there is no snapshot")

    async def check(self) -> None:
        """Snapshot and tail give the live rows, and every object has its last value."""
        harness = self.harness
        await harness.until(lambda: harness.owner.idle)
        harness.owner.tables.write_all()
        tables = Tables(await self.restored(), 0, exclusive=harness.log.exclusive)
        await recall_ends(harness.log, tables)
        await fold(harness.log, tables, harness.owner.tables.reader.offset)
        tables.write_all()
        assert rows(tables) == rows(harness.owner.tables)
        for name in range(min(7, len(self.values))):
            last = max(value for value in self.values.values() if (value - 1) % 7 == name)
            assert harness.value(str(name), "value") == last

    async def later(self) -> None:
        """An hour and a bit passes."""
        self.harness.skew_ms += HOUR_MS + 60_000


def kept(told: Callable[[Kept], Awaitable[None]], **options: Any) -> None:
    async def main(harness: OneOwner) -> None:
        await told(Kept(harness))

    story(Thing, main, check=False, **options)


@pytest.mark.parametrize("shared", [False, True])
def test_the_journal_goes_behind_the_oldest_of_the_kept_verified_snapshots(shared: bool) -> None:
    """Two are kept: it begins where the older of them needs it; the tables and a restart agree."""

    async def told(it: Kept) -> None:
        outs = []
        for _ in range(4):
            await it.puts(20)
            outs.append(it.snapshot().manifest.out)
            await it.later()
        await it.puts(3)
        assert await it.trim(keep=2) == outs[-2] > 0
        base = it.harness.owner.tables.base
        assert base is not None
        assert (base.start, base.app_uuid, base.partitions) == (outs[-2], "app-uuid", 1)
        await it.check()
        await it.harness.end()
        await again(it)
        assert it.harness.owner.tables.base == base
        await it.puts(5)
        await it.check()

    kept(told, shared=shared)


async def again(it: Kept, state: OwnerState = OwnerState.SERVING) -> None:
    """Another start, with the store that the harness has; its journal's header may be gone."""

    async def vouch(partition: int) -> Header:
        return Header("app", "app-uuid", partition, 1)

    async def vouched(log: Any, app: str, uuid: str) -> str:
        return await bootstrap_log(log, app, uuid, vouch)

    with patch("tests.unit.one_owner.bootstrap_log", vouched):
        await it.harness.begin(state)


def test_what_is_young_or_not_verified_stays() -> None:
    """No verified snapshot: nothing goes. A verified one: what is younger than `keep_journal` stays."""

    async def told(it: Kept) -> None:
        await it.puts(20)
        it.snapshot(verified=False)
        await it.later()
        await it.puts(20)
        assert await it.trim() == 0
        it.snapshot()
        await it.puts(1)
        start = await it.trim()
        assert 0 < start < it.harness.owner.tables.meta.out
        records = [
            each async for chunk in it.harness.log.read(Topic.JOURNAL, 0, start, start + 1) for each in chunk
        ]
        assert it.harness.clock_ms() - records[0].time_ms < KEEP_MS
        await it.check()

    kept(told)


def trims(seed: int) -> None:
    """Snapshots, of which some turn out wrong, trims and restarts with and without state, at random."""

    async def told(it: Kept) -> None:
        random = Random(seed)
        for _ in range(12):
            await it.puts(random.randrange(1, 9))
            action = random.random()
            if action < 0.6:
                good = random.random() < 0.6
                stored = it.snapshot(verified=good)
                if not good:  # the comparison found it different from a replay
                    damage(it.place, stored)
            await it.later()
            await it.puts(1)
            await it.trim(keep=random.choice((1, 2)))
            if random.random() < 0.4:
                await it.harness.end()
                if random.random() < 0.5:
                    start = (await it.harness.log.bounds(Topic.JOURNAL, 0)).start
                    it.harness.store = MemoryStore() if start == 0 else await newest_good(it)
                await again(it)
        for name, value in ((str((value - 1) % 7), value) for value in it.values.values()):
            assert (await it.harness.call(name, "get")).outcome == "ok", value

    kept(told)


def damage(place: MemoryPlace, stored: StoredSnapshot) -> None:
    """One byte of its meta row's file, which no other snapshot has, is another."""
    name = f"app/00000/files/{stored.manifest.files[-1].sha256}"
    for entry in stored.manifest.files:
        candidate = f"app/00000/files/{entry.sha256}"
        if (
            sum(entry.sha256.encode() in data for path, data in place.objects.items() if "manifests" in path)
            == 1
        ):
            name = candidate
            break
    place.objects[name] = place.objects[name][:-1] + bytes((place.objects[name][-1] ^ 1,))


async def newest_good(it: Kept) -> MemoryStore:
    """The store of a node that starts from the newest snapshot that is whole and that the journal reaches."""
    log = it.harness.log
    journal, commands = await log.bounds(Topic.JOURNAL, 0), await log.bounds(Topic.COMMANDS, 0)
    reason = None
    for stored in stored_in(it.place, "app", 0):
        try:
            assert isinstance(stored, StoredSnapshot), stored
            check_bounds(stored, 0, journal, commands)
            await check_chain(stored, 0, log, journal.start)
            store = MemoryStore()
            store.write((), list(rows_of(it.place, stored, 0)))
        except (AssertionError, SnapshotDamaged) as error:
            reason = error
        else:
            return store
    raise AssertionError(
        f"the journal was trimmed up to {journal.start}, and no snapshot is good"
    ) from reason


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_trimmed_a_node_without_state_can_start(seed: int) -> None:
    """Some snapshots are wrong, and were not verified: what a good one needs is always there."""
    trims(seed)


@contextmanager
def trim_before_verify() -> Iterator[None]:
    """A planted bug: every snapshot counts as verified."""

    def all_of_them(place: MemoryPlace, app: str, partition: int) -> set[str]:
        return {each.name for each in stored_in(place, app, partition) if isinstance(each, StoredSnapshot)}

    with patch.object(retention, "verified_names", all_of_them):
        yield


def test_a_trim_before_the_verification_is_noticed() -> None:
    """The planted bug is found by the random runs within a few seeds."""
    with trim_before_verify():
        for seed in range(20):
            try:
                trims(seed)
            except (AssertionError, LogCorrupt):
                return
    raise AssertionError("the planted bug was not noticed")


def test_a_journal_that_was_trimmed_from_outside_is_refused() -> None:
    """One record further than the base says: the state would do, and the partition stops all the same."""

    async def told(it: Kept) -> None:
        await it.puts(20)
        it.snapshot()
        await it.later()
        await it.puts(10)
        start = await it.trim()
        assert start > 0
        await it.harness.end()
        await it.harness.log.trim(Topic.JOURNAL, 0, start + 1)
        await again(it, OwnerState.STOPPED)
        assert isinstance(it.harness.owner.error, LogCorrupt)
        assert f"it begins at offset {start + 1}, and was trimmed by perdure up to {start}" in str(
            it.harness.owner.error
        )
        it.harness.living.cancel()

    kept(told)


def test_a_state_from_before_the_trimmed_part_is_refused() -> None:
    """A node that was away so long that its state ends before the journal begins has to start from a
    snapshot.
    """

    async def told(it: Kept) -> None:
        await it.puts(10)
        old = MemoryStore()
        old.write((), list(it.harness.store.scan(b"", b"\xff")))
        await it.puts(20)
        it.snapshot()
        await it.later()
        await it.puts(10)
        assert await it.trim() > 20
        await it.harness.end()
        it.harness.store = old
        await again(it, OwnerState.STOPPED)
        assert "the state is older than its snapshots" in str(it.harness.owner.error)
        await it.harness.end()
        it.harness.store = await it.restored()
        await again(it)
        await it.puts(3)
        await it.check()

    kept(told)


def test_a_rival_whose_claim_was_trimmed_fences_all_the_same() -> None:
    """An owner away while another one claimed, served and trimmed up to behind its claim does not claim
    again.
    """

    async def told(it: Kept) -> None:
        await it.puts(10)
        follows = it.harness.owner.follows
        await it.harness.end()
        await it.harness.take_over()
        await it.puts(20)
        it.snapshot()
        await it.later()
        await it.puts(10)
        assert await it.trim() > it.harness.owner.tables.reader.epoch
        await it.check()
        await it.harness.end()
        it.harness.store = await it.restored()
        await again(it)  # a claim that was trimmed is followed
        await it.puts(2)
        await it.check()
        assert follows is not None
        it.harness.owner.follows = follows
        it.harness.owner.tables.reader.epoch, newest = 5, it.harness.owner.tables.reader.epoch
        with pytest.raises(Fenced, match="whose claim was trimmed"):
            await _see_rivals(it.harness.owner)
        it.harness.owner.tables.reader.epoch = newest

    kept(told, shared=True)


@pytest.mark.parametrize("name", ["snapshot.before_base", "snapshot.before_trim", "snapshot.after_trim"])
def test_a_trim_that_dies_goes_on_with_the_next(name: str) -> None:
    """Between the base and the trim a journal begins earlier than it may: the next trim makes up for it."""

    async def told(it: Kept) -> None:
        await it.puts(20)
        it.snapshot()
        await it.later()
        await it.puts(10)

        def die(passed: str) -> None:
            if passed == name:
                raise KeyboardInterrupt

        failpoints.on_hit(die)
        try:
            with pytest.raises(KeyboardInterrupt):
                await it.trim()
        finally:
            failpoints.on_hit(None)
        await it.harness.end()
        await again(it)
        await it.puts(1)
        start = await it.trim()
        assert start > 0
        base = it.harness.owner.tables.base
        assert isinstance(base, Base)
        assert base.start == start
        await it.check()

    kept(told)


def test_snapshots_of_a_log_that_was_restored_since_trim_nothing() -> None:
    """Verified, and ahead of the log or of another history: the journal stays, and a pruning prefers newer
    ones.
    """

    async def told(it: Kept) -> None:
        await it.puts(30)
        ahead = it.snapshot()
        await it.later()
        await it.puts(10)
        manifest = ahead.manifest
        lost = replace(manifest, offset=10_000, out=9_990, watermark=9_000)
        elsewhere = replace(manifest, chain=bytes(16))
        for wrong in (lost, elsewhere):
            with pytest.raises(SnapshotDamaged, match=r"ahead of the log|of another history"):
                await base_behind(
                    StoredSnapshot("wrong", wrong),
                    it.identity,
                    it.harness.log,
                    KEEP_MS,
                    it.harness.clock_ms(),
                )
        name, data = encode_manifest(lost)
        it.place.put(manifest_path("app/00000", name), data)
        newer = it.snapshot()
        assert prune(it.place, "app", 0, 1).names == [name, ahead.name]
        assert [each.name for each in stored_in(it.place, "app", 0) if isinstance(each, StoredSnapshot)] == [
            newer.name
        ]

    kept(told)
