"""Projections: what is declared, what is folded, and that rows and position belong together after crashes."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from tests.journals import JournalWriter, embedded, entry

import perdure
from perdure.objects.projection import Projection
from perdure.schemas.errors import ConfigError
from perdure.schemas.journal import Migration, NoOp
from perdure.schemas.migrations import Step
from perdure.streams import failpoints
from perdure.streams.log.embedded.following import EmbeddedFollowing
from perdure.streams.projections.fold import FoldGroup
from perdure.streams.projections.reading import (
    ABANDONED,
    LIVE,
    STOPPED,
    ProjectedRow,
    ProjectionReading,
)
from perdure.streams.projections.rows import encode_progress
from perdure.streams.projections.shares import Shares
from perdure.streams.projections.shipped import SHIPPED, Activity, used_by
from perdure.streams.projections.worker import ProjectionWorker

PARTITIONS = 2


@dataclass
class Seen:
    """What is known of a counter."""

    count: int = 0
    turns: int = 0


@perdure.projection(version=1)
def seen(turn: perdure.TurnEntry, table: perdure.Table[Seen]) -> None:
    """The last value of each counter, and its turns."""
    row = table[turn.name]
    row.count = turn.get("count", row.count)
    row.turns += 1


@perdure.projection(version=1, merge=lambda one, other: one + other)
def turns(turn: perdure.TurnEntry, table: perdure.Table[int]) -> None:
    """Turns of each namespace."""
    table[turn.namespace] += 1


class Place:
    """A data directory with an embedded log that is written directly, and the rows of projections."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.rows = folder / "rows"
        self.writers = [JournalWriter(each, PARTITIONS) for each in range(PARTITIONS)]
        for writer in self.writers:
            writer.claim()
        self._written = [0] * PARTITIONS

    def write(self) -> None:
        """Append what the writers have more than the log."""
        if self.log.exists():
            shutil.rmtree(self.log)
        embedded(self.log, [writer.values for writer in self.writers])

    def count(self, entries: int, objects: int = 5, *, random: Random | None = None) -> None:
        """So many increments, in turn in each partition."""
        for number in range(entries):
            writer = self.writers[number % PARTITIONS]
            name = f"n{number % PARTITIONS}-{(random or Random(number)).randrange(objects)}"
            writer.entry(entry(f"Counter/{name}", {"count": number}, time_ms=1_000 + number))

    def fold(self, *projections: Projection[Any]) -> dict[tuple[int, str], Any]:
        """Fold to the end; returns the progress."""

        async def run() -> dict[tuple[int, str], Any]:
            log = EmbeddedFollowing(self.log, PARTITIONS)
            log.exclusive = False  # so that void records may be there, as on Kafka
            try:
                return await ProjectionWorker(projections, log, self.rows).run(until_end=True)
            finally:
                await log.close()

        return asyncio.run(run())

    def read(self, projection: Projection[Any]) -> dict[str, Any]:
        """All rows, by their keys."""
        return {each.key: each.row for each in self.page(projection)}

    def page(self, projection: Projection[Any], **more: Any) -> list[ProjectedRow]:
        reading = ProjectionReading(self.rows, PARTITIONS)
        try:
            return reading.rows(projection, **{"limit": 10_000, **more}).rows
        finally:
            reading.close()

    def versions(self) -> dict[str, Any]:
        reading = ProjectionReading(self.rows, PARTITIONS)
        try:
            return reading.versions()
        finally:
            reading.close()

    def expected(self) -> tuple[dict[str, Seen], int]:
        """The rows of `seen`, and the number of entries that count, by reading the writers' values anew."""
        from perdure.schemas.journal import EntryRecord
        from perdure.streams.journal.reader import JournalReader

        rows: dict[str, Seen] = {}
        total = 0
        for writer in self.writers:
            reader = JournalReader("expected")
            for offset, value in enumerate(writer.values):
                record = reader.step(offset, value)
                if isinstance(record, EntryRecord):
                    total += 1
                    row = rows.setdefault(record.entry.key.partition("/")[2], Seen())
                    row.turns += 1
                    row.count = msgspec.msgpack.decode(record.entry.puts["count"])
        return rows, total


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A journal that is empty but for its headers and claims."""
    return Place(tmp_path)


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.on_hit(None)


def test_a_projection_folds_each_entry_once(place: Place) -> None:
    """Its rows are what a plain fold gives, without void records; it goes on where it was."""
    place.count(500)
    place.writers[0].void()
    place.writers[1].add(NoOp(0, 0))
    place.write()
    place.fold(seen, turns)
    rows, total = place.expected()
    assert place.read(seen) == rows
    assert place.read(turns) == {"Counter": total}
    place.writers[0].claim("another")
    place.count(77)
    place.write()
    progress = place.fold(seen, turns)
    rows, total = place.expected()
    assert place.read(seen) == rows
    assert place.read(turns) == {"Counter": total}
    assert sum(each.entries for (_, name), each in progress.items() if name == "seen") == total


def test_rows_of_one_key_in_two_partitions_are_merged_or_shown_for_each(place: Place) -> None:
    """With `merge` there is one row; without, each has its partition."""

    @perdure.projection(version=1)
    def apart(turn: perdure.TurnEntry, table: perdure.Table[int]) -> None:
        table[turn.namespace] += 1

    place.count(10)
    place.write()
    place.fold(turns, apart)
    assert place.page(turns) == [ProjectedRow("Counter", 10, None)]
    assert place.page(apart) == [ProjectedRow("Counter", 5, 0), ProjectedRow("Counter", 5, 1)]


def test_rows_are_shown_by_pages_and_prefix(place: Place) -> None:
    """The cursor leads on; no key is shown twice or left out."""
    place.count(100, objects=20)
    place.write()
    place.fold(seen)
    every = list(place.read(seen))
    reading = ProjectionReading(place.rows, PARTITIONS)
    shown: list[str] = []
    start: str | None = ""
    while start is not None:
        page = reading.rows(seen, start=start, limit=7)
        shown += [each.key for each in page.rows]
        start = page.cursor
    reading.close()
    assert shown == every
    assert [each.key for each in place.page(seen, prefix="n1-1")] == [
        k for k in every if k.startswith("n1-1")
    ]


def crash(place: Place, projections: Sequence[Projection[Any]], hits: int) -> bool:
    """Fold until a crash at the `hits`-th failpoint; False if it reached the end before."""

    class Crashed(BaseException):
        pass

    left = hits

    def hit(name: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Crashed

    failpoints.on_hit(hit)
    try:
        place.fold(*projections)
    except Crashed:
        return True
    finally:
        failpoints.on_hit(None)
    return False


def run_with_crashes(folder: Path, seed: int) -> None:
    """A random journal, folded with crashes at random steps; the rows must be those of a plain fold."""
    random, place = Random(seed), Place(folder)
    for _ in range(random.randrange(2, 5)):
        place.count(random.randrange(1, 2500), random=random)
        for writer in place.writers:
            if random.random() < 0.3:
                writer.void()
            if random.random() < 0.3:
                writer.claim()
        place.write()
        for _ in range(random.randrange(4)):
            crash(place, (seen, turns), random.randrange(1, 8))
    place.fold(seen, turns)
    rows, total = place.expected()
    assert place.read(seen) == rows
    assert place.read(turns) == {"Counter": total}


@pytest.mark.parametrize("seed", range(200 if os.environ.get("PERDURE_SOAK") == "1" else 3))
def test_rows_are_exact_after_crashes_at_any_step(tmp_path: Path, seed: int) -> None:
    """However often the process dies, and where, each entry is folded once."""
    run_with_crashes(tmp_path, seed)


def test_a_position_that_is_written_apart_from_the_rows_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: rows first, the position in a write of its own. The random runs find it."""

    def write(self: FoldGroup) -> None:
        for fold in self.folds:
            removed, changed = fold.table.unwritten()
            self._store.write(removed, changed)
            fold.table.written()
        failpoints.hit("between")
        for fold in self.folds:
            fold.progress.offset, fold.progress.epoch, fold.progress.seq, fold.progress.chain = self.position
            self._store.write([], [(fold.keys.progress, encode_progress(fold.progress))])

    monkeypatch.setattr(FoldGroup, "write", write)

    def runs() -> None:
        for seed in range(20):
            run_with_crashes(tmp_path / str(seed), seed)

    with pytest.raises(AssertionError):
        runs()


def raising(version: int, on_error: Any) -> Projection[int]:
    """A projection whose function raises for two entries, after it has changed rows."""

    @perdure.projection(version=version, name="raising", on_error=on_error)
    def raising_(turn: perdure.TurnEntry, table: perdure.Table[int]) -> None:
        table["all"] += 1
        if turn.get("count") in (1, 1500):
            raise ValueError("cannot fold this")

    return raising_


def test_an_entry_that_cannot_be_folded_is_skipped_if_that_is_chosen(place: Place) -> None:
    """Nothing of it is kept, what comes behind is folded, and it is counted and named."""
    place.count(3000)
    place.write()
    progress = place.fold(raising(1, "skip"), seen)
    assert sum(each.row for each in place.page(raising(1, "skip"))) == 2998
    one = progress[1, "raising"]
    assert (one.skipped, [each.offset for each in one.skips]) == (1, [2])
    assert progress[0, "raising"].skipped == 1
    assert "ValueError: cannot fold this" in one.skips[0].error
    assert place.read(seen) == place.expected()[0]


def test_an_entry_that_cannot_be_folded_stops_its_partition_otherwise(place: Place) -> None:
    """The projection stands before the entry, in that partition alone, and others go on; a corrected function
    goes on from there.
    """
    place.count(3000)
    place.write()
    progress = place.fold(raising(1, "stop"), seen)
    assert progress[1, "raising"].offset == 2
    assert "offset 2: ValueError: cannot fold this" in progress[1, "raising"].error
    assert progress[0, "raising"].entries == 750
    assert place.read(seen) == place.expected()[0]
    assert {each.state for each in place.versions()["raising"][1]} == {STOPPED}
    place.fold(raising(1, "skip"))
    assert sum(each.row for each in place.page(raising(1, "skip"))) == 2998


def test_a_new_version_is_made_beside_the_old_one(place: Place) -> None:
    """The old rows are shown until the new version is complete in each partition, then they are removed."""
    place.count(4000)
    place.write()
    place.fold(seen)

    @perdure.projection(version=2, name="seen")
    def newer(turn: perdure.TurnEntry, table: perdure.Table[int]) -> None:
        table[turn.name] += 1

    assert crash(place, [newer], 2)
    assert set(place.versions()["seen"]) == {1, 2}
    shown = place.read(newer)  # of version 1, as they lie
    assert all(isinstance(row, dict) and row["turns"] for row in shown.values())
    place.fold(newer)
    assert place.read(newer) == {name: row.turns for name, row in place.expected()[0].items()}
    place.fold(newer)  # removes what is older
    assert set(place.versions()["seen"]) == {2}


def test_rows_of_another_type_need_another_version(place: Place) -> None:
    """The projection is not folded, and the other goes on."""
    place.count(10)
    place.write()
    place.fold(seen)

    @perdure.projection(version=1, name="seen")
    def changed(turn: perdure.TurnEntry, table: perdure.Table[str]) -> None:
        table[turn.name] = "x"

    assert set(place.fold(changed, turns)) == {(0, "turns"), (1, "turns")}
    assert place.read(seen) == place.expected()[0]


def test_a_deleted_namespace_takes_its_rows_with_it(place: Place) -> None:
    """`deleted` is called, `clear` and `keys` see what is not written yet, and later entries count again."""
    both = list(SHIPPED.values())
    place.count(6, objects=1)
    place.writers[0].entry(entry("Other/x", {"a": 1}))
    place.write()
    place.fold(*both)
    place.writers[0].entry(entry("Counter/late", {"count": 1}))
    place.writers[0].add(Migration(0, 0, Step("gone", deleted=("Counter",))))
    place.writers[0].entry(entry("Counter/again", {"count": 1}, time_ms=9_000))
    place.writers[1].add(Migration(0, 0, Step("gone", deleted=("Counter",))))
    place.write()
    place.fold(*both)
    assert place.read(SHIPPED["activity"]) == {
        "Counter": Activity(1, {"ok": 1}, 9_000, "again"),
        "Other": Activity(1, {"ok": 1}, 1_000, "x"),
    }
    assert sorted(place.read(SHIPPED["changes"])) == [
        "object/Counter/again",
        "object/Other/x",
        "time/000000000001000/Other/x",
        "time/000000000009000/Counter/again",
    ]


def test_objects_are_listed_by_their_last_change(place: Place) -> None:
    """Each object once, the newest last, with what changed it."""
    place.count(50, objects=3)
    place.write()
    place.fold(SHIPPED["changes"])
    listed = place.page(SHIPPED["changes"], prefix="time/")
    times = [each.row.time_ms for each in listed]
    assert times == sorted(times)
    assert len({each.row.object for each in listed}) == len(listed) == len(place.expected()[0])
    assert listed[-1].row.changed == ["count"]
    assert (listed[-1].row.kind, listed[-1].row.method) == ("call", "increment")


def test_a_journal_that_ends_before_the_rows_or_begins_behind_them_stops_the_fold(place: Place) -> None:
    """Nothing is changed, and the reason names both offsets."""
    place.count(100)
    place.write()
    place.fold(seen)
    rows = place.read(seen)
    whole = [list(writer.values) for writer in place.writers]
    for writer in place.writers:
        del writer.values[20:]
    place.write()
    assert all("ends at 20" in each.error for each in place.fold(seen).values())
    assert place.read(seen) == rows
    for writer, values in zip(place.writers, whole, strict=True):
        writer.values[:] = values
        writer.values[30] = writer.values[30][:-1] + b"?"
    shutil.rmtree(place.rows)
    place.write()
    progress = place.fold(seen)
    assert all("hash chain is broken" in each.error and each.offset == 30 for each in progress.values())


def test_processes_share_the_partitions_and_take_over_what_is_free(tmp_path: Path) -> None:
    """Each has its share, rounded up; what one gives up or leaves the other takes."""
    one = Shares(tmp_path, 5)
    assert [one.take() for _ in range(6)] == [0, 1, 2, 3, 4, None]
    other = Shares(tmp_path, 5)
    assert other.take() is None
    assert one.excess() == [3, 4]
    for partition in one.excess():
        one.give_up(partition)
    assert [other.take() for _ in range(3)] == [3, 4, None]
    other.close()
    assert [one.take() for _ in range(3)] == [3, 4, None]
    one.close()


def test_rows_that_no_process_keeps_are_said_to_be_abandoned(place: Place) -> None:
    """A partition is live only while a process has its lock."""
    place.count(4)
    place.write()
    place.fold(seen)
    assert {each.state for each in place.versions()["seen"][1]} == {ABANDONED}
    shares = Shares(place.rows, PARTITIONS)
    assert [shares.take(), shares.take()] == [0, 1]
    assert {each.state for each in place.versions()["seen"][1]} == {LIVE}
    shares.close()


def wrong_parameters(turn: perdure.TurnEntry) -> None: ...


def wrong_annotation(turn: perdure.TurnEntry, table: dict[str, int]) -> None: ...


async def wrong_coroutine(turn: perdure.TurnEntry, table: perdure.Table[int]) -> None: ...


def wrong_type(turn: perdure.TurnEntry, table: perdure.Table[Random]) -> None: ...


@dataclass
class Needy:
    """A row that cannot be made without an argument."""

    count: int


def wrong_row(turn: perdure.TurnEntry, table: perdure.Table[Needy]) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "reason"),
    [
        (wrong_parameters, {}, "it must be: def name"),
        (wrong_coroutine, {}, "it must be: def name"),
        (wrong_annotation, {}, "annotate its second parameter"),
        (wrong_type, {}, "cannot be stored"),
        (wrong_row, {}, "does not make a first row"),
        (seen.function, {"version": 0}, "version=0 is not a whole number"),
        (seen.function, {"on_error": "ignore"}, 'neither "stop" nor "skip"'),
        (seen.function, {"name": "Not This"}, "cannot name a projection"),
    ],
)
def test_a_declaration_that_cannot_be_used_is_refused(function: Any, options: Any, reason: str) -> None:
    """With what is wrong, and what to write."""
    with pytest.raises(ConfigError, match=reason):
        perdure.projection(**{"version": 1, **options})(function)


def test_names_of_projections_are_unique_and_known() -> None:
    """Two of one name, and one that perdure does not have, are refused."""
    assert set(used_by([seen], ["activity"])) == {"seen", "activity"}
    with pytest.raises(ConfigError, match="two projections are named seen"):
        used_by([seen, Projection(seen.function, version=2)], [])
    with pytest.raises(ConfigError, match='no projection "nothing"; it has: activity, changes'):
        used_by([], ["nothing"])
