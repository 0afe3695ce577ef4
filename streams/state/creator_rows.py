"""Who made which object, as rows: what quotas of objects are counted by.

Rows (p = partition, u16 big endian): `o p key` the principal that made an object · `u p principal` how many of those
there are.

Laws
- An object is made by the entry that says so, and is there until one empties it as a whole (`delete_all`, its deletion,
  that of its namespace). What was removed value by value still counts.
- The count of a principal is the number of its objects; both follow from the journal alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from perdure.schemas.journal import Entry
from perdure.streams.state.answered_calls import CallRows
from perdure.streams.state.memtables import after
from perdure.streams.store.base import Store


class MakerRows(CallRows):
    """The rows of those who made a partition's objects, over the same layers as all its rows."""

    def __init__(self, store: Store, number: bytes) -> None:
        super().__init__(store, number)
        self._maker, self._made = b"o" + number, b"u" + number

    def maker(self, key: str) -> str | None:
        """Who made object `key`, if that is known."""
        data = self.row(self._maker + key.encode())
        return None if data is None else data.decode()

    def made(self) -> Iterator[tuple[str, int]]:
        """(principal, how many objects it made that are there)."""
        for row, count in self.rows(self._made, after(self._made)):
            yield row[len(self._made) :].decode(), int.from_bytes(count, "big")

    def fold_made(self, entry: Entry) -> None:
        """Its principal made the object of `entry`."""
        self.fold_unmade(entry.key)
        self.set_row(self._maker + entry.key.encode(), entry.principal.encode())
        self._count(entry.principal, 1)

    def fold_unmade(self, key: str) -> None:
        """Object `key` is there no more."""
        if (principal := self.maker(key)) is not None:
            self.set_row(self._maker + key.encode(), None)
            self._count(principal, -1)

    def unmake_all(self, namespace: str) -> None:
        """A namespace is deleted."""
        prefix = self._maker + f"{namespace}/".encode()
        for row, _ in list(self.rows(prefix, after(prefix))):
            self.fold_unmade(row[len(self._maker) :].decode())

    def _count(self, principal: str, change: int) -> None:
        row = self._made + principal.encode()
        count = int.from_bytes(self.row(row) or b"", "big") + change
        self.set_row(row, count.to_bytes(8, "big") if count else None)
