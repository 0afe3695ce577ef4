"""Spent client keys as rows: `k p bucket key NUL principal NUL client-key`.

A bucket holds the keys that were spent within half a window of the tables' age (see tables.py). So the window reaches over
three of them at most, which is one read each, and what is forgotten goes by one range per bucket.
"""

from __future__ import annotations

from perdure.schemas.journal import Entry
from perdure.streams.state.memtables import Layers, after
from perdure.streams.state.rows import BUCKET_MS, WINDOW_MS, SpentKey, buckets_at, decode_spent, encode_row


class KeyRows:
    """The client keys of one partition; `number` is the partition as rows have it."""

    def __init__(self, layers: Layers, number: bytes) -> None:
        self._layers = layers
        self._prefix = b"k" + number
        self._kept: list[
            bytes
        ] = []  # where the rows of the buckets begin that may have some, the newest first

    def load(self, age_ms: int) -> None:
        """Look which buckets there are."""
        store, starts = self._layers.store, map(self._start, buckets_at(age_ms))
        self._kept = [each for each in starts if next(store.scan(each, after(each)), None)]

    def spent(self, key: str, principal: str, client_key: str, age_ms: int) -> SpentKey | None:
        """What this client key was spent on within the window, if it was."""
        data = self._layers.key_row(self._kept, f"{key}\0{principal}\0{client_key}".encode())
        if data is None:
            return None
        found = decode_spent(data)
        return found if found.age_ms > age_ms - WINDOW_MS else None

    def fold(self, entry: Entry, age_ms: int) -> None:
        """The entry's client key is spent."""
        start = self._start(age_ms // BUCKET_MS)
        if not self._kept or self._kept[0] != start:
            self._kept.insert(0, start)
        row = start + f"{entry.key}\0{entry.principal}\0{entry.client_key}".encode()
        spent = SpentKey(age_ms, entry.payload_hash, entry.command, entry.reply)
        self._layers.set_key_row(row, encode_row(spent))

    def grow_older(self, age_ms: int) -> None:
        """The tables' age has entered another bucket: what lies in buckets below the window goes."""
        oldest = self._start(buckets_at(age_ms)[-1])
        self._kept = [each for each in self._kept if each >= oldest]
        self._layers.remove_rows(self._prefix, oldest)

    def _start(self, bucket: int) -> bytes:
        return self._prefix + bucket.to_bytes(4, "big")
