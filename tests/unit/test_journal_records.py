"""Journal records: encoded and read back the same, chained, and refused when they are none of ours."""

from __future__ import annotations

import contextlib
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.schemas.errors import LogCorrupt
from perdure.schemas.journal import (
    CHAIN_BYTES,
    NO_CHAIN,
    VERSION,
    CallMade,
    Claim,
    Entry,
    EntryRecord,
    Header,
    Migration,
    NoOp,
    Out,
    chain_after_claim,
    decode_record,
    each_run,
    encode_chained,
    encode_entry,
    encode_raw_entry,
    encode_unchained,
    in_runs,
    next_chain,
    runs,
)
from perdure.schemas.migrations import Step
from perdure.schemas.replies import ErrorInfo, Reply

OFFSET = st.integers(0, 2**62)
TEXT = st.text(st.characters(codec="utf-8"), max_size=10)
BYTES = st.binary(max_size=20)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple)
RECORD_HEADERS = st.lists(st.tuples(TEXT, BYTES), max_size=2).map(tuple)
REPLIES = st.builds(
    Reply,
    TEXT,
    st.integers(0, 599),
    PAIRS,
    BYTES,
    st.none() | st.builds(ErrorInfo, TEXT, TEXT, st.none() | TEXT),
)
ENTRIES = st.builds(
    Entry,
    command=OFFSET,
    key=TEXT,
    time_ms=OFFSET,
    outcome=TEXT,
    reply=REPLIES,
    puts=st.dictionaries(TEXT, BYTES, max_size=3),
    deletes=st.lists(TEXT, max_size=3).map(tuple),
    clear=st.booleans(),
    command_hash=BYTES,
    id=TEXT,
    reply_to=TEXT,
    summary=TEXT,
    principal=TEXT,
    client_key=st.none() | TEXT,
    payload_hash=BYTES,
    body=st.none() | BYTES,
    cause=TEXT,
    calls=st.lists(
        st.builds(CallMade, TEXT, TEXT, st.integers(0, 9), st.integers(-1, 2**62)), max_size=2
    ).map(tuple),
    outbox=st.lists(
        st.builds(Out, TEXT, st.integers(0, 9), st.none() | BYTES, st.none() | BYTES, RECORD_HEADERS),
        max_size=2,
    ).map(tuple),
)
DONE = st.lists(OFFSET, max_size=3).map(tuple)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple)
STEPS = st.builds(Step, TEXT, PAIRS, PAIRS, st.lists(TEXT, max_size=2).map(tuple))
CHAINED = (
    st.builds(EntryRecord, OFFSET, OFFSET, ENTRIES, DONE, OFFSET, OFFSET, st.none() | st.integers(-9, 2**62))
    | st.builds(NoOp, OFFSET, OFFSET, DONE, OFFSET, OFFSET, st.booleans())
    | st.builds(Migration, OFFSET, OFFSET, STEPS)
)
UNCHAINED = st.builds(Header, TEXT, TEXT, st.integers(0, 99), st.integers(1, 99), TEXT) | st.builds(
    Claim, TEXT, TEXT
)
CHAINS = st.binary(min_size=CHAIN_BYTES, max_size=CHAIN_BYTES)


@settings(max_examples=60, deadline=None)
@given(CHAINED, CHAINS)
def test_a_chained_record_comes_back(record: EntryRecord | NoOp | Migration, chain: bytes) -> None:
    """Entry, no-op and migration survive to the field; the value ends with its
    chain, made of all in front of it.
    """
    value, new = encode_chained(record, chain)
    assert decode_record(value) == record
    assert value[0] == VERSION
    assert value[-CHAIN_BYTES:] == new == next_chain(chain, value[:-CHAIN_BYTES])


@settings(max_examples=30, deadline=None)
@given(UNCHAINED)
def test_a_header_and_a_claim_come_back(record: Header | Claim) -> None:
    """They carry no chain of their own."""
    assert decode_record(encode_unchained(record)) == record


@settings(max_examples=50, deadline=None)
@given(
    ENTRIES,
    OFFSET,
    OFFSET,
    CHAINS,
    st.just(((), 0, 0)) | st.tuples(DONE, OFFSET, st.integers(1, 2**62)),
    st.integers(-999, 2**62),
)
def test_an_entry_encoded_before_it_is_placed_gives_the_same_bytes(
    entry: Entry, epoch: int, seq: int, chain: bytes, marks: tuple[tuple[int, ...], int, int], link: int
) -> None:
    """The short way of the hot path writes what the plain way would; marks have an
    `out`, or there are none.
    """
    plain = encode_chained(EntryRecord(epoch, seq, entry, *marks, link=link), chain)
    assert encode_raw_entry(epoch, seq, encode_entry(entry), chain, *marks, link=link) == plain


def test_an_entry_of_the_first_version_is_read() -> None:
    """As earlier versions wrote it: an array of seven, an entry of twenty fields, no link."""
    # EntryRecord(1, 2, Entry(4, "Counter/a", 1000, "ok", Reply("ok", 200, (), b"7"), {"count": b"\x07"}))
    written = bytes.fromhex(
        "0197020102dc001404a9436f756e7465722f61cd03e8a26f6b95a26f6bccc890c40137c081a5636f756e74c4010790c2c400"
        "a0a0a0a0c0c400909090009090000000"[:-2]
        + "6b6076c7a2642f44261ba29cef8da70a"
    )
    record = decode_record(written)
    assert isinstance(record, EntryRecord)
    assert (record.entry.key, record.entry.puts) == ("Counter/a", {"count": b"\x07"})
    assert (record.link, record.previous(9), record.entry.body, record.entry.calls) == (None, None, b"", ())


@pytest.mark.parametrize("version", [0, VERSION + 1, 255])
def test_another_version_is_refused_with_the_remedy(version: int) -> None:
    """Newer code wrote it: the reader stops and says which version and what to run."""
    value = bytes((version,)) + encode_chained(NoOp(1, 0), NO_CHAIN)[0][1:]
    with pytest.raises(LogCorrupt, match=f"version {version} is not known.*a newer perdure"):
        decode_record(value)


@pytest.mark.parametrize("value", [None, b""])
def test_an_empty_record_is_refused(value: bytes | None) -> None:
    """No owner writes one."""
    with pytest.raises(LogCorrupt, match="an empty record"):
        decode_record(value)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60) | CHAINED.map(lambda r: encode_chained(r, NO_CHAIN)[0][1:]), st.integers(0, 60))
def test_damaged_bytes_are_a_record_or_refused(data: bytes, cut: int) -> None:
    """`LogCorrupt`, and no other error, however the bytes were cut or made up."""
    with contextlib.suppress(LogCorrupt):
        record = decode_record(bytes((VERSION,)) + data[:cut])
        assert isinstance(record, Claim | EntryRecord | Migration | NoOp)


def test_the_chain_after_a_claim_depends_on_its_place_and_its_bytes() -> None:
    """So an entry that follows a claim cannot be made to follow another one."""
    one, other = (encode_unchained(Claim(uuid, "a")) for uuid in ("u1", "u2"))
    assert len({chain_after_claim(NO_CHAIN, at, v) for at in (1, 2) for v in (one, other)}) == 4


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)), st.randoms())
def test_runs_are_the_offsets_they_were_made_of(offsets: set[int], more: set[int], random: Random) -> None:
    """In any order, single or in runs; adjacent offsets share a run, so a dense batch is two numbers."""
    known = [*each_run(runs(list(more - offsets)))]
    random.shuffle(known)
    found = runs(list(offsets), [number for run in known for number in run])
    assert in_runs(found) == sorted(offsets | more)
    ends = [first + count for first, count in zip(found[::2], found[1::2], strict=True)]
    assert all(end < following for end, following in zip(ends, found[2::2], strict=False))


def test_a_dense_batch_is_one_run() -> None:
    """However it was shuffled."""
    assert runs([5, 3, 4, 9]) == (3, 3, 9, 1)
