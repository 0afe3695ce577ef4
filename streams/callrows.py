"""What calls and sends of turns were answered, as rows: kept until their caller's low mark has passed them.

Rows (p = partition, u16 big endian): `c p caller's-partition offset kind n` an answered call or send, by its key ·
`l p caller's-partition` that partition's low mark, as far as its calls and sends have told it.

Laws
- A partition's low mark comes with its calls and sends, and only rises. What lies below is over: its caller will
  not ask again, so its row is not seen any more, and what still arrives is a late copy.
- Rows below the mark are removed when it enters a new block of `BLOCK` offsets, by one range. Both follow from the
  order of the journal alone.
"""

from __future__ import annotations

import msgspec

from perdure.schemas.calls import SEND_KEY, CallKey
from perdure.schemas.journal import Entry
from perdure.schemas.replies import Reply
from perdure.streams.layers import Layers
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


_decode = msgspec.msgpack.Decoder(AnsweredCall).decode


class CallRows(Layers):
    """The rows of one partition's calls, over the same layers as all its rows."""

    def __init__(self, store: Store, number: bytes) -> None:
        super().__init__(store, b"v" + number)
        self._call, self._caller_mark = b"c" + number, b"l" + number
        self._marks: dict[int, int] = {}  # what the mark rows say, as far as they were read

    def caller_mark(self, partition: int) -> int:
        """The low mark of a calling partition, as far as it is known here."""
        mark = self._marks.get(partition)
        if mark is None:
            data = self.row(self._caller_mark + partition.to_bytes(2, "big"))
            mark = self._marks[partition] = int.from_bytes(data, "big") if data else 0
        return mark

    def answered_call(self, key: CallKey) -> AnsweredCall | None:
        """What the call with this key was answered, if its caller may still ask again."""
        if key.offset < self.caller_mark(key.partition):
            return None
        data = self.row(self._call_row(key))
        return None if data is None else _decode(data)

    def fold_call(self, entry: Entry, key: CallKey) -> None:
        """An entry of a call or send: move its caller's mark, keep its answer."""
        before = self.caller_mark(key.partition)
        if entry.mark > before:
            self._pass(key.partition, before, entry.mark)
        if key.offset >= self._marks[key.partition]:
            row = AnsweredCall(entry.key, entry.summary, entry.payload_hash, entry.command, entry.reply)
            self.set_row(self._call_row(key), encode_row(row))

    def _pass(self, partition: int, before: int, mark: int) -> None:
        number = partition.to_bytes(2, "big")
        self._marks[partition] = mark
        self.set_row(self._caller_mark + number, mark.to_bytes(8, "big"))
        if mark // BLOCK != before // BLOCK:
            calls = self._call + number
            self.remove_rows(calls, calls + (mark - mark % BLOCK).to_bytes(8, "big"))

    def _call_row(self, key: CallKey) -> bytes:
        kind = b"s" if key.kind == SEND_KEY else b"c"
        place = key.partition.to_bytes(2, "big") + key.offset.to_bytes(8, "big")
        return self._call + place + kind + key.n.to_bytes(4, "big")
