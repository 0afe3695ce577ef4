"""What is folded and not written yet, in pieces, over the store.

Laws
- Reads see everything folded, written or not, the newest piece first.
- A piece is written as one batch: first what it removes, then its rows, then what closes it.
- Looking through the rows of a kind costs what is found, and the open piece: not all that waits to be written.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from perdure.objects.overlay import in_range, merged
from perdure.streams.store.base import Range, Store

ABSENT = object()


class Piece:
    """Folded records that are not written yet."""

    __slots__ = (
        "_in_order",
        "cleared",
        "closed",
        "closing",
        "keys",
        "records",
        "removed",
        "rows",
        "size",
        "values",
    )

    def __init__(self) -> None:
        self.values: dict[str, dict[str, bytes | None]] = {}
        self.cleared: set[str] = set()
        self.keys: dict[bytes, bytes] = {}
        self.rows: dict[bytes, bytes | None] = {}  # of all other kinds
        self.removed: list[Range] = []
        self.closing: list[tuple[bytes, bytes | None]] = []
        self.size = 0
        self.records = 0
        self.closed = False  # nothing more is folded into it
        self._in_order: list[bytes] | None = None  # the names of `rows`, once they were looked for

    def between(self, start: bytes, end: bytes) -> list[bytes]:
        """The names among `rows` with start <= name < end. An open piece is looked through: it is small."""
        if not self.closed:
            return [row for row in self.rows if start <= row < end]
        names = self._in_order
        if names is None:
            names = self._in_order = sorted(self.rows)
        return names[bisect_left(names, start) : bisect_left(names, end)]


class Layers:
    """The pieces of one partition; `open` takes what is folded, the oldest of `closed` is written next."""

    def __init__(self, store: Store, value_rows: bytes) -> None:
        self.store = store
        self._value = value_rows
        self._closed: deque[Piece] = deque()
        self._open = Piece()

    def write_piece(self) -> bool:
        """Write the oldest piece, in one batch; False if there was none (`cut` makes one)."""
        if not self._closed:
            return False
        piece = self._closed[0]
        removed = [*piece.removed, *((prefix, after(prefix)) for prefix in map(self.prefix, piece.cleared))]
        self.store.write(removed, self._rows(piece))
        self._closed.popleft()
        return True

    def _rows(self, piece: Piece) -> Iterator[tuple[bytes, bytes | None]]:
        start = self._value  # each row begins as `prefix` says, which would be a call for each object
        for key, values in piece.values.items():
            for name, value in values.items():
                yield start + f"{key}\0{name}".encode(), value
        yield from piece.keys.items()
        yield from piece.rows.items()
        yield from piece.closing

    def pieces(self) -> Sequence[Piece]:
        """All of them, the newest first."""
        return (self._open, *reversed(self._closed))

    def prefix(self, key: str) -> bytes:
        """What the rows of object `key`'s values begin with."""
        return self._value + key.encode() + b"\0"

    def get(self, key: str, name: str) -> bytes | None:
        """The encoded value of `name` in object `key`."""
        for piece in self.pieces():
            values = piece.values.get(key)
            if values is not None:
                found = values.get(name, ABSENT)
                if found is not ABSENT:
                    return found  # type: ignore[return-value]  # not the marker: bytes or None
            if piece.cleared and key in piece.cleared:
                return None
        return self.store.get(self.prefix(key) + name.encode())

    def scan(
        self, key: str, start: str, end: str | None, *, reverse: bool = False
    ) -> Iterator[tuple[str, bytes]]:
        """Names and encoded values of object `key` with start <= name < end, in order."""
        changes: dict[str, bytes | None] = {}
        below = True
        for piece in self.pieces():
            for name, value in piece.values.get(key, {}).items():
                changes.setdefault(name, value)
            if key in piece.cleared:
                below = False
                break
        names = in_range(changes, start, end, reverse=reverse)
        base = self._stored(key, start, end, reverse) if below else iter(())
        return merged(base, changes, names, reverse=reverse)

    def _stored(self, key: str, start: str, end: str | None, reverse: bool) -> Iterator[tuple[str, bytes]]:
        prefix = self.prefix(key)
        stop = after(prefix) if end is None else prefix + end.encode("utf-8", "surrogatepass")
        for row, value in self.store.scan(
            prefix + start.encode("utf-8", "surrogatepass"), stop, reverse=reverse
        ):
            yield row[len(prefix) :].decode(), value

    def row(self, row: bytes) -> bytes | None:
        """A row of another kind than values and spent keys."""
        for piece in self.pieces():
            found = piece.rows.get(row, ABSENT)
            if found is not ABSENT:
                return found  # type: ignore[return-value]  # as above
        return self.store.get(row)

    def key_row(self, starts: Iterable[bytes], rest: bytes) -> bytes | None:
        """The row of a spent client key: the first that begins with one of `starts` and ends with `rest`."""
        keys, get = self._open.keys, self.store.get
        for start in starts:
            row = start + rest
            found = keys.get(row)
            if found is None:
                for piece in self._closed:  # in one of them at most: it is spent once
                    if (found := piece.keys.get(row)) is not None:
                        break
                else:
                    found = get(row)
            if found is not None:
                return found
        return None

    def set_key_row(self, row: bytes, value: bytes) -> None:
        """Fold such a row."""
        self._open.keys[row] = value
        self._open.size += 1

    def set_row(self, row: bytes, value: bytes | None) -> None:
        """Fold a row of such a kind; None: it is gone."""
        self._open.rows[row] = value
        self._open.size += 1

    def remove_rows(self, start: bytes, end: bytes) -> None:
        """Fold that the rows with start <= row < end are gone.

        Only for rows that are not read below `end` any more: reads see them until it is written.
        """
        piece = self._open
        piece.removed.append((start, end))  # it is written before the piece's rows, so those go here
        for rows in (piece.rows, piece.keys):
            for row in [row for row in rows if start <= row < end]:
                del rows[row]
        piece.size += 1

    def rows(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The rows of such a kind with start <= row < end, in order."""
        changes: dict[bytes, bytes | None] = {}
        for piece in self.pieces():
            rows = piece.rows
            for row in piece.between(start, end):
                changes.setdefault(row, rows[row])
        return merged(self.store.scan(start, end), changes, sorted(changes), reverse=False)


def after(prefix: bytes) -> bytes:
    """The first key after all that begin with `prefix`."""
    at = len(prefix) - 1
    while prefix[at] == 0xFF:
        at -= 1
    return prefix[:at] + bytes((prefix[at] + 1,))
