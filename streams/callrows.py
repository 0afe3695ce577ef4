"""What calls and sends of turns were answered, as rows: kept until their caller's low mark has passed them.

Rows (p = partition, u16 big endian): `c p caller's-partition offset kind n` an answered call or send, by its key ·
`l p caller's-partition` how far that partition's calls and sends are over (`Passed`).

Laws
- A partition's low mark comes with its calls and sends. When it enters a new block of `BLOCK` offsets, the commands
  here up to the one that brought it may still be copies, or originals that wait: a send has been passed when it is
  on the log, not when it has run. So rows below the block go when all of those are done, by one range.
- What arrives from below that floor later is a late copy: it is never run.
- All of this follows from the order of the journal alone.
"""

from __future__ import annotations

import msgspec

from perdure.schemas.calls import SEND_KEY, CallKey
from perdure.schemas.journal import Entry
from perdure.schemas.replies import Reply
from perdure.streams.layers import Layers
from perdure.streams.progress import Watermark
from perdure.streams.rows import encode_row
from perdure.streams.store import Store

BLOCK = 256


class AnsweredCall(msgspec.Struct, array_like=True, frozen=True):
    """What a call from a turn was, and its answer. `command`: where it lies in this partition's commands."""

    key: str
    summary: str
    payload_hash: bytes
    command: int
    reply: Reply


class Passed(msgspec.Struct, array_like=True, frozen=True):
    """Offsets of a calling partition below `floor` are over. Those below `next` will be, when all commands here up
    to `at` are done."""

    floor: int = 0
    next: int = 0
    at: int = -1


_decode = msgspec.msgpack.Decoder(AnsweredCall).decode
_decode_passed = msgspec.msgpack.Decoder(Passed).decode


class CallRows(Layers):
    """The rows of one partition's calls, over the same layers as all its rows."""

    done: Watermark  # of the commands of this partition, as folded

    def __init__(self, store: Store, number: bytes) -> None:
        super().__init__(store, b"v" + number)
        self._call, self._passed_row = b"c" + number, b"l" + number
        self._passed: dict[int, Passed] = {}  # what the rows say, as far as they were read

    def load(self) -> None:
        """Read what is kept in memory of the store's rows: at the beginning, and when the store has been given them."""
        self._passed.clear()

    def passed(self, partition: int) -> Passed:
        """How far a calling partition's calls and sends are over here."""
        found = self._passed.get(partition)
        if found is None:
            data = self.row(self._passed_row + partition.to_bytes(2, "big"))
            found = self._passed[partition] = _decode_passed(data) if data else Passed()
        return found

    def answered_call(self, key: CallKey) -> AnsweredCall | None:
        """What the call with this key was answered, if its caller may still ask again."""
        if key.offset < self.passed(key.partition).floor:
            return None
        data = self.row(self._call_row(key))
        return None if data is None else _decode(data)

    def fold_call(self, entry: Entry, key: CallKey) -> None:
        """An entry of a call or send: see what is over by it, keep its answer."""
        passed = self.passed(key.partition)
        if passed.next > passed.floor and self.done.mark > passed.at:
            passed = self._pass(key.partition, Passed(passed.next, passed.next))
            calls = self._call + key.partition.to_bytes(2, "big")
            self.remove_rows(calls, calls + passed.floor.to_bytes(8, "big"))
        block = entry.mark - entry.mark % BLOCK
        if passed.next == passed.floor < block:
            passed = self._pass(key.partition, Passed(passed.floor, block, entry.command))
        if key.offset >= passed.floor:
            row = AnsweredCall(entry.key, entry.summary, entry.payload_hash, entry.command, entry.reply)
            self.set_row(self._call_row(key), encode_row(row))

    def _pass(self, partition: int, passed: Passed) -> Passed:
        self._passed[partition] = passed
        self.set_row(self._passed_row + partition.to_bytes(2, "big"), encode_row(passed))
        return passed

    def _call_row(self, key: CallKey) -> bytes:
        kind = b"s" if key.kind == SEND_KEY else b"c"
        place = key.partition.to_bytes(2, "big") + key.offset.to_bytes(8, "big")
        return self._call + place + kind + key.n.to_bytes(4, "big")
