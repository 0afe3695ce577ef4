"""The store's twin in memory: the same laws, with crashes on demand.

Laws
- A read of a row that begins with one of `broken` fails, as on a disk that refuses to read.
- `crash(keep)` forgets everything after the last flush except the first `keep` writes: RocksDB may have
  flushed on its own between any two writes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from perdure.schemas.errors import StorageFailed
from perdure.streams.store.base import Range

_Write = tuple[list[Range], list[tuple[bytes, bytes | None]]]


class MemoryStore:
    """A sorted map in memory. It ships with the product: users' tests run on it."""

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self._flushed: dict[bytes, bytes] = {}
        self._since: list[_Write] = []
        self.broken: set[bytes] = set()

    def get(self, key: bytes) -> bytes | None:
        self._check(key)
        return self._rows.get(key)

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        self._check(start)
        keys = self._keys[bisect_left(self._keys, start) : bisect_left(self._keys, end)]
        for key in reversed(keys) if reverse else keys:
            yield key, self._rows[key]

    def write(self, removed: Iterable[Range], rows: Iterable[tuple[bytes, bytes | None]]) -> None:
        write = (list(removed), list(rows))
        self._since.append(write)
        self._apply(write)

    def flush(self) -> None:
        self._flushed = dict(self._rows)
        self._since.clear()

    def close(self) -> None:
        self.flush()

    @property
    def unflushed(self) -> int:
        """How many writes a crash may forget."""
        return len(self._since)

    def crash(self, keep: int) -> None:
        """Go back to the last flush and the first `keep` writes after it."""
        kept = self._since[:keep]
        self._rows = dict(self._flushed)
        self._keys = sorted(self._rows)
        for write in kept:
            self._apply(write)
        self.flush()

    def _check(self, key: bytes) -> None:
        if self.broken and key.startswith(tuple(self.broken)):
            raise StorageFailed("the store refuses to read: this fault was planted")

    def _apply(self, write: _Write) -> None:
        removed, rows = write
        for start, end in removed:
            low, high = bisect_left(self._keys, start), bisect_left(self._keys, end)
            for key in self._keys[low:high]:
                del self._rows[key]
            del self._keys[low:high]
        for key, value in rows:
            if value is None:
                if self._rows.pop(key, None) is not None:
                    del self._keys[bisect_left(self._keys, key)]
            else:
                if key not in self._rows:
                    insort(self._keys, key)
                self._rows[key] = value
