"""The store: ordered bytes to bytes, a fold of the journal. In RocksDB (rocks.py), or in memory for tests.

Laws
- One `write` is all or nothing after any crash, and writes survive in order: what is found is a prefix of
  them (of those of each partition, where some were taken in). There is no WAL: the journal is it. Only `flush`
  makes everything written so far survive.
- A scan that ended early because of damage raises; it never looks complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

Range = tuple[bytes, bytes]  # first key, key after the last


class Store(Protocol):
    """What the tables need of a store."""

    def get(self, key: bytes) -> bytes | None: ...

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= key < end, in order."""

    def write(self, removed: Iterable[Range], rows: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Remove the ranges, then put the rows (None deletes): all in one batch."""

    def flush(self) -> None:
        """Make all that was written survive. Blocks for some ms: call it in a thread."""

    def close(self) -> None: ...
