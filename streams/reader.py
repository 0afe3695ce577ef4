"""What a reader makes of a journal record: the one rule of ownership, used by everybody.

Laws
- Offset 0 holds the header, and offsets follow one another without a gap.
- An entry, no-op or migration counts only if its epoch is the newest claim's offset and its seq is the next one;
  everything else is void, for every reader. (On an exclusive log nothing may be void.)
- What counts must continue the chain; if it doesn't, the journal was tampered with or damaged.
Pure: values in, values out.
"""

from __future__ import annotations

from typing import NamedTuple

from perdure.schemas.errors import LogCorrupt
from perdure.schemas.journal import (
    CHAIN_BYTES,
    NO_CHAIN,
    Claim,
    EntryRecord,
    Header,
    JournalRecord,
    Migration,
    NoOp,
    chain_after_claim,
    decode_record,
    next_chain,
)

NO_EPOCH = -1


class Position(NamedTuple):
    """Where a reader stands: the next offset, whose epoch it is, the next seq and the chain so far."""

    offset: int = 0
    epoch: int = NO_EPOCH
    seq: int = 0
    chain: bytes = NO_CHAIN


START = Position()


class JournalReader:
    """Folds offsets and values of one journal partition into what counts."""

    __slots__ = ("chain", "epoch", "exclusive", "name", "offset", "seq", "void")

    def __init__(self, name: str, position: Position = START, *, exclusive: bool = False) -> None:
        self.name = name
        self.offset, self.epoch, self.seq, self.chain = position
        self.exclusive = exclusive
        self.void = 0

    @property
    def position(self) -> Position:
        return Position(self.offset, self.epoch, self.seq, self.chain)

    def move(self, position: Position) -> None:
        """Go where the writer of the records, who knows them, says that they lead."""
        self.offset, self.epoch, self.seq, self.chain = position

    def step(self, offset: int, value: bytes | None) -> JournalRecord | None:
        """The record at `offset` if it counts, None if it is void. Raises `LogCorrupt` naming the offset."""
        if offset != self.offset:
            raise LogCorrupt(
                f"{self.name}: offset {self.offset} is missing, the next record is {offset}: "
                "was the topic trimmed or recreated? Nothing was changed"
            )
        try:
            record = decode_record(value)
        except LogCorrupt as error:
            raise LogCorrupt(f"{self.name} at offset {offset}: {error}") from error
        assert value is not None  # decode_record refused it
        kind = type(record)
        if kind is Header:
            if offset == 0:
                self.offset = 1
                return record
            self._pass_void(offset)
            return None
        if offset == 0:
            raise LogCorrupt(f"{self.name} at offset 0: not a header: this is no journal of perdure")
        if kind is Claim:
            self.chain = chain_after_claim(self.chain, offset, value)
            self.epoch, self.seq, self.offset = offset, 0, offset + 1
            return record
        assert isinstance(record, (EntryRecord, NoOp, Migration))
        if record.epoch != self.epoch or record.seq != self.seq:
            self._pass_void(offset)
            return None
        chain = value[-CHAIN_BYTES:]
        if next_chain(self.chain, value[:-CHAIN_BYTES]) != chain:
            raise LogCorrupt(
                f"{self.name} at offset {offset}: the hash chain is broken: the record, or one before it, was "
                "changed after it was written"
            )
        self.chain, self.seq, self.offset = chain, self.seq + 1, offset + 1
        return record

    def _pass_void(self, offset: int) -> None:
        if self.exclusive:
            raise LogCorrupt(
                f"{self.name} at offset {offset}: a record of another epoch, which nobody can have written: "
                "the log is damaged"
            )
        self.offset = offset + 1
        self.void += 1
