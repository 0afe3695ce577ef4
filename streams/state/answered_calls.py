"""What calls and sends of turns were answered, as rows: kept until their caller's low mark has passed them.

Rows (p = partition, u16 big endian): `c p caller's-partition offset h parent:content n` an answered call, by its key ·
`… s n` a send, `… c n` a call by order, as they were written before · `x p window parent:content n` a call that hangs on a
client's key · `l p caller's-partition` how far that partition's calls and sends are over (`Passed`).

Laws
- A partition's low mark comes with its calls and sends. When it enters a new block of `BLOCK` offsets, the commands
  here up to the one that brought it may still be copies, or originals that wait: a send has been passed when it is
  on the log, not when it has run. So rows below the block go when all of those are done, by one range.
- What arrives from below that floor later is a late copy: it is never run.
- What hangs on a client's key is kept as long as that: `WINDOW_HOURS` of the tables' age, by rows of so many hours, which go
  by one range.
- A row whose reply is unavailable says that the call ran, called others, and was not done: it is to run, and goes on.
- All of this follows from the order of the journal alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from perdure.schemas.calls import CALL_KEY, NOWHERE, SEND_KEY, CallKey, Root
from perdure.schemas.commands import Command, payload_hash
from perdure.schemas.journal import Entry
from perdure.schemas.replies import Reply
from perdure.streams.state.memtables import Layers, after
from perdure.streams.state.offsets import Watermark
from perdure.streams.state.rows import WINDOW_MS, Meta, encode_row
from perdure.streams.store.base import Store

BLOCK = 256


class AnsweredCall(msgspec.Struct, array_like=True, frozen=True):
    """What a call from a turn was, and its answer. `command`: where it lies in this partition's commands."""

    key: str
    summary: str
    payload_hash: bytes
    command: int
    reply: Reply


class KeptCall(AnsweredCall, array_like=True, frozen=True):
    """One that hangs on a client's key."""

    age_ms: int = 0  # the tables' age when it was answered


class Passed(msgspec.Struct, array_like=True, frozen=True):
    """Offsets of a calling partition below `floor` are over. Those below `next` will be, when all commands here up
    to `at` are done."""

    floor: int = 0
    next: int = 0
    at: int = -1


_decode = msgspec.msgpack.Decoder(AnsweredCall).decode
_decode_kept = msgspec.msgpack.Decoder(KeptCall).decode
_decode_passed = msgspec.msgpack.Decoder(Passed).decode


class CallRows(Layers):
    """The rows of one partition's calls, over the same layers as all its rows."""

    done: Watermark  # of the commands of this partition, as folded
    meta: Meta

    def __init__(self, store: Store, number: bytes) -> None:
        super().__init__(store, b"v" + number)
        self._call, self._kept, self._passed_row = b"c" + number, b"x" + number, b"l" + number
        self._passed: dict[int, Passed] = {}  # what the rows say, as far as they were read
        self._by_order: set[bytes] | None = None  # places that have calls by order; None: not looked for

    def load(self) -> None:
        """Read what is kept in memory of the store's rows: at the beginning, and when the store has been given them."""
        self._passed.clear()
        self._by_order = None

    def passed(self, partition: int) -> Passed:
        """How far a calling partition's calls and sends are over here."""
        found = self._passed.get(partition)
        if found is None:
            data = self.row(self._passed_row + partition.to_bytes(2, "big"))
            found = self._passed[partition] = _decode_passed(data) if data else Passed()
        return found

    def answered_call(self, key: CallKey) -> AnsweredCall | None:
        """What the call with this key was answered, if its caller may still ask again."""
        if key.partition == NOWHERE:
            return self._kept_call(key)
        if key.offset < self.passed(key.partition).floor:
            return None
        data = self.row(self._call_row(key))
        return None if data is None else _decode(data)

    def _kept_call(self, key: CallKey) -> KeptCall | None:
        age_ms = self.meta.age_ms
        for window in (age_ms // WINDOW_MS, age_ms // WINDOW_MS - 1):
            data = self.row(self._kept_row(window, key.parent) + _of_content(key)) if window >= 0 else None
            if data is not None:
                found = _decode_kept(data)
                return found if found.age_ms > age_ms - WINDOW_MS else None
        return None

    def calls_of(self, root: Root) -> Iterator[tuple[CallKey, AnsweredCall]]:
        """The calls with this root that have rows, in no order."""
        if root.partition == NOWHERE:
            age_ms = self.meta.age_ms
            window = age_ms // WINDOW_MS
            for prefix in (
                self._kept_row(each, root.parent) for each in range(max(window - 1, 0), window + 1)
            ):
                for row, data in self.rows(prefix, after(prefix)):
                    found = _decode_kept(data)
                    if found.age_ms > age_ms - WINDOW_MS:
                        yield _by_content(root, row[len(prefix) :]), found
            return
        prefix = self._place_row(root.partition, root.offset) + b"h" + root.parent.encode() + b":"
        for row, data in self.rows(prefix, after(prefix)):
            yield _by_content(root, row[len(prefix) :]), _decode(data)

    def calls_by_order(self, partition: int, offset: int) -> list[tuple[int, AnsweredCall]]:
        """Those that the turn at that place made by order: (number, what it was), by number."""
        if self._by_order is None:
            rows = self.rows(self._call, after(self._call))
            self._by_order = {row[3:13] for row, _ in rows if row[13:14] == b"c"}
        prefix = self._place_row(partition, offset) + b"c"
        if prefix[3:13] not in self._by_order:
            return []
        rows = self.rows(prefix, after(prefix))
        return [(int.from_bytes(row[len(prefix) :], "big"), _decode(data)) for row, data in rows]

    def places_of_calls(self, partition: int) -> set[int]:
        """The offsets of that partition's commands that calls here hang on."""
        prefix = self._call + partition.to_bytes(2, "big")
        return {int.from_bytes(row[5:13], "big") for row, _ in self.rows(prefix, after(prefix))}

    def fold_call(self, entry: Entry, key: CallKey) -> None:
        """An entry of a call or send: see what is over by it, keep its answer."""
        if key.partition == NOWHERE:
            age_ms = self.meta.age_ms
            kept = (entry.key, entry.summary, entry.payload_hash, entry.command, entry.reply, age_ms)
            place = self._kept_row(age_ms // WINDOW_MS, key.parent) + _of_content(key)
            self.set_row(place, encode_row(KeptCall(*kept)))
            return
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
            if key.kind == CALL_KEY and not key.content and self._by_order is not None:
                self._by_order.add(self._place_row(key.partition, key.offset)[3:])

    def calls_grow_older(self, before_ms: int, age_ms: int) -> None:
        """The tables' age has grown: calls that hang on client keys, and were kept before the last window, go."""
        window = age_ms // WINDOW_MS
        if window != before_ms // WINDOW_MS:
            self.remove_rows(self._kept, self._kept + max(window - 1, 0).to_bytes(4, "big"))

    def _pass(self, partition: int, passed: Passed) -> Passed:
        self._passed[partition] = passed
        self.set_row(self._passed_row + partition.to_bytes(2, "big"), encode_row(passed))
        return passed

    def _place_row(self, partition: int, offset: int) -> bytes:
        return self._call + partition.to_bytes(2, "big") + offset.to_bytes(8, "big")

    def _call_row(self, key: CallKey) -> bytes:
        place = self._place_row(key.partition, key.offset)
        if key.content:
            return place + b"h" + key.parent.encode() + b":" + _of_content(key)
        return place + (b"s" if key.kind == SEND_KEY else b"c") + key.n.to_bytes(4, "big")

    def _kept_row(self, window: int, parent: str) -> bytes:
        return self._kept + window.to_bytes(4, "big") + parent.encode() + b":"


def _of_content(key: CallKey) -> bytes:
    return key.content.encode() + key.n.to_bytes(4, "big")


def _by_content(root: Root, row: bytes) -> CallKey:
    n = int.from_bytes(row[-4:], "big")
    return CallKey(CALL_KEY, root.partition, root.offset, n, root.parent, row[:-4].decode())


def nth_by_order(calls: list[tuple[int, AnsweredCall]], command: Command, n: int) -> AnsweredCall | None:
    """The `n`th of them that asked what `command` asks."""
    hashed = payload_hash(command)
    equal = [each for _, each in calls if each.payload_hash == hashed]
    return equal[n - 1] if 0 < n <= len(equal) else None
