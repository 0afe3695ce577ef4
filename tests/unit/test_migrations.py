"""Migrations: what follows from what, how they get into the journal, and that a
deleted namespace leaves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.one_owner import OneOwner, story
from tests.unit.test_tables import HOUR_MS, START_MS, Journal, entry, rows

from perdure.objects.durable import DurableObject
from perdure.schemas.effects import AlarmChange, SocketChange
from perdure.schemas.errors import ConfigError, Fenced
from perdure.schemas.journal import Claim, Migration, decode_record, encode_chained, encode_unchained
from perdure.schemas.migrations import Step, missing
from perdure.schemas.replies import REJECTED
from perdure.streams import failpoints
from perdure.streams.log.base import Record, Topic, silent
from perdure.streams.log.memory.broker import Faults
from perdure.streams.rebuild.verify import _verify_partition
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore
from perdure.streams.store.rocks import RocksStore
from perdure.streams.turns.ports import OwnerState

V1 = Step("v1", created=(("Thing", "Thing"), ("Old", "Old")))
V2 = Step("v2", renamed=(("Thing", "Better"),))
V3 = Step("v3", deleted=("Old",))


# What follows from what


def test_the_steps_that_have_not_run_are_those_behind_the_ones_that_have() -> None:
    """A configuration goes on where the journal ends."""
    assert missing((), (V1, V2)) == (V1, V2)
    assert missing((V1,), (V1, V2, V3)) == (V2, V3)
    assert missing((V1, V2), (V1, V2)) == ()


@pytest.mark.parametrize(
    ("configured", "said"),
    [
        ((), 'migration "v1" has run but is no longer in the configuration'),
        ((V1, V3), 'migration "v2" has run but is no longer in the configuration'),
        ((V2, V1), 'migration "v1" has run as number 1, and the configuration has "v2" there'),
        (
            (V1, Step("v2", deleted=("Thing",))),
            'migration "v2" has run as (gives Thing the class Better), and the configuration now has (deletes Thing)',
        ),
    ],
)
def test_a_history_that_was_edited_is_refused(configured: Sequence[Step], said: str) -> None:
    """Removed, moved or changed: the error names the tag, and that a migration is never edited."""
    with pytest.raises(ConfigError) as caught:
        missing((V1, V2), configured)
    assert said in str(caught.value)
    assert "never edited" in str(caught.value)


# The fold


def a_history(random: Random) -> Journal:
    """Entries of three namespaces with everything that has rows, a step that
    deletes one, and entries after it.
    """
    journal, command, time_ms = Journal(), 0, START_MS
    for keys in (("A/a", "A/ab", "AB/a", "B/a"), ("AB/a", "B/a")):
        for _ in range(random.randrange(1, 5)):
            entries = []
            for _ in range(random.randrange(1, 6)):
                time_ms += random.choice((1, 1, HOUR_MS // 2, 9 * HOUR_MS))
                due_ms = random.choice((None, START_MS, time_ms + random.randrange(HOUR_MS)))
                alarm = AlarmChange(random.choice(("", "n")), due_ms, parked=random.random() < 0.2)
                socket = SocketChange(random.choice("xy"), random.choice(("", "gateway")))
                entries.append(
                    entry(
                        command,
                        time_ms,
                        random.choice(keys),
                        puts={name: b"%d" % command for name in "ab" if random.random() < 0.6},
                        clear=random.random() < 0.1,
                        client_key=f"k{command}" if random.random() < 0.5 else None,
                        alarms=(alarm,) if random.random() < 0.6 else (),
                        sockets=(socket,) if random.random() < 0.6 else (),
                    )
                )
                command += 1
            journal.batch(*entries)
        if keys[0] == "A/a":
            step = Migration(1, journal.seq, Step("v2", deleted=("A",)))
            value, journal.chain = encode_chained(step, journal.chain)
            journal.values.append(value)
            journal.seq += 1
    return journal


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_a_deleted_namespace_leaves_no_row_however_the_fold_was_cut(seed: int) -> None:
    """No table holds anything of it, nothing of others is gone, and any cut and
    crash gives the same rows (I6).
    """
    random = Random(seed)
    journal = a_history(random)
    whole, cut = MemoryStore(), MemoryStore()
    tables, pieces = Tables(whole, 0), Tables(cut, 0)
    for offset, value in enumerate(journal.values):
        if random.random() < 0.2:
            tables.write_all()
        if isinstance(tables.apply(offset, value), Migration):
            for key in ("A/a", "A/ab"):
                assert not list(tables.values.scan(key, "", None)), (
                    "what reads see goes with the step, not later"
                )
                assert (tables.alarms.of(key), tables.sockets.of(key)) == ({}, {})
    sizes = {"tables.MEMTABLE_ROWS": random.randrange(1, 9), "memtables.PIECE_ROWS": random.randrange(1, 3)}
    with ExitStack() as patched:
        for name, size in sizes.items():
            patched.enter_context(patch(f"perdure.streams.state.{name}", size))
        while pieces.reader.offset < len(journal.values):
            pieces.apply(pieces.reader.offset, journal.values[pieces.reader.offset], in_pieces=True)
            more = True
            while more:
                while random.random() < 0.4 and pieces.write_memtable():
                    pass
                if random.random() < 0.1:
                    pieces = Tables(cut, 0)  # a crash: what was not written is folded again
                more = pieces.remove_piece()
    for each in (tables, pieces):
        each.write_all()
    assert rows(whole) == rows(cut)
    assert not [key for key, _ in rows(whole) if b"A/" in key.replace(b"AB/", b"")]
    assert tables.steps == Tables(whole, 0).steps == (Step("v2", deleted=("A",)),)
    others = [each for each in a_fold_of_others(journal) if each[0][:1] in (b"v", b"a", b"t", b"w", b"k")]
    assert [each for each in rows(whole) if each[0][:1] in (b"v", b"a", b"t", b"w", b"k")] == others


def a_fold_of_others(journal: Journal) -> list[tuple[bytes, bytes]]:
    """The rows of a fold that knows no migration, but for those of namespace A."""
    store = MemoryStore()
    tables = Tables(store, 0)

    def without_removing(step: Step) -> Iterator[None]:
        yield
        tables._fold_step(step)
        tables._deletion = None

    tables._remove = without_removing  # type: ignore[method-assign]
    for offset, value in enumerate(journal.values):
        tables.apply(offset, value)
    tables.write_all()
    return [(key, value) for key, value in rows(store) if b"A/" not in key.replace(b"AB/", b"")]


# The owner


class Thing(DurableObject):
    async def put(self, value: int) -> int:
        await self.state.put("value", value)
        return value


async def steps_of(harness: OneOwner) -> list[Step]:
    found = [decode_record(each.value) for each in await harness.records(Topic.JOURNAL)]
    return [each.step for each in found if isinstance(each, Migration)]


@pytest.mark.parametrize("shared", [False, True])
def test_each_step_is_journaled_once_and_before_the_first_turn(shared: bool) -> None:
    """An owner that begins appends what is missing, in order; one that finds all of
    it there appends nothing.
    """

    async def told(harness: OneOwner) -> None:
        assert await steps_of(harness) == []
        await harness.call("a", "put", 1)
        for migrations in ((V1,), (V1, V2), (V1, V2)):
            await harness.end()
            harness.migrations = migrations
            await harness.begin()
            assert await steps_of(harness) == list(migrations)
            assert (await harness.call("a", "put", len(migrations))).error is None
            release = harness.owner.output
            assert release.journal.mark == harness.owner.tables.reader.offset, (
                "a step holds the out mark back"
            )
        assert harness.value("a", "value") == 2

    story(Thing, told, shared=shared)


def test_a_deleted_namespace_is_gone_and_the_others_stay() -> None:
    """The step removes its objects' state; a command for one is rejected: there is no such namespace."""

    async def told(harness: OneOwner) -> None:
        for kind in ("Thing", "Old"):
            assert (await harness.replies(harness.send("a", "put", 7, kind=kind)))[0].error is None
        assert harness.owner.tables.values.get("Old/a", "value") is not None
        await harness.end()
        del harness.registry.types["Old"]
        harness.migrations = (V1, V3)
        await harness.begin()
        assert harness.owner.tables.values.get("Old/a", "value") is None
        assert harness.value("a", "value") == 7
        (reply,) = await harness.replies(harness.send("a", "put", 8, kind="Old", client_key="k"))
        assert reply.outcome == REJECTED
        assert reply.error is not None
        assert reply.error.code == "unknown-namespace"

    story(Thing, told, kinds=("Thing", "Old"))


def test_a_configuration_that_does_not_follow_stops_the_partition_untouched() -> None:
    """Told before the claim: the journal ends where it ended."""

    async def told(harness: OneOwner) -> None:
        await harness.end()
        harness.migrations = (V1, V2)
        await harness.begin()
        await harness.end()
        end = (await harness.log.bounds(Topic.JOURNAL, 0)).end
        harness.migrations = (V1,)
        await harness.begin(OwnerState.STOPPED)
        assert isinstance(harness.owner.error, ConfigError)
        assert 'migration "v2" has run' in str(harness.owner.error)
        assert (await harness.log.bounds(Topic.JOURNAL, 0)).end == end

    story(Thing, told, check=False)


class LosesTheFourth(Faults):
    """The ack of one journal append is lost; the record lands, or it doesn't."""

    def __init__(self, fate: str) -> None:
        self.appends = 0
        self.fourth = fate

    def fate(self, step: str) -> str:
        self.appends += step == "journal"
        return self.fourth if step == "journal" and self.appends == 4 else "ok"


@pytest.mark.parametrize("fate", ["lost", "never", "late"])
def test_a_step_whose_append_has_no_known_outcome_is_there_once(fate: str) -> None:
    """Header, claim, v1, and v2 is lost: the owner claims again, reads, and appends what is not there."""

    async def told(harness: OneOwner) -> None:
        assert await steps_of(harness) == [V1, V2]
        assert harness.owner.counts.claims == 2
        assert (await harness.call("a", "put", 1)).error is None

    story(Thing, told, shared=True, faults=LosesTheFourth(fate), migrations=(V1, V2))


def test_a_step_behind_a_rival_s_claim_is_void() -> None:
    """Who is fenced while it migrates stops; the step counts only once the new
    owner has appended it itself.
    """

    async def told(harness: OneOwner) -> None:
        await harness.end()
        stream = harness.broker.streams[Topic.JOURNAL, 0]

        def rival(name: str) -> None:
            if name == "owner.before_migration":
                failpoints.on_hit(None)
                harness.broker.accept(stream, [Record(None, encode_unchained(Claim("rival", "rival")))])

        failpoints.on_hit(rival)
        harness.migrations = (V1,)
        await harness.begin(OwnerState.FENCED)
        assert isinstance(harness.owner.error, Fenced)
        assert harness.owner.tables.steps == ()
        await harness.end()
        await harness.begin()
        assert harness.owner.tables.steps == (V1,)

    story(Thing, told, shared=True)


class Reminded(Thing):
    async def remind(self) -> None:
        await self.state.set_alarm(2 * 1_700_000_000_000)

    async def alarm(self) -> None: ...


def test_a_state_that_was_cut_within_a_deletion_is_verified(tmp_path: Path) -> None:
    """A deletion is many steps of the event loop. Cut between two: `verify` agrees,
    and the next owner ends it.
    """

    async def told(harness: OneOwner) -> None:
        for name in "abcde":
            await harness.replies(
                harness.send(name, "put", 7, kind="Old"), harness.send(name, "remind", kind="Old")
            )
        await harness.end()
        harness.migrations = (V1, V3)
        harness.store = store = RocksStore(tmp_path / "state")  # type: ignore[assignment]
        passes = 0

        def cut(name: str) -> None:
            nonlocal passes
            passes += name == "state.removing"
            if passes == 5:
                harness.living.cancel()

        failpoints.on_hit(cut)
        with patch("perdure.streams.state.memtables.PIECE_ROWS", 1):
            began = asyncio.create_task(harness.begin())
            await harness.until(lambda: passes == 5 and harness.living.done())
        failpoints.on_hit(None)
        began.cancel()
        left = rows(store)
        assert len([row for row in left if row[0][:1] == b"t"]) in range(1, 5), "not within the deletion"
        scratch = tmp_path / "verify"
        replayed = RocksStore(scratch / "replayed")
        counts = {"rows": 0, "journal_records": 0, "entries": 0}
        again = Tables(replayed, 0, exclusive=harness.log.exclusive)
        await _verify_partition(harness.log, store, again, "app-uuid", counts, silent, scratch)
        assert rows(store) == left, "nothing of it was changed"
        await harness.begin()
        harness.owner.tables.write_all()
        assert not [row for row in rows(store) if b"Old/" in row[0]]

    story(Reminded, told, kinds=("Thing", "Old"))
