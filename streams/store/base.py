"""The contract of a store: a map of bytes to bytes in key order, in RocksDB (rocks.py) or in memory
(memory.py).

The tables of all partitions are written to one store, lazily; after a crash the journal has what the store
lost.

Laws
- One `write` is all or nothing after any crash, and writes survive in order: after a crash there is a prefix
  of them (for each partition its own, where files were ingested). There is no WAL: the journal serves as one.
  Only `flush` makes everything written so far survive. [contract/test_store.py]
- A scan that ended early because of damage raises; it never looks complete. [contract/test_store.py]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

Range = tuple[bytes, bytes]  # first key, key after the last


class Store(Protocol):
    """A sorted map of rows, as the tables use it."""

    def get(self, key: bytes) -> bytes | None: ...

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= key < end, in order."""

    def write(self, removed: Iterable[Range], rows: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Remove the ranges, then put the rows (None deletes): all in one batch."""

    def flush(self) -> None:
        """Make everything written so far survive a crash. Blocks for some ms: call it in a thread."""

    def close(self) -> None: ...
