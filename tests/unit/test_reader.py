"""The rule of ownership, as stories: which journal records count, which are void, which stop the reader."""

from __future__ import annotations

import pytest

from perdure.schemas.errors import LogCorrupt
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
)
from perdure.schemas.replies import Reply
from perdure.streams.journal.reader import JournalReader, Position

HEADER = encode_unchained(Header("app", "uuid", 0, 1))


class Written:
    """A journal as owners write it: each owner knows its own epoch, seq and chain."""

    def __init__(self) -> None:
        self.values: list[bytes] = [HEADER]

    def claim(self, uuid: str, after: Owner | None = None) -> Owner:
        value = encode_unchained(Claim(uuid, uuid))
        epoch = len(self.values)
        self.values.append(value)
        return Owner(self, epoch, chain_after_claim(after.chain if after else NO_CHAIN, epoch, value))


class Owner:
    def __init__(self, journal: Written, epoch: int, chain: bytes) -> None:
        self.journal = journal
        self.epoch = epoch
        self.chain = chain
        self.seq = 0

    def write(self, *, entry: bool = False, seq: int | None = None) -> None:
        """One more record; as it was written, whether or not it will count."""
        seq = self.seq if seq is None else seq
        record: EntryRecord | NoOp = NoOp(self.epoch, seq)
        if entry:
            record = EntryRecord(self.epoch, seq, Entry(7, "A/a", 1, "ok", Reply("ok")))
        value, self.chain = encode_chained(record, self.chain)
        self.journal.values.append(value)
        self.seq = seq + 1


def behind_the_claim(journal: Written) -> JournalReader:
    """A reader that has read the header and the first claim."""
    reader = JournalReader("j")
    for offset in (0, 1):
        reader.step(offset, journal.values[offset])
    return reader


def verdicts(journal: Written, *, exclusive: bool = False) -> str:
    """One letter a record: h(eader), c(laim), e(ntry), n(o-op), or . for void."""
    reader = JournalReader("journal of partition 3", exclusive=exclusive)
    found = [reader.step(offset, value) for offset, value in enumerate(journal.values)]
    assert reader.offset == len(journal.values)
    return "".join("." if each is None else type(each).__name__[0].lower() for each in found)


def a_plain_reign(journal: Written) -> None:
    owner = journal.claim("a")
    owner.write(entry=True)
    owner.write()


def a_fenced_owner_writes_on(journal: Written) -> None:
    old = journal.claim("a")
    old.write(entry=True)
    new = journal.claim("b", old)
    old.write(entry=True)
    old.write()
    new.write(entry=True)


def a_last_breath_between_claim_and_entries(journal: Written) -> None:
    old = journal.claim("a")
    new = journal.claim("b", old)
    old.write(entry=True)
    new.write()
    old.write(entry=True)
    new.write()


def a_batch_lands_twice(journal: Written) -> None:
    owner = journal.claim("a")
    owner.write(entry=True)
    journal.values.append(journal.values[-1])
    owner.write()


def a_batch_is_lost_and_the_next_one_lands(journal: Written) -> None:
    owner = journal.claim("a")
    owner.write(entry=True)
    owner.write(seq=2)
    owner.write(seq=3)


def a_claim_gives_way_before_it_wrote(journal: Written) -> None:
    first = journal.claim("a")
    second = journal.claim("b", first)
    third = journal.claim("c", second)
    third.write()
    first.write()
    second.write()


def an_entry_before_any_claim(journal: Written) -> None:
    Owner(journal, 0, NO_CHAIN).write(entry=True)
    journal.claim("a").write()


def an_entry_of_an_epoch_to_come(journal: Written) -> None:
    owner = journal.claim("a")
    Owner(journal, 99, owner.chain).write(entry=True)
    owner.write()


def a_second_header(journal: Written) -> None:
    owner = journal.claim("a")
    journal.values.append(HEADER)
    owner.write()


STORIES = [
    (a_plain_reign, "hcen"),
    (a_fenced_owner_writes_on, "hcec..e"),
    (a_last_breath_between_claim_and_entries, "hcc.n.n"),
    (a_batch_lands_twice, "hce.n"),
    (a_batch_is_lost_and_the_next_one_lands, "hce.."),
    (a_claim_gives_way_before_it_wrote, "hcccn.."),
    (an_entry_before_any_claim, "h.cn"),
    (an_entry_of_an_epoch_to_come, "hc.n"),
    (a_second_header, "hc.n"),
]


@pytest.mark.parametrize(("story", "expected"), STORIES, ids=lambda each: getattr(each, "__name__", ""))
def test_a_record_counts_by_the_newest_claim_and_the_next_seq(story: object, expected: str) -> None:
    """Each story, and what every reader makes of it."""
    journal = Written()
    story(journal)  # type: ignore[operator]  # a function of the table above
    assert verdicts(journal) == expected


@pytest.mark.parametrize(
    "story", [each for each, expected in STORIES if "." in expected], ids=lambda each: each.__name__
)
def test_on_an_exclusive_log_nothing_may_be_void(story: object) -> None:
    """Nobody else can have written it, so the log is damaged: stop, with the place."""
    journal = Written()
    story(journal)  # type: ignore[operator]  # as above
    with pytest.raises(LogCorrupt, match=r"journal of partition 3 at offset \d+: a record of another epoch"):
        verdicts(journal, exclusive=True)


def test_void_records_are_counted() -> None:
    """They are listed, not vouched for."""
    journal = Written()
    a_fenced_owner_writes_on(journal)
    reader = JournalReader("j")
    for offset, value in enumerate(journal.values):
        reader.step(offset, value)
    assert reader.void == 2


@pytest.mark.parametrize("lost", [0, 1, 2, 3])
def test_a_missing_offset_stops_the_reader(lost: int) -> None:
    """Trimmed or recreated: both offsets are named and nothing moves."""
    journal = Written()
    a_plain_reign(journal)
    reader = JournalReader("journal of partition 3")
    for offset in range(lost):
        reader.step(offset, journal.values[offset])
    before = reader.position
    with pytest.raises(
        LogCorrupt, match=f"partition 3: offset {lost} is missing, the next record is {lost + 1}"
    ):
        reader.step(lost + 1, journal.values[-1])
    assert reader.position == before


def test_a_journal_that_does_not_begin_with_a_header_is_none() -> None:
    """A claim or an entry at offset 0 stops the reader."""
    with pytest.raises(LogCorrupt, match="at offset 0: not a header"):
        JournalReader("j").step(0, encode_unchained(Claim("u", "n")))


def test_every_flipped_bit_of_a_counting_record_breaks_the_chain() -> None:
    """No byte of an entry can be changed unseen; the error names the place."""
    journal = Written()
    a_plain_reign(journal)
    reader = behind_the_claim(journal)
    before, value = reader.position, journal.values[2]
    for at in range(len(value)):
        for bit in range(8):
            damaged = bytearray(value)
            damaged[at] ^= 1 << bit
            reader.move(before)
            try:
                counted = reader.step(2, bytes(damaged))
            except LogCorrupt as error:
                assert "at offset 2" in str(error)  # noqa: PT017 - void is the other right answer
            else:
                assert counted is None, f"byte {at}, bit {bit}"


def test_a_record_cut_short_anywhere_is_none_of_ours() -> None:
    """However few bytes are left of it, the reader stops, names the place and stays where it was."""
    journal = Written()
    a_plain_reign(journal)
    reader = behind_the_claim(journal)
    before = reader.position
    for size in range(len(journal.values[2])):
        with pytest.raises(LogCorrupt, match="j at offset 2"):
            reader.step(2, journal.values[2][:size])
        assert reader.position == before


def test_an_entry_cannot_be_moved_behind_another_history() -> None:
    """The same bytes after another record: the chain says no."""
    journal, other = Written(), Written()
    a_plain_reign(journal)
    other.claim("a").write()
    reader = JournalReader("j")
    for offset in (0, 1):
        reader.step(offset, other.values[offset])
    reader.step(2, other.values[2])
    with pytest.raises(LogCorrupt, match="hash chain is broken"):
        reader.step(3, journal.values[3])


@pytest.mark.parametrize(("story", "expected"), STORIES, ids=lambda each: getattr(each, "__name__", ""))
def test_a_reader_can_go_on_from_any_position(story: object, expected: str) -> None:
    """Stop after any record, begin again there: the same verdicts and the same end."""
    journal = Written()
    story(journal)  # type: ignore[operator]  # as above
    for stop in range(1, len(journal.values)):
        first = JournalReader("j")
        for offset in range(stop):
            first.step(offset, journal.values[offset])
        second = JournalReader("j", Position(*first.position))
        counted = [second.step(at, journal.values[at]) is not None for at in range(stop, len(journal.values))]
        assert counted == [letter != "." for letter in expected[stop:]]
