"""The one rule of ownership: which records of a journal count.

Several nodes may append to one partition's journal; the owner, its successors, rebuilds and checks all read
it through `JournalReader`, so that they agree on which records count.

Laws
- Offset 0 holds the header, and offsets follow one another without a gap.
- A claim counts only if it follows the newest epoch that counts, or does not say which it follows: so of two
  nodes that claim behind the same epoch the first one wins, and one that was away takes nothing from its
  successor.
- An entry, no-op or migration counts only if its epoch is the newest claim's offset and its seq is the next
  one; everything else is void, for every reader. (On an exclusive log nothing may be void.)
- What counts must continue the chain; if it doesn't, the journal was tampered with or damaged.
Pure: values in, values out.
"""

from __future__ import annotations

from typing import NamedTuple

from perdure.schemas.errors import LogCorrupt
from perdure.schemas.journal import (
    CHAIN_BYTES,
    LAST_UNLINKED,
    NO_CHAIN,
    OLDEST_VERSION,
    UNREADABLE,
    VERSION,
    Claim,
    Header,
    JournalRecord,
    chain_after_claim,
    decode_linked,
    decode_record,
    next_chain,
)

NO_EPOCH = -1
# The parts of a linked record's value; as constants, since making one costs as much as the slicing.
_PAYLOAD, _LINK = slice(None, -CHAIN_BYTES), slice(-CHAIN_BYTES, None)
_BODY = slice(1, None)  # of a payload
_VERSIONS = range(OLDEST_VERSION, VERSION + 1)


class Position(NamedTuple):
    """A reader's position: the next offset, the epoch in force, the next seq and the chain so far."""

    offset: int = 0
    epoch: int = NO_EPOCH
    seq: int = 0
    chain: bytes = NO_CHAIN


START = Position()


class JournalReader:
    """The reader of one journal partition: takes offsets and values in order, returns the records that
    count."""

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
        """Move to the position that the records' writer says they lead to."""
        self.offset, self.epoch, self.seq, self.chain = position

    def step(self, offset: int, value: bytes | None) -> JournalRecord | None:
        """The record at `offset` if it counts, None if it is void. Raises `LogCorrupt` naming the offset."""
        if offset != self.offset:
            raise LogCorrupt(
                f"{self.name}: offset {self.offset} is missing, the next record is {offset}: "
                "was the topic trimmed or recreated? Nothing was changed"
            )
        # what millions of records are comes first, without a call to look at the rest
        try:
            if not offset or not value or value[0] not in _VERSIONS or value[2] <= LAST_UNLINKED:
                return self._step_unlinked(offset, value)
            payload = value[_PAYLOAD]
            record = decode_linked(payload[_BODY])
        except UNREADABLE as error:
            raise LogCorrupt(f"{self.name} at offset {offset}: not a journal record: {error}") from error
        if record.seq != self.seq or record.epoch != self.epoch:
            self._pass_void(offset)
            return None
        chain = value[_LINK]
        if next_chain(self.chain, payload) != chain:
            raise LogCorrupt(
                f"{self.name} at offset {offset}: the hash chain is broken: the record, or one before it, was "
                "changed after it was written"
            )
        self.chain, self.seq, self.offset = chain, self.seq + 1, offset + 1
        return record

    def _step_unlinked(self, offset: int, value: bytes | None) -> Header | Claim | None:
        """The header or claim at `offset`, None if the claim is void.

        Raises `LogCorrupt` for anything else.
        """
        try:
            record = decode_record(value)
        except LogCorrupt as error:
            raise LogCorrupt(f"{self.name} at offset {offset}: {error}") from error
        assert value is not None  # decode_record refused it
        if offset == 0:
            if not isinstance(record, Header):
                raise LogCorrupt(f"{self.name} at offset 0: not a header: this is not a journal of perdure")
            self.offset = 1
            return record
        if not isinstance(record, Claim) or record.after not in (None, self.epoch):
            self._pass_void(offset)
            return None
        self.chain = chain_after_claim(self.chain, offset, value)
        self.epoch, self.seq, self.offset = offset, 0, offset + 1
        return record

    def _pass_void(self, offset: int) -> None:
        if self.exclusive:
            raise LogCorrupt(
                f"{self.name} at offset {offset}: a record of another epoch, which no owner can have written: "
                "the log is damaged"
            )
        self.offset = offset + 1
        self.void += 1
