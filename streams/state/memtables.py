"""Memtables: the rows that are folded and not written yet, over the store.

Folding an entry puts rows into the open memtable. Once that is large enough it is frozen, and an owner or a
rebuild writes frozen memtables to the store, the oldest first, between other work. Reads look through all of
them, then into the store. `Values` is the kind of row that reads meet most, so it has a place of its own in a
memtable.

Laws
- Reads see everything folded, written or not, the newest memtable first. [test_tables.py]
- A memtable is written as one batch: first the ranges it removes, then its rows, then its closing rows.
  [test_tables.py]
- Scanning rows of one kind costs what is found, plus the open memtable: not all that waits to be written.
  [test_bench.py]
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

from perdure.objects.overlay import in_range, merged
from perdure.streams.store.base import Range, Store

ABSENT = object()
PIECE_ROWS = 500  # of a walk that writes: one step of the event loop, about 1 ms


class Memtable:
    """Folded rows that are not written yet, coalesced, and how many journal records they are the fold of."""

    __slots__ = (
        "_in_order",
        "cleared",
        "closing",
        "frozen",
        "keys",
        "links",
        "records",
        "removed",
        "rows",
        "size",
        "values",
    )

    def __init__(self) -> None:
        self.values: dict[str, dict[str, bytes | None]] = {}  # by object key; None: deleted
        self.cleared: set[str] = set()  # objects whose values in older memtables and the store are gone
        self.keys: dict[bytes, bytes] = {}  # spent client keys
        self.links: dict[str, int] = {}  # the newest entry of each object
        self.rows: dict[bytes, bytes | None] = {}  # of all other kinds; None: deleted
        self.removed: list[Range] = []
        self.closing: list[tuple[bytes, bytes | None]] = []  # the meta row and the done words
        self.size = 0  # rows, about
        self.records = 0
        self.frozen = False  # nothing more is folded into it
        self._in_order: list[bytes] | None = None  # the names of `rows`, sorted when first needed

    def between(self, start: bytes, end: bytes) -> list[bytes]:
        """The names among `rows` with start <= name < end.

        An open memtable is searched in full: it is small.
        """
        if not self.frozen:
            return [row for row in self.rows if start <= row < end]
        names = self._in_order
        if names is None:
            names = self._in_order = sorted(self.rows)
        return names[bisect_left(names, start) : bisect_left(names, end)]


class Memtables:
    """The memtables of one partition: `open` takes what is folded, the oldest of `frozen` is written next."""

    __slots__ = ("_link", "_value", "frozen", "newest_first", "open", "store")

    def __init__(self, store: Store, number: bytes) -> None:
        self.store = store
        self.frozen: deque[Memtable] = deque()
        self.open = Memtable()
        self.newest_first: tuple[Memtable, ...] = (self.open,)  # all of them
        self._value, self._link = b"v" + number, b"n" + number

    def freeze(self) -> None:
        """Close the open memtable, so that it can be written, and begin another."""
        self.open.frozen = True
        self.frozen.append(self.open)
        self.open = Memtable()
        self.newest_first = (self.open, *reversed(self.frozen))

    def write_oldest(self) -> bool:
        """Write the oldest frozen memtable, in one batch; False if there was none."""
        if not self.frozen:
            return False
        memtable = self.frozen[0]
        cleared = (self._value + key.encode() + b"\0" for key in memtable.cleared)
        removed = [*memtable.removed, *((prefix, after(prefix)) for prefix in cleared)]
        self.store.write(removed, self._rows(memtable))
        self.frozen.popleft()
        self.newest_first = (self.open, *reversed(self.frozen))
        return True

    def _rows(self, memtable: Memtable) -> Iterator[tuple[bytes, bytes | None]]:
        start = self._value  # written out here: `Values.prefix` would be a call for each object
        for key, values in memtable.values.items():
            for name, value in values.items():
                yield start + f"{key}\0{name}".encode(), value
        link = self._link
        for key, offset in memtable.links.items():
            yield link + key.encode(), offset.to_bytes(8, "big")
        yield from memtable.keys.items()
        yield from memtable.rows.items()
        yield from memtable.closing

    @property
    def unwritten(self) -> int:
        """How many journal records are folded and not written."""
        return self.open.records + sum(memtable.records for memtable in self.frozen)

    def row(self, row: bytes) -> bytes | None:
        """A row of any kind other than values and spent keys."""
        for memtable in self.newest_first:
            value = memtable.rows.get(row, ABSENT)
            if value is not ABSENT:
                return value  # type: ignore[return-value]  # not the marker: bytes or None
        return self.store.get(row)

    def rows(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The rows of such a kind with start <= row < end, in order."""
        changes: dict[bytes, bytes | None] = {}
        for memtable in self.newest_first:
            rows = memtable.rows
            for row in memtable.between(start, end):
                changes.setdefault(row, rows[row])
        return merged(self.store.scan(start, end), changes, sorted(changes), reverse=False)

    def pieces(self, start: bytes, end: bytes) -> Iterator[list[tuple[bytes, bytes]]]:
        """As `rows`, some at a time, at least once: rows may be folded and written between two pieces."""
        while True:
            piece = list(islice(self.rows(start, end), PIECE_ROWS))
            yield piece
            if len(piece) < PIECE_ROWS:
                return
            start = piece[-1][0] + b"\0"

    def set_row(self, row: bytes, value: bytes | None) -> None:
        """Fold a row of such a kind; None deletes it."""
        self.open.rows[row] = value
        self.open.size += 1

    def remove_rows(self, start: bytes, end: bytes) -> None:
        """Fold that the rows with start <= row < end are deleted.

        Only for rows that are not read below `end` any more: reads see them until it is written.
        """
        memtable = self.open
        memtable.removed.append((start, end))  # written before the memtable's own rows, so those go here
        for rows in (memtable.rows, memtable.keys):
            for row in [row for row in rows if start <= row < end]:
                del rows[row]
        memtable.size += 1

    def key_row(self, starts: Iterable[bytes], rest: bytes) -> bytes | None:
        """The row of a spent client key: the first that begins with one of `starts` and ends with `rest`."""
        keys, get = self.open.keys, self.store.get
        for start in starts:
            row = start + rest
            value = keys.get(row)
            if value is None:
                for memtable in self.frozen:  # in one of them at most: it is spent once
                    if (value := memtable.keys.get(row)) is not None:
                        break
                else:
                    value = get(row)
            if value is not None:
                return value
        return None


class Values:
    """The values of a partition's objects, as rows: `v p key NUL name`, as encoded by the object."""

    __slots__ = ("_memtables", "_prefix")

    def __init__(self, memtables: Memtables, number: bytes) -> None:
        self._memtables = memtables
        self._prefix = b"v" + number

    def prefix(self, key: str) -> bytes:
        """What the rows of object `key`'s values begin with."""
        return self._prefix + key.encode() + b"\0"

    def get(self, key: str, name: str) -> bytes | None:
        """The encoded value of `name` in object `key`."""
        memtables = self._memtables
        for memtable in memtables.newest_first:
            values = memtable.values.get(key)
            if values is not None:
                value = values.get(name, ABSENT)
                if value is not ABSENT:
                    return value  # type: ignore[return-value]  # not the marker: bytes or None
            if memtable.cleared and key in memtable.cleared:
                return None
        return memtables.store.get(self._prefix + f"{key}\0{name}".encode())

    def scan(
        self, key: str, start: str, end: str | None, *, reverse: bool = False
    ) -> Iterator[tuple[str, bytes]]:
        """Names and encoded values of object `key` with start <= name < end, in order."""
        changes: dict[str, bytes | None] = {}
        below = True
        for memtable in self._memtables.newest_first:
            for name, value in memtable.values.get(key, {}).items():
                changes.setdefault(name, value)
            if key in memtable.cleared:
                below = False
                break
        names = in_range(changes, start, end, reverse=reverse)
        base = self._stored(key, start, end, reverse) if below else iter(())
        return merged(base, changes, names, reverse=reverse)

    def _stored(self, key: str, start: str, end: str | None, reverse: bool) -> Iterator[tuple[str, bytes]]:
        prefix = self.prefix(key)
        stop = after(prefix) if end is None else prefix + end.encode("utf-8", "surrogatepass")
        low = prefix + start.encode("utf-8", "surrogatepass")
        for row, value in self._memtables.store.scan(low, stop, reverse=reverse):
            yield row[len(prefix) :].decode(), value


def after(prefix: bytes) -> bytes:
    """The first key after all that begin with `prefix`."""
    at = len(prefix) - 1
    while prefix[at] == 0xFF:
        at -= 1
    return prefix[:at] + bytes((prefix[at] + 1,))
