"""Links: the newest entry of each object, from which its history is walked (streams/audit/history.py).

Rows: `n` p key → the journal offset of the object's newest entry (u64) · `n` p → the offset of the first
entry that links: entries before it, which earlier versions wrote, do not.

Laws [test_links.py]
- Only entries that link have a row: a state that an earlier version folded is the same as a replay by this.
- A deleted object keeps its row: its history goes on. Only the deletion of its namespace removes it.
"""

from __future__ import annotations

from perdure.schemas.journal import NO_LINK
from perdure.streams.state.memtables import Memtables

RECENT = 8_192  # objects whose newest entry is kept in memory


class LinkRows:
    """The newest entries of one partition's objects."""

    __slots__ = ("_memtables", "_prefix", "_recent", "linked_from")

    def __init__(self, memtables: Memtables, number: bytes) -> None:
        self._memtables = memtables
        self._prefix = b"n" + number
        self._recent: dict[str, int] = {}
        self.linked_from: int | None = None  # the first entry that links; None: there is none yet

    def load(self) -> None:
        """Read what is kept in memory of the store's rows."""
        self._recent.clear()
        row = self._memtables.store.get(self._prefix)
        self.linked_from = None if row is None else int.from_bytes(row, "big")

    def added(self, offset: int) -> None:
        """Count a row that the open memtable gets for an entry that links."""
        self._memtables.open.size += 1
        if self.linked_from is None:
            self.linked_from = offset
            self._memtables.set_row(self._prefix, offset.to_bytes(8, "big"))

    def remember(self, links: dict[str, int]) -> None:
        """Keep the newest entries of a memtable that is frozen."""
        recent = self._recent
        if len(recent) + len(links) > RECENT:
            recent.clear()
        recent.update(links)

    def newest(self, key: str) -> int:
        """The journal offset of an object's newest folded entry that links; `NO_LINK` if there is none."""
        offset = self._memtables.open.links.get(key)
        if offset is None:
            offset = self._recent.get(key)
            if offset is None:
                offset = self._look(key)
                if len(self._recent) < RECENT:
                    self._recent[key] = offset
        return offset

    def _look(self, key: str) -> int:
        for memtable in self._memtables.newest_first:
            if (offset := memtable.links.get(key)) is not None:
                return offset
        row = self._memtables.store.get(self._prefix + key.encode())
        return NO_LINK if row is None else int.from_bytes(row, "big")

    def forget(self) -> None:
        """Rows were removed: nothing in memory may answer for them."""
        self._recent.clear()
