"""Spent client keys as rows: `k p bucket key NUL principal NUL client-key`.

A client that gives a key with a command may send it again: the key's row holds the first one's reply. A
bucket holds the keys that were spent within half a window of the tables' age (see tables.py). So the window
reaches over three of them at most, which is one read each, and forgotten keys are removed by one range per
bucket.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from perdure.schemas.journal import Entry
from perdure.streams.state.memtables import Memtables, after
from perdure.streams.state.rows import (
    BUCKET_MS,
    WINDOW_MS,
    Meta,
    SpentKey,
    buckets_at,
    decode_spent,
    encode_row,
)


class Spent(NamedTuple):
    """A client key that was spent on an object, and its row."""

    key: str
    principal: str
    client_key: str
    row: SpentKey


class SpentKeys:
    """The client keys of one partition; `number` is the partition as rows have it."""

    def __init__(self, memtables: Memtables, number: bytes) -> None:
        self._memtables = memtables
        self._prefix = b"k" + number
        self._meta = Meta()
        self._kept: list[bytes] = []  # the prefixes of the buckets that may have rows, the newest first
        self._newest = -1  # the bucket that was folded into last

    def load(self, meta: Meta) -> None:
        """Look which buckets there are; `meta` has the tables' age from now on."""
        self._meta, self._newest = meta, -1
        store, starts = self._memtables.store, map(self._start, buckets_at(meta.age_ms))
        self._kept = [each for each in starts if next(store.scan(each, after(each)), None)]

    def get(self, key: str, principal: str, client_key: str) -> SpentKey | None:
        """What this client key was spent on within the window, if it was."""
        data = self._memtables.key_row(self._kept, f"{key}\0{principal}\0{client_key}".encode())
        if data is None:
            return None
        spent = decode_spent(data)
        return spent if spent.age_ms > self._meta.age_ms - WINDOW_MS else None

    def all(self) -> Iterator[Spent]:
        """All that are not forgotten. Everything folded must have been written."""
        for start in self._kept:
            for row, data in self._memtables.store.scan(start, after(start)):
                spent = decode_spent(data)
                if spent.age_ms > self._meta.age_ms - WINDOW_MS:
                    key, principal, client_key = row[len(start) :].decode().split("\0", 2)
                    yield Spent(key, principal, client_key, spent)

    def fold(self, entry: Entry) -> None:
        """Fold that the entry's client key is spent."""
        age_ms, memtable = self._meta.age_ms, self._memtables.open
        if (bucket := age_ms // BUCKET_MS) != self._newest:
            self._newest, start = bucket, self._start(bucket)
            if not self._kept or self._kept[0] != start:
                self._kept.insert(0, start)
        row = self._kept[0] + f"{entry.key}\0{entry.principal}\0{entry.client_key}".encode()
        spent = SpentKey(age_ms, entry.payload_hash, entry.command, entry.reply)
        memtable.keys[row] = encode_row(spent)
        memtable.size += 1

    def grow_older(self) -> None:
        """The tables' age has entered another bucket: remove those below the window."""
        oldest = self._start(buckets_at(self._meta.age_ms)[-1])
        self._kept = [each for each in self._kept if each >= oldest]
        self._memtables.remove_rows(self._prefix, oldest)

    def _start(self, bucket: int) -> bytes:
        return self._prefix + bucket.to_bytes(4, "big")
