"""Answered calls and sends as rows: kept until their caller's low watermark has passed them.

A turn that calls another object may run again after a crash, and then calls again. The row of the first call
gives the second one the same answer, so that the called object runs once.

Rows (p = partition, u16 big endian): `c p caller's-partition offset h parent:content n` an answered call,
by its key · `… s n` a send, `… f 0` a forward (schemas/forwards.py), `… c n` a call by order, as earlier
versions wrote them · `x p window parent:content n` a call whose key derives from a client's key · `l p
caller's-partition` how far that partition's calls and sends are over (`Passed`).

Laws
- A partition's low watermark travels with its calls and sends, and is at most the offset in their keys. When
  it enters a new block of `BLOCK` offsets, the commands here up to the one that brought it may still be
  copies, or originals that wait: a send has been passed when it is on the log, not when it has run. So rows
  below the block are removed, by one range, when all of those are done.
- A call from below that floor that arrives later is a late copy: it is never run. [test_calls.py]
- A call of a client's key is kept as long as the key: `WINDOW_HOURS` of the tables' age, in windows of so
  many hours, each removed by one range. [test_calls_again.py]
- A row whose reply is unavailable says that the call ran, called others, and was not done: it is run again,
  and goes on.
- All of this follows from the order of the journal alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from perdure.schemas.calls import CALL_KEY, FORWARD_KEY, NOWHERE, SEND_KEY, CallKey, Root
from perdure.schemas.commands import Command, payload_hash
from perdure.schemas.journal import Entry
from perdure.schemas.replies import OK, Reply
from perdure.streams.state.memtables import Memtables, after
from perdure.streams.state.offsets import Watermark
from perdure.streams.state.rows import WINDOW_MS, Meta, encode_row

BLOCK = 256
_LETTERS = {SEND_KEY: b"s", CALL_KEY: b"c", FORWARD_KEY: b"f"}
_SAID = Reply(OK)  # in the row of a forward, whose answer is never asked for again


class AnsweredCall(msgspec.Struct, array_like=True, frozen=True):
    """A call from a turn and its answer. `command`: its offset among this partition's commands."""

    key: str
    summary: str
    payload_hash: bytes
    command: int
    reply: Reply


class KeptCall(AnsweredCall, array_like=True, frozen=True):
    """An answered call whose key derives from a client's key."""

    age_ms: int = 0  # the tables' age when it was answered


class Passed(msgspec.Struct, array_like=True, frozen=True):
    """The progress of a calling partition: its calls below `floor` are over, and those below `next` once all
    commands here up to `at` are done."""

    floor: int = 0
    next: int = 0
    at: int = -1


_decode = msgspec.msgpack.Decoder(AnsweredCall).decode
_decode_kept = msgspec.msgpack.Decoder(KeptCall).decode
_decode_passed = msgspec.msgpack.Decoder(Passed).decode


class AnsweredCalls:
    """The answered calls and sends of one partition; `number` is the partition as rows have it."""

    def __init__(self, memtables: Memtables, number: bytes) -> None:
        self._memtables = memtables
        self._meta, self._done = Meta(), Watermark()
        self._call, self._kept, self._passed_row = b"c" + number, b"x" + number, b"l" + number
        self._passed: dict[int, Passed] = {}  # what the rows say, as far as they were read
        self._by_order: set[bytes] | None = None  # places that have calls by order; None: not read yet

    def load(self, meta: Meta, done: Watermark) -> None:
        """Forget what was read.

        From now on `meta` has the tables' age, and `done` which commands are done.
        """
        self._meta, self._done = meta, done
        self._passed.clear()
        self._by_order = None

    def passed(self, partition: int) -> Passed:
        """How far a calling partition's calls and sends are over here."""
        passed = self._passed.get(partition)
        if passed is None:
            data = self._memtables.row(self._passed_row + partition.to_bytes(2, "big"))
            passed = self._passed[partition] = _decode_passed(data) if data else Passed()
        return passed

    def get(self, key: CallKey) -> AnsweredCall | None:
        """How the call with this key was answered, if its caller may still send it again."""
        if key.partition == NOWHERE:
            return self._kept_call(key)
        if key.offset < self.passed(key.partition).floor:
            return None
        data = self._memtables.row(self._call_row(key))
        return None if data is None else _decode(data)

    def _kept_call(self, key: CallKey) -> KeptCall | None:
        age_ms = self._meta.age_ms
        for window in (age_ms // WINDOW_MS, age_ms // WINDOW_MS - 1):
            data = (
                self._memtables.row(self._kept_row(window, key.parent) + _of_content(key))
                if window >= 0
                else None
            )
            if data is not None:
                kept = _decode_kept(data)
                return kept if kept.age_ms > age_ms - WINDOW_MS else None
        return None

    def of_root(self, root: Root) -> Iterator[tuple[CallKey, AnsweredCall]]:
        """The calls with this root that have rows, in no order."""
        if root.partition == NOWHERE:
            age_ms = self._meta.age_ms
            window = age_ms // WINDOW_MS
            for prefix in (
                self._kept_row(each, root.parent) for each in range(max(window - 1, 0), window + 1)
            ):
                for row, data in self._memtables.rows(prefix, after(prefix)):
                    kept = _decode_kept(data)
                    if kept.age_ms > age_ms - WINDOW_MS:
                        yield _by_content(root, row[len(prefix) :]), kept
            return
        prefix = self._place_row(root.partition, root.offset) + b"h" + root.parent.encode() + b":"
        for row, data in self._memtables.rows(prefix, after(prefix)):
            yield _by_content(root, row[len(prefix) :]), _decode(data)

    def kept(self) -> Iterator[tuple[CallKey, KeptCall]]:
        """The calls whose keys derive from clients' keys, as far as they are not forgotten."""
        for row, data in self._memtables.rows(self._kept, after(self._kept)):
            kept = _decode_kept(data)
            if kept.age_ms > self._meta.age_ms - WINDOW_MS:
                parent, _, rest = row[7:].partition(b":")
                yield _by_content(Root(NOWHERE, NOWHERE, parent.decode()), rest), kept

    def by_order(self, partition: int, offset: int) -> list[tuple[int, AnsweredCall]]:
        """The calls that the turn at that place made by order: (number, answered call), by number."""
        if self._by_order is None:
            rows = self._memtables.rows(self._call, after(self._call))
            self._by_order = {row[3:13] for row, _ in rows if row[13:14] == b"c"}
        prefix = self._place_row(partition, offset) + b"c"
        if prefix[3:13] not in self._by_order:
            return []
        rows = self._memtables.rows(prefix, after(prefix))
        return [(int.from_bytes(row[len(prefix) :], "big"), _decode(data)) for row, data in rows]

    def places(self, partition: int) -> set[int]:
        """The offsets of that partition's commands whose turns made calls that have rows here."""
        prefix = self._call + partition.to_bytes(2, "big")
        return {int.from_bytes(row[5:13], "big") for row, _ in self._memtables.rows(prefix, after(prefix))}

    def fold(self, entry: Entry, key: CallKey) -> None:
        """Fold the entry of a call, send or forward: keep its answer, and remove those that its low
        watermark has passed."""
        if key.partition == NOWHERE:
            age_ms = self._meta.age_ms
            kept = (entry.key, entry.summary, entry.payload_hash, entry.command, entry.reply, age_ms)
            place = self._kept_row(age_ms // WINDOW_MS, key.parent) + _of_content(key)
            self._memtables.set_row(place, encode_row(KeptCall(*kept)))
            return
        passed = self.passed(key.partition)
        if passed.next > passed.floor and self._done.mark > passed.at:
            passed = self._pass(key.partition, Passed(passed.next, passed.next))
            calls = self._call + key.partition.to_bytes(2, "big")
            self._memtables.remove_rows(calls, calls + passed.floor.to_bytes(8, "big"))
        # one above its own key is of another partition: earlier versions put it on sends of called turns
        block = entry.mark - entry.mark % BLOCK if entry.mark <= key.offset else 0
        if passed.next == passed.floor < block:
            passed = self._pass(key.partition, Passed(passed.floor, block, entry.command))
        if key.offset >= passed.floor:
            reply = _SAID if key.kind == FORWARD_KEY else entry.reply
            row = AnsweredCall(entry.key, entry.summary, entry.payload_hash, entry.command, reply)
            self._memtables.set_row(self._call_row(key), encode_row(row))
            if key.kind == CALL_KEY and not key.content and self._by_order is not None:
                self._by_order.add(self._place_row(key.partition, key.offset)[3:])

    def grow_older(self, before_ms: int) -> None:
        """The tables' age has grown: remove the calls of client keys that were kept before the last
        window."""
        window = self._meta.age_ms // WINDOW_MS
        if window != before_ms // WINDOW_MS:
            self._memtables.remove_rows(self._kept, self._kept + max(window - 1, 0).to_bytes(4, "big"))

    def _pass(self, partition: int, passed: Passed) -> Passed:
        self._passed[partition] = passed
        self._memtables.set_row(self._passed_row + partition.to_bytes(2, "big"), encode_row(passed))
        return passed

    def _place_row(self, partition: int, offset: int) -> bytes:
        return self._call + partition.to_bytes(2, "big") + offset.to_bytes(8, "big")

    def _call_row(self, key: CallKey) -> bytes:
        place = self._place_row(key.partition, key.offset)
        if key.content:
            return place + b"h" + key.parent.encode() + b":" + _of_content(key)
        return place + _LETTERS[key.kind] + key.n.to_bytes(4, "big")

    def _kept_row(self, window: int, parent: str) -> bytes:
        return self._kept + window.to_bytes(4, "big") + parent.encode() + b":"


def _of_content(key: CallKey) -> bytes:
    return key.content.encode() + key.n.to_bytes(4, "big")


def _by_content(root: Root, row: bytes) -> CallKey:
    n = int.from_bytes(row[-4:], "big")
    return CallKey(CALL_KEY, root.partition, root.offset, n, root.parent, row[:-4].decode())


def nth_by_order(calls: list[tuple[int, AnsweredCall]], command: Command, n: int) -> AnsweredCall | None:
    """The `n`th of `calls` whose request is that of `command`."""
    hashed = payload_hash(command)
    equal = [each for _, each in calls if each.payload_hash == hashed]
    return equal[n - 1] if 0 < n <= len(equal) else None
