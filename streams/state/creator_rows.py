"""Creators as rows: which principal created which object.

Quotas of objects are counted by these rows.

Rows (p = partition, u16 big endian): `o p key` the principal that created an object · `u p principal` how
many of those exist.

Laws
- An object is created by the entry that says so, and exists until one empties it as a whole (`delete_all`,
  its deletion, that of its namespace). An object whose values were removed one by one still counts.
- The count of a principal is the number of its objects; both follow from the journal alone.
  [test_object_quotas.py]
"""

from __future__ import annotations

from collections.abc import Iterator

from perdure.streams.state.memtables import Memtables, after


class CreatorRows:
    """The creators of one partition's objects; `number` is the partition as rows have it."""

    def __init__(self, memtables: Memtables, number: bytes) -> None:
        self._memtables = memtables
        self._creator, self._number_of = b"o" + number, b"u" + number

    def of(self, key: str) -> str | None:
        """The principal that created object `key`, if known."""
        data = self._memtables.row(self._creator + key.encode())
        return None if data is None else data.decode()

    def all(self) -> Iterator[tuple[str, str]]:
        """(object key, the principal that created it) of all of them."""
        for row, principal in self._memtables.rows(self._creator, after(self._creator)):
            yield row[len(self._creator) :].decode(), principal.decode()

    def counts(self) -> Iterator[tuple[str, int]]:
        """(principal, how many objects that it created exist)."""
        for row, count in self._memtables.rows(self._number_of, after(self._number_of)):
            yield row[len(self._number_of) :].decode(), int.from_bytes(count, "big")

    def created(self, key: str, principal: str) -> None:
        """Fold that `principal` created object `key`."""
        self.removed(key)
        self._memtables.set_row(self._creator + key.encode(), principal.encode())
        self._count(principal, 1)

    def removed(self, key: str) -> None:
        """Fold that object `key` no longer exists."""
        if (principal := self.of(key)) is not None:
            self._memtables.set_row(self._creator + key.encode(), None)
            self._count(principal, -1)

    def remove_namespace(self, namespace: str) -> Iterator[None]:
        """Fold that a namespace is deleted, in pieces."""
        prefix = self._creator + f"{namespace}/".encode()
        for piece in self._memtables.pieces(prefix, after(prefix)):
            for row, _ in piece:
                self.removed(row[len(self._creator) :].decode())
            yield

    def _count(self, principal: str, change: int) -> None:
        row = self._number_of + principal.encode()
        count = int.from_bytes(self._memtables.row(row) or b"", "big") + change
        self._memtables.set_row(row, count.to_bytes(8, "big") if count else None)
