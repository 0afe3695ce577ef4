"""Snapshots of a partition: what they hold, what is sent, and which of them a partition may start from."""

from __future__ import annotations

import zlib
from contextlib import AbstractContextManager
from random import Random
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from tests.unit.harness import rows
from tests.unit.one_owner import OneOwner, story

from perdure.objects.durable import DurableObject
from perdure.schemas.errors import SnapshotDamaged
from perdure.streams.log.base import Bounds, Topic
from perdure.streams.snapshots import accept, row_files
from perdure.streams.snapshots import take as take_module
from perdure.streams.snapshots.accept import check_bounds, check_chain, check_identity, load, stored_in
from perdure.streams.snapshots.manifest import (
    Manifest,
    SnapshotIdentity,
    StoredSnapshot,
    encode_manifest,
    manifest_path,
)
from perdure.streams.snapshots.places import MemoryPlace
from perdure.streams.snapshots.restore import rows_of
from perdure.streams.snapshots.take import Taken, take
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore

ME = SnapshotIdentity("app", "app-uuid", 1, {})


class Died(BaseException):
    """The process that was taking a snapshot was killed."""


class Thing(DurableObject):
    async def put(self, value: int) -> int:
        await self.state.put({"value": value, "twice": 2 * value})
        return value


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of some rows, so that a snapshot has several."""
    monkeypatch.setattr(row_files, "LEAST_BYTES", 100)
    monkeypatch.setattr(row_files, "MOST_BYTES", 400)
    monkeypatch.setattr(row_files, "CUT_BITS", 0x3)


async def _puts(harness: OneOwner, count: int, of: int = 30) -> None:
    random = Random(count)
    for n in range(count):
        await harness.call(str(random.randrange(of)), "put", n)
    harness.owner.tables.write_all()


def _take(harness: OneOwner, place: MemoryPlace) -> Taken:
    taken = take(harness.store, 0, place, ME, now_ms=harness.clock_ms(), version="1")
    assert taken is not None
    return taken


def _store(place: MemoryPlace, stored: StoredSnapshot) -> MemoryStore:
    store = MemoryStore()
    store.write((), rows_of(place, stored, 0))
    return store


async def _fold_tail(harness: OneOwner, tables: Tables) -> None:
    for each in await harness.records(Topic.JOURNAL):
        if each.offset >= tables.reader.offset:
            tables.apply(each.offset, each.value)
    tables.write_all()


def test_snapshot_and_tail_give_the_live_rows() -> None:
    """At its offset it has the live rows; with the tail folded on top of it the rows are those of the live
    store.
    """

    async def told(harness: OneOwner) -> None:
        place = MemoryPlace()
        await _puts(harness, 50)
        taken = _take(harness, place)
        assert rows(harness.owner.tables) == list(rows_of(place, taken.stored, 0))
        assert taken.files_sent == len(taken.stored.manifest.files) > 5
        await _puts(harness, 40)
        tables = Tables(_store(place, taken.stored), 0, exclusive=True)
        assert tables.reader.position == taken.stored.manifest.position
        await _fold_tail(harness, tables)
        assert rows(tables) == rows(harness.owner.tables)

    story(Thing, told)


def test_what_is_there_is_not_sent_again() -> None:
    """Nothing changed: nothing is sent, not even a manifest. One object changed: the files around it are
    sent.
    """

    async def told(harness: OneOwner) -> None:
        place = MemoryPlace()
        await _puts(harness, 200, 60)
        first = _take(harness, place)
        objects = dict(place.objects)
        assert _take(harness, place) == Taken(first.stored, 0, 0)
        assert place.objects == objects
        await harness.call("7", "put", 1_000)
        harness.owner.tables.write_all()
        second = _take(harness, place)
        assert 1 <= second.files_sent <= 6  # of its values, its meta row and the done words
        assert second.files_sent < len(second.stored.manifest.files) // 2
        assert list(rows_of(place, second.stored, 0)) == rows(harness.owner.tables)

    story(Thing, told)


def test_of_nothing_no_snapshot_is_taken() -> None:
    """A store that has nothing of the partition gives none."""
    assert take(MemoryStore(), 0, MemoryPlace(), ME, now_ms=0, version="1") is None


def crashes(seed: int) -> None:
    """Snapshots by processes that die at any object: what is listed is whole, and in the end one is taken."""

    async def told(harness: OneOwner) -> None:
        random, place, left = Random(seed), MemoryPlace(), 0

        def on_put(name: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Died

        for _ in range(4):
            await _puts(harness, 12)
            place.on_put, left = on_put, random.randrange(12)
            written = len(place.objects)
            try:
                _take(harness, place)
            except Died:
                assert len(place.objects) >= written
            for stored in stored_in(place, "app", 0):
                assert isinstance(stored, StoredSnapshot), stored
                await _fold_tail(harness, Tables(_store(place, stored), 0, exclusive=True))
        await _puts(harness, 12)
        left = 1
        with pytest.raises(Died):
            _take(harness, place)
        place.on_put = lambda name: None
        before = len(place.objects)
        taken = _take(harness, place)
        assert len(place.objects) - before == taken.files_sent + 1  # what an interrupted one sent counts
        assert list(rows_of(place, taken.stored, 0)) == rows(harness.owner.tables)

    story(Thing, told)


@pytest.mark.parametrize("seed", range(8))
def test_a_killed_snapshot_is_not_listed_and_the_next_goes_on(seed: int) -> None:
    """Whatever object it died at: each manifest that can be listed has all its files."""
    crashes(seed)


def manifest_before_files() -> AbstractContextManager[object]:
    """A planted bug: the manifest is written first, then the files."""
    send, later = take_module._send, list[Any]()

    def put_off(place: Any, folder: str, file: Any, present: Any) -> bool:
        later.append((place, folder, file, present))
        return True

    def encoded(manifest: Manifest) -> tuple[str, bytes]:
        name, data = encode_manifest(manifest)
        place, folder, _, _ = later[0]
        place.put(manifest_path(folder, name), data)
        for each in later:
            send(*each)
        later.clear()
        return name, data

    return patch.multiple(
        take_module, _send=put_off, encode_manifest=encoded, _check_present=lambda *given: None
    )


def test_a_manifest_before_its_files_is_noticed() -> None:
    """The planted bug is found by the crashes within a few runs."""
    with manifest_before_files():
        for seed in range(8):
            try:
                crashes(seed)
            except (SnapshotDamaged, AssertionError):
                return
    raise AssertionError("the planted bug was not noticed")


# what a snapshot says of itself, and what is said against it
FOREIGN: list[tuple[dict[str, Any], str]] = [
    ({"app": "shop"}, "its app is shop, here it is app"),
    ({"app_uuid": "other"}, "its app uuid is .* it is foreign"),
    ({"partition": 1}, "its partition is 1"),
    ({"partitions": 2}, "its number of partitions is 2"),
    ({"rows_format": 99}, "its format of rows is 99"),
    ({"hash_function": "fnv"}, "its hash function is fnv"),
    ({"topics": {"journal": "T1"}}, "belongs to the journal with the topic id T1, the topic now has T2"),
    ({"offset": 10_000}, "ahead of the log: journal at 10000"),
    ({"watermark": 10_000}, "ahead of the log: commands at 10000"),
    ({"out": 0}, "needs the journal from 0 on, which begins at 1"),
    ({"chain": bytes(16)}, "of another history"),
    ({"seq": 1}, "of another history"),
    ({"epoch": 3}, "of another history"),
]


async def _accept(
    harness: OneOwner, stored: StoredSnapshot, identity: SnapshotIdentity = ME, start: int = 0
) -> None:
    journal, commands = (
        await harness.log.bounds(Topic.JOURNAL, 0),
        await harness.log.bounds(Topic.COMMANDS, 0),
    )
    check_identity(stored, identity, 0)
    check_bounds(stored, 0, Bounds(start, journal.end), commands)
    await check_chain(stored, 0, harness.log, start)


@pytest.mark.parametrize(("change", "why"), FOREIGN, ids=[next(iter(each)) for each, _ in FOREIGN])
def test_a_snapshot_that_does_not_fit_is_refused(change: dict[str, Any], why: str) -> None:
    """Another app's, another topic's, one ahead of the log, or of another history: the error says which."""

    async def told(harness: OneOwner) -> None:
        place = MemoryPlace()
        await _puts(harness, 20)
        stored = _take(harness, place).stored
        await _accept(harness, stored)
        wrong = StoredSnapshot(stored.name, msgspec.structs.replace(stored.manifest, **change))
        identity = ME._replace(topics={"journal": "T2"}) if "topics" in change else ME
        with pytest.raises(SnapshotDamaged, match=why):
            await _accept(harness, wrong, identity, start=1 if "out" in change else 0)

    story(Thing, told)


def test_the_journal_vouches_for_each_place_of_its_own() -> None:
    """Behind a claim, behind void records and in the middle of an epoch: each place of the journal is
    accepted.
    """

    async def told(harness: OneOwner) -> None:
        await _puts(harness, 5)
        await harness.take_over()
        await _puts(harness, 5)
        await harness.take_over()
        tables = Tables(MemoryStore(), 0, exclusive=False)
        place = MemoryPlace()
        await _puts(harness, 3)
        sample = _take(harness, place).stored.manifest
        records = await harness.records(Topic.JOURNAL)
        for each in records:
            tables.apply(each.offset, each.value)
            offset, epoch, seq, chain = tables.reader.position
            there = msgspec.structs.replace(sample, offset=offset, epoch=epoch, seq=seq, chain=chain)
            await check_chain(StoredSnapshot("there", there), 0, harness.log, 0)
            for elsewhere in (
                {"chain": bytes((chain[0] ^ 1,)) + chain[1:]},
                {"epoch": epoch + 1},
                {"seq": seq + 1},
            ):
                wrong = msgspec.structs.replace(there, **elsewhere)
                with pytest.raises(SnapshotDamaged, match="of another history"):
                    await check_chain(StoredSnapshot("wrong", wrong), 0, harness.log, 0)

    story(Thing, told, shared=True, check=False)


def test_a_wrong_chain_that_is_accepted_is_noticed() -> None:
    """A planted bug: the chain is not compared. The cases above notice it."""
    with (
        patch.object(accept, "_leads_to", lambda *given: True),
        pytest.raises(BaseException, match="DID NOT RAISE"),
    ):
        test_a_snapshot_that_does_not_fit_is_refused({"chain": bytes(16)}, "of another history")


def test_any_damage_is_found_before_a_row_is_used() -> None:
    """A flipped byte, a missing end, a missing object, in each object: reading it back raises, and names
    it.
    """

    async def told(harness: OneOwner) -> None:
        place, random = MemoryPlace(), Random(7)
        await _puts(harness, 40)
        name = _take(harness, place).stored.name
        for at, data in list(place.objects.items()):
            flip = random.randrange(len(data))
            flipped = data[:flip] + bytes((data[flip] ^ 0x40,)) + data[flip + 1 :]
            for damaged in (flipped, data[: len(data) // 2], None):
                if damaged is None:
                    del place.objects[at]
                else:
                    place.objects[at] = damaged
                with pytest.raises(SnapshotDamaged, match=at.rpartition("/")[2].removesuffix(".json")):
                    list(rows_of(place, load(place, "app", 0, name), 0))
            place.objects[at] = data
        assert list(rows_of(place, load(place, "app", 0, name), 0)) == rows(harness.owner.tables)

    story(Thing, told)


@pytest.mark.parametrize("what", ["reorder", "drop", "meta"])
def test_files_that_are_whole_and_do_not_belong_together_are_refused(what: str) -> None:
    """Each file has its hash, and the manifest is signed by its name: the order, the meta row and the place
    count.
    """

    async def told(harness: OneOwner) -> None:
        place = MemoryPlace()
        await _puts(harness, 40)
        manifest = _take(harness, place).stored.manifest
        files, change = list(manifest.files), {}
        if what == "reorder":
            files[0], files[1] = files[1], files[0]
        elif what == "drop":
            files = [each for each in files if not _has_meta(place, each.sha256)]
        else:
            change = {"offset": manifest.offset - 1}
        wrong = msgspec.structs.replace(manifest, files=tuple(files), **change)
        name, data = encode_manifest(wrong)
        place.put(manifest_path("app/00000", name), data)
        with pytest.raises(SnapshotDamaged, match=r"does not belong|has no meta row|its manifest says"):
            list(rows_of(place, load(place, "app", 0, name), 0))

    story(Thing, told)


def _has_meta(place: MemoryPlace, hash_: str) -> bool:
    data = place.objects[f"app/00000/files/{hash_}"]
    return b"m\0\0" in row_files._decode(zlib.decompress(data))[::2]
