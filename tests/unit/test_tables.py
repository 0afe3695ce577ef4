"""The tables: a fold of the journal whose rows do not depend on how it was cut,
written, lost and folded again.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from perdure.schemas.effects import AlarmChange, AlarmRow, SocketChange, SocketRow, alarm_row, socket_row
from perdure.schemas.errors import LogCorrupt, StoreCorrupt
from perdure.schemas.journal import (
    NO_CHAIN,
    Claim,
    Entry,
    EntryRecord,
    Header,
    NoOp,
    chain_after_claim,
    encode_chained,
    encode_unchained,
    runs,
)
from perdure.schemas.replies import OK, Reply
from perdure.streams.journal.reader import JournalReader
from perdure.streams.state import tables as tables_module
from perdure.streams.state.fold import drop_older
from perdure.streams.state.rows import encode_row
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore

HOUR_MS = 3_600_000
MINUTE_MS = 60_000
YEAR_MS = 365 * 24 * HOUR_MS
START_MS = 1_000 * HOUR_MS
NAMES = ("a", "b", "c", "z\0", "é")
KEYS = ("A/a", "A/ab", "B/a")
ALARMS = ("default", "\0ttl", "é")


class Journal:
    """A journal with batches as an owner writes them: `values` by offset,
    `batches` what each of them says.
    """

    def __init__(self) -> None:
        claim = encode_unchained(Claim("u", "n"))
        self.values = [encode_unchained(Header("app", "app-uuid", 0, 1)), claim]
        self.chain = chain_after_claim(NO_CHAIN, 1, claim)
        self.seq = 0
        self.batches: list[tuple[list[Entry], NoOp]] = []

    def batch(
        self, *entries: Entry, done: tuple[int, ...] = (), low: int = 0, out: int = 1, clean: bool = False
    ) -> None:
        """One batch; without entries, or if `clean`, it ends in a no-op."""
        records: list[EntryRecord | NoOp] = [
            EntryRecord(1, self.seq + n, each, link=0) for n, each in enumerate(entries)
        ]
        if not entries or clean:
            records.append(NoOp(1, self.seq + len(entries), done, low, out, clean))
        else:
            records[-1] = EntryRecord(1, self.seq + len(entries) - 1, entries[-1], done, low, out, 0)
        for record in records:
            value, self.chain = encode_chained(record, self.chain)
            self.values.append(value)
        self.batches.append((list(entries), NoOp(1, self.seq, done, low, out, clean)))
        self.seq += len(records)


def entry(command: int, time_ms: int = START_MS, key: str = "A/a", **more: Any) -> Entry:
    return Entry(command, key, time_ms, OK, Reply(OK, 200, (), b"%d" % command), **more)


def a_journal(random: Random) -> Journal:
    """Random entries over a few objects and days, with everything an entry may hold."""
    journal, command, time_ms, ends = Journal(), 0, START_MS, [1]
    for _ in range(random.randrange(1, 9)):
        offsets = list(range(command, command + random.randrange(1, 6)))
        command += len(offsets)
        random.shuffle(offsets)
        done = sorted(offset for offset in offsets if random.random() < 0.3)
        entries = []
        for offset in offsets:
            if offset in done:
                continue
            time_ms += random.choice((0, 1, 1, HOUR_MS // 3, 7 * HOUR_MS, 25 * HOUR_MS))
            late_ms = random.choice((0, 0, 90_000))  # turns end in another order than they began
            puts = {name: b"%d" % offset for name in NAMES if random.random() < 0.3}
            gone = tuple(name for name in NAMES if name not in puts and random.random() < 0.2)
            spends = {"client_key": f"k{offset}", "principal": random.choice(("", "me"))}
            entries.append(
                entry(
                    offset,
                    time_ms - late_ms,
                    random.choice(KEYS),
                    puts=puts,
                    deletes=gone,
                    clear=random.random() < 0.15,
                    alarms=tuple(some_alarms(random)),
                    sockets=tuple(some_sockets(random)),
                    **(spends if random.random() < 0.4 else {}),
                )
            )
        out = random.choice(ends)
        ends = [end for end in ends if end >= out]
        journal.batch(
            *entries, done=runs(done), low=random.randrange(command), out=out, clean=random.random() < 0.1
        )
        ends.append(len(journal.values))
    return journal


def some_alarms(random: Random) -> Iterator[AlarmChange]:
    """A few, of few names and times: set, put off, parked, removed."""
    for name in ALARMS:
        if random.random() < 0.3:
            due_ms = random.choice((None, 0, START_MS, START_MS + random.randrange(9), 1 << 50))
            failed = random.choice((0, 0, 1, 7))
            cron = random.choice(("", "* * * * *"))
            yield AlarmChange(name, due_ms, failed, cron, "UTC" if cron else "", failed == 7)


def some_sockets(random: Random) -> Iterator[SocketChange]:
    for id_ in ("s1", "s2"):
        if random.random() < 0.2:
            yield SocketChange(id_, random.choice(("", "gateway")), ("tag",), b"attached")


class Model:
    """The same fold, the plain way."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, bytes]] = {key: {} for key in KEYS}
        self.spent: dict[tuple[str, str, str], Entry] = {}
        self.alarms: dict[str, dict[str, AlarmRow]] = {key: {} for key in KEYS}
        self.sockets: dict[str, dict[str, SocketRow]] = {key: {} for key in KEYS}
        self.age_ms = 0
        self.latest: Entry | None = None
        self.ages_ms: dict[int, int] = {}  # of an entry, when it was folded
        self.done: set[int] = set()

    def fold(self, each: Entry, offset: int) -> None:
        if self.latest is None:
            self.latest, self.age_ms = each, each.time_ms
        elif each.command > self.latest.command:
            self.age_ms += max(min(each.time_ms - self.latest.time_ms, MINUTE_MS), 0)
            self.latest = each
        self.ages_ms[each.command] = self.age_ms
        values = self.values[each.key]
        if each.clear:
            values.clear()
            self.alarms[each.key].clear()
        for alarm in each.alarms:
            _set(self.alarms[each.key], alarm.name, alarm_row(alarm, offset))
        for socket in each.sockets:
            _set(self.sockets[each.key], socket.id, socket_row(socket))
        values.update(each.puts)
        for name in each.deletes:
            values.pop(name, None)
        if each.client_key is not None:
            self.spent[each.key, each.principal, each.client_key] = each
        self.done.add(each.command)

    def check(self, tables: Tables) -> None:
        """What the tables answer is what the model holds."""
        for key, values in self.values.items():
            assert [tables.values.get(key, name) for name in NAMES] == [values.get(name) for name in NAMES]
            assert list(tables.values.scan(key, "", None)) == sorted(values.items())
            part = sorted(((n, v) for n, v in values.items() if "b" <= n < "z\1"), reverse=True)
            assert list(tables.values.scan(key, "b", "z\1", reverse=True)) == part
            assert tables.alarms.of(key) == self.alarms[key]
            assert [tables.alarms.get(key, name) for name in ALARMS] == [
                self.alarms[key].get(n) for n in ALARMS
            ]
            assert tables.sockets.of(key) == self.sockets[key]
        due = sorted(
            (row.due_ms, key, name)
            for key, alarms in self.alarms.items()
            for name, row in alarms.items()
            if not row.parked
        )
        assert list(tables.alarms.due((0, "", ""), 1 << 60)) == due
        for first in due:
            assert list(tables.alarms.due(first, START_MS + 4)) == [
                each for each in due if each >= first and each[0] < START_MS + 4
            ]
        for (key, principal, client_key), each in self.spent.items():
            found = tables.spent_keys.get(key, principal, client_key)
            if self.ages_ms[each.command] > self.age_ms - 25 * HOUR_MS:
                assert found is not None
                assert (found.command, found.reply) == (each.command, each.reply)
            else:
                assert found is None
            assert tables.spent_keys.get(key, principal + "x", client_key) is None
        assert all(offset in tables.done for offset in self.done)


def _set(rows: dict[str, Any], name: str, row: Any) -> None:
    if row is None:
        rows.pop(name, None)
    else:
        rows[name] = row


def rows(store: MemoryStore) -> list[tuple[bytes, bytes]]:
    return list(store.scan(b"\0", b"\xff\xff"))


SEEDS = st.integers(0, 2**32)


def folded(journal: Journal) -> MemoryStore:
    """The rows that folding it all at once gives."""
    store = MemoryStore()
    tables = Tables(store, 0)
    for offset, value in enumerate(journal.values):
        tables.apply(offset, value)
    tables.write_all()
    return store


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_a_void_record_changes_nothing_wherever_it_is_written(seed: int) -> None:
    """The same rows, whenever they are written, and a word on which records count: a void one does not."""
    random = Random(seed)
    journal, store = a_journal(random), MemoryStore()
    journal.values.append(encode_chained(NoOp(0, 0), NO_CHAIN)[0])  # of no reign that there was
    void = len(journal.values) - 1
    journal.batch(entry(1_000))
    tables, counts = Tables(store, 0), list[bool]()
    for offset, value in enumerate(journal.values):
        counts.append(tables.apply(offset, value) is not None)
        if random.random() < 0.1:
            tables.write_all()
    tables.write_all()
    assert counts == [offset != void for offset in range(len(journal.values))]
    assert rows(store) == rows(folded(journal))


def reloaded(store: MemoryStore, journal: Journal) -> Tables:
    """Tables as a beginning owner has them: batch ends from the out mark on are seen again."""
    tables = Tables(store, 0)
    reader = JournalReader("j", tables.out_position)
    while reader.offset < tables.reader.offset:
        record = reader.step(reader.offset, journal.values[reader.offset])
        if isinstance(record, (EntryRecord, NoOp)) and record.out:
            tables.remember_end(reader.position)
    return tables


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_reads_see_everything_folded_written_or_not(seed: int) -> None:
    """After every record, whatever lies in the store and what in which piece:
    values, names in order, client keys.
    """
    random = Random(seed)
    journal, tables, model = a_journal(random), Tables(MemoryStore(), 0), Model()
    for offset, value in enumerate(journal.values):
        record = tables.apply(offset, value)
        if isinstance(record, EntryRecord):
            model.fold(record.entry, offset)
        if random.random() < 0.4:
            tables.freeze()
        if random.random() < 0.3:
            tables.write_memtable()
        model.check(tables)
    tables.write_all()
    model.check(tables)
    model.check(Tables(tables.store, 0))


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.sampled_from((1, 3, 500)))
def test_rows_do_not_depend_on_how_the_journal_was_cut(seed: int, piece_rows: int) -> None:
    """Cut anywhere, written piece by piece, forgotten by crashes and folded again: the same bytes."""
    random = Random(seed)
    journal, store = a_journal(random), MemoryStore()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables_module, "MEMTABLE_ROWS", piece_rows)
        tables = Tables(store, 0)
        crashes = 6
        while tables.reader.offset < len(journal.values):
            tables.apply(tables.reader.offset, journal.values[tables.reader.offset])
            if random.random() < 0.3:
                tables.freeze()
            while random.random() < 0.4 and tables.write_memtable():
                pass
            if random.random() < 0.1:
                store.flush()
            if crashes and random.random() < 0.15:
                crashes -= 1
                store.crash(random.randrange(store.unflushed + 1))
                tables = reloaded(store, journal)
        tables.write_all()
    assert rows(store) == rows(folded(journal))


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_a_batch_folded_by_its_writer_gives_the_rows_that_reading_it_gives(seed: int) -> None:
    """The owner, who knows what it wrote, and every reader come to the same bytes."""
    journal, store = a_journal(Random(seed)), MemoryStore()
    tables, reader = Tables(store, 0), JournalReader("j")
    for offset in (0, 1):
        tables.apply(offset, journal.values[offset])
        reader.step(offset, journal.values[offset])
    for entries, marks in journal.batches:
        count = len(entries) + (not entries or marks.clean)
        for offset in range(reader.offset, reader.offset + count):
            reader.step(offset, journal.values[offset])
        tables.applied(entries, marks, reader.position)
    tables.write_all()
    assert rows(store) == rows(folded(journal))


def test_a_memtable_never_claims_more_than_it_holds() -> None:
    """Each write in turn, with a crash behind it: what it says is applied is there,
    also when the hour changes.
    """
    journal = Journal()
    for n in range(6):
        journal.batch(entry(n, START_MS + n * HOUR_MS, puts={f"n{n}": b"1"}, client_key=f"k{n}"))
    store = MemoryStore()
    tables = Tables(store, 0)
    for offset, value in enumerate(journal.values):
        tables.apply(offset, value)
    tables.freeze()
    while tables.write_memtable():
        found = Tables(store, 0)
        for n in range(found.reader.offset - 2):
            assert found.values.get("A/a", f"n{n}") == b"1"
            assert found.spent_keys.get("A/a", "", f"k{n}") is not None


def test_clearing_hides_what_was_there_and_keeps_what_comes_after() -> None:
    """`clear` stands before the puts of its own entry; other objects, also of a
    longer name, are not touched.
    """
    journal = Journal()
    journal.batch(entry(0, puts={"a": b"1", "b": b"1"}), entry(1, key="A/ab", puts={"a": b"2"}))
    journal.batch(entry(2, puts={"a": b"3"}, clear=True))
    for written in (False, True):
        tables = Tables(MemoryStore(), 0)
        for offset, value in enumerate(journal.values):
            tables.apply(offset, value)
            if written:
                tables.write_all()
        assert list(tables.values.scan("A/a", "", None)) == [("a", b"3")]
        assert tables.values.get("A/ab", "a") == b"2"


def spending(*times_h: float) -> tuple[Tables, MemoryStore]:
    """Tables that have seen keys k0, k1, … at these hours, all written."""
    journal, store = Journal(), MemoryStore()
    for n, hours in enumerate(times_h):
        journal.batch(entry(n, START_MS + int(hours * HOUR_MS), client_key=f"k{n}"))
    tables = Tables(store, 0)
    for offset, value in enumerate(journal.values):
        tables.apply(offset, value)
        tables.write_all()
    return tables, store


@pytest.mark.parametrize(
    ("later_h", "seen"),
    [(0.5, True), (24.9, True), (24.9999, True), (25, False), (25.1, False), (100, False)],
)
def test_a_client_key_is_seen_until_the_tables_are_25_hours_older(
    later_h: float, seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the millisecond, and gone at once; here all that passes between two commands counts."""
    monkeypatch.setattr(tables_module, "STEP_MS", YEAR_MS)
    tables, _ = spending(0.7, 0.7 + later_h)
    assert (tables.spent_keys.get("A/a", "", "k0") is not None) == seen
    assert tables.spent_keys.get("A/a", "", "k1") is not None


def test_rows_of_forgotten_keys_are_removed_by_the_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the tables' age enters a new one; an earlier time does not make them younger."""
    monkeypatch.setattr(tables_module, "STEP_MS", YEAR_MS)
    _, store = spending(0, 1, 13)
    assert len(list(store.scan(b"k", b"l"))) == 3
    _, store = spending(0, 1, 13, 38, 14)
    assert len(list(store.scan(b"k", b"l"))) == 3  # of hour 13, and two of hour 38


@pytest.mark.parametrize("hours", [1, 24, 80])
def test_a_new_key_is_looked_for_in_three_places_at_most(hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many hours have keys; where none were spent there is nothing to look for."""
    monkeypatch.setattr(tables_module, "STEP_MS", YEAR_MS)
    tables, store = spending(*(n / 2 for n in range(2 * hours)))
    places: list[bytes] = []
    monkeypatch.setattr(store, "get", places.append)  # finds nothing, and says where it was to look
    assert tables.spent_keys.get("A/a", "", "new") is None
    assert len(places) == (1 if hours == 1 else 2 if hours == 24 else 3)
    assert Tables(MemoryStore(), 0).spent_keys.get("A/a", "", "new") is None


def test_a_clock_that_was_wrong_for_a_while_makes_no_key_older() -> None:
    """A year ahead for one command, a year behind for the next: no more than a
    minute passes for a client key.
    """
    times_h = [0.0]
    for _ in range(30):
        times_h += [YEAR_MS / HOUR_MS, 0.001, -YEAR_MS / HOUR_MS, 0.001]
    tables, _ = spending(*times_h)
    assert all(tables.spent_keys.get("A/a", "", f"k{n}") is not None for n in range(len(times_h)))


def test_keys_are_forgotten_after_a_day_of_steady_work() -> None:
    """A command each half minute: the first key goes when 25 hours have passed, and
    its row half a day later.
    """
    last = 25 * 120
    tables, store = spending(*(n / 120 for n in range(last)))
    assert tables.spent_keys.get("A/a", "", "k0") is not None
    tables, store = spending(*(n / 120 for n in range(last + 121)))
    assert tables.spent_keys.get("A/a", "", "k0") is None
    tables, store = spending(*(n / 120 for n in range(38 * 120)))
    assert len(list(store.scan(b"k", b"l"))) <= 1.5 * last


def test_the_clock_of_the_fold_is_that_of_the_latest_command() -> None:
    """It steps back with it; the entry of a turn that took long, of a lower offset, does not move it."""
    journal = Journal()
    journal.batch(
        entry(0), entry(3, START_MS + YEAR_MS), entry(5, START_MS + 5), entry(4, START_MS + YEAR_MS)
    )
    meta = Tables(folded(journal), 0).meta
    assert (meta.latest, meta.clock_ms, meta.age_ms) == (5, START_MS + 5, START_MS + MINUTE_MS)


def test_partitions_share_a_store_and_nothing_else() -> None:
    """Rows of one are none of another's, up to the last number."""
    store = MemoryStore()
    journal = Journal()
    journal.batch(entry(0, puts={"a": b"1"}, client_key="k"))
    for partition in (0, 1, 255, 256, 0xFFFF):
        tables = Tables(store, partition)
        assert (tables.info.offset, tables.values.get("A/a", "a")) == (0, None)
        for offset, value in enumerate(journal.values):
            tables.apply(offset, value)
        tables.write_all()
    assert Tables(store, 255).spent_keys.get("A/a", "", "k") is not None
    assert Tables(store, 2).spent_keys.get("A/a", "", "k") is None


def test_a_clean_end_is_known_until_something_follows() -> None:
    """A claim, an entry or another no-op takes it back."""
    journal = Journal()
    journal.batch(clean=True)
    store = folded(journal)
    assert Tables(store, 0).meta.clean
    journal.batch(entry(0))
    assert not Tables(folded(journal), 0).meta.clean


@pytest.mark.parametrize(
    ("against", "reason"),
    [
        (("other", 1, 9, 9), "belongs to app #7e5b5e42 with 1 partitions, the log to app #"),
        (("app-uuid", 2, 9, 9), "with 1 partitions, the log to app #7e5b5e42 with 2"),
        (("app-uuid", 1, 2, 9), "applied journal up to offset 2, the log ends before 2"),
        (("app-uuid", 1, 3, 7), "applied commands up to offset 7, the log ends before 7"),
    ],
)
def test_a_store_that_is_no_fold_of_this_log_is_refused(
    against: tuple[str, int, int, int], reason: str
) -> None:
    """Another app's, or ahead of its log: both sides are named, and what is exactly at the end is fine."""
    journal = Journal()
    journal.batch(entry(7))
    tables = Tables(folded(journal), 0)
    tables.check_against("app-uuid", 1, 3, 8)
    with pytest.raises(LogCorrupt, match=reason):
        tables.check_against(*against)


def test_an_empty_store_is_a_fold_of_every_log() -> None:
    """It has applied nothing, so no log contradicts it; it begins with the first record."""
    tables = Tables(MemoryStore(), 0)
    tables.check_against("any", 9, 0, 0)
    assert (tables.reader.offset, tables.done.mark) == (0, 0)


@pytest.mark.parametrize("data", [b"\xff", b"\x91\x63", b"\x90" * 3])
def test_a_damaged_meta_row_stops_with_the_remedy(data: bytes) -> None:
    """The log has everything: rebuild."""
    store = MemoryStore()
    store.write((), [(b"m\0\0", data)])
    with pytest.raises(StoreCorrupt, match="perdure state rebuild"):
        Tables(store, 0)


def test_whoever_listens_hears_of_each_alarm_that_changes() -> None:
    """Set, put off, removed and cleared, in the order of the journal; entries without alarms are not told."""
    journal, heard = Journal(), []
    journal.batch(entry(0, alarms=(AlarmChange("a", 5), AlarmChange("b", 6))), entry(1, puts={"x": b"1"}))
    journal.batch(
        entry(2, alarms=(AlarmChange("a", None),)), entry(3, clear=True, alarms=(AlarmChange("c", 7),))
    )
    tables = Tables(MemoryStore(), 0)
    tables.alarms.on_change = lambda key, name, row: heard.append((key, name, row and row.due_ms))
    for offset, value in enumerate(journal.values):
        tables.apply(offset, value)
    assert heard == [
        ("A/a", "a", 5),
        ("A/a", "b", 6),
        ("A/a", "a", None),
        ("A/a", "b", None),
        ("A/a", "c", 7),
    ]


def test_rows_of_an_older_format_are_dropped_and_folded_again() -> None:
    """Those of that partition only; one line names them."""
    store, journal = MemoryStore(), Journal()
    journal.batch(entry(0, puts={"a": b"1"}, client_key="k"))
    for partition in (0, 1, 2):
        tables = Tables(store, partition)
        for offset, value in enumerate(journal.values):
            tables.apply(offset, value)
        tables.write_all()
    for partition in (0, 2):
        tables = Tables(store, partition)
        tables.meta.format -= 1
        store.write((), [(b"m" + partition.to_bytes(2, "big"), encode_row(tables.meta))])
        with pytest.raises(StoreCorrupt, match="state rebuild"):
            Tables(store, partition)
    with capture_logs() as lines:
        drop_older(store, range(3))
        drop_older(store, range(3))
    assert [line["partitions"] for line in lines] == [[0, 2]]
    assert [Tables(store, partition).info.offset for partition in (0, 1, 2)] == [0, len(journal.values), 0]
    assert {row[1:3] for row, _ in rows(store)} == {b"\0\1"}
