"""The done offsets above the watermark as rows: `d p word`, 512 offsets to a row.

Below the watermark every command is done; above it a row says which are, so that a start does not run them
again.

Law: a memtable writes only the words that have changed, however many offsets are done behind one slow turn.
[test_tables.py]
"""

from __future__ import annotations

from perdure.streams.state.memtables import Memtable, after
from perdure.streams.state.offsets import Watermark
from perdure.streams.store.base import Store

MANY_WORDS = 64  # are removed by one range


class DoneRows:
    """The rows of one partition's watermark; `number` is the partition as rows have it."""

    def __init__(self, number: bytes) -> None:
        self._prefix = b"d" + number
        self._kept: set[int] = set()  # words that have a row

    def load(self, store: Store, mark: int) -> Watermark:
        """The set of done offsets, as the store has it."""
        done = Watermark(mark)
        for row, bits in store.scan(self._prefix, after(self._prefix)):
            done.load(int.from_bytes(row[len(self._prefix) :], "big"), bits)
        self._kept = set(done.words)
        return done

    def freeze(self, done: Watermark, memtable: Memtable) -> None:
        """Have `memtable`, which is being frozen, write what has changed since the one before."""
        kept, unkept = self._kept, []
        for word, bits in done.changed().items():
            if bits is not None:
                kept.add(word)
                memtable.closing.append((self._row(word), bits))
            elif word in kept:
                kept.remove(word)
                unkept.append(word)
        if len(unkept) > MANY_WORDS:  # a slow turn has ended, and the mark has passed what was done behind it
            memtable.removed.append((self._row(min(unkept)), self._row(max(unkept) + 1)))
        else:
            memtable.closing.extend((self._row(word), None) for word in unkept)

    def _row(self, word: int) -> bytes:
        return self._prefix + word.to_bytes(8, "big")
