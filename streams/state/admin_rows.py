"""Administration as rows: which objects are paused, and which commands and alarms are parked.

A parked command or alarm failed for the last time and waits for an operator, who runs it again or drops it; a
paused object runs no turns until it is resumed.

Rows (p = partition, u16 big endian): `h p key` a paused object · `p p c offset` a parked command by its
offset · `p p a offset` a parked alarm by the journal offset of the entry that parked it.

Laws
- A parked command's row has its whole record: it can be run again after the log has trimmed it.
- A parked alarm has such a row exactly while its own row says that it is parked.
- All of this follows from the journal alone, as all rows do.
"""

from __future__ import annotations

from collections.abc import Iterator

from perdure.schemas.admin import (
    OF_ALARM,
    OF_COMMAND,
    Change,
    ParkedItem,
    Paused,
    Place,
    decode_parked,
    decode_paused,
)
from perdure.schemas.journal import Entry
from perdure.streams.state.memtables import Memtables, after
from perdure.streams.state.rows import encode_row


class AdminRows:
    """The paused objects and parked items of one partition; `number` is the partition as rows have it."""

    def __init__(self, memtables: Memtables, number: bytes) -> None:
        self._memtables = memtables
        self._held, self._parked = b"h" + number, b"p" + number
        self.paused: dict[str, Paused] = {}  # all of them: they are few, each was paused by an operator

    def load(self) -> None:
        """Read what is kept in memory of the store's rows."""
        self.paused = {
            row[len(self._held) :].decode(): decode_paused(value)
            for row, value in self._memtables.store.scan(self._held, after(self._held))
        }

    def parked(self, place: Place) -> ParkedItem | None:
        """What is parked at a place."""
        data = self._memtables.row(self._parked_row(place))
        return None if data is None else decode_parked(data)

    def all_parked(self, start: Place) -> Iterator[tuple[Place, ParkedItem]]:
        """What is parked from a place on, alarms first."""
        for row, value in self._memtables.rows(self._parked_row(start), after(self._parked)):
            at = len(self._parked)
            yield Place(row[at : at + 1], int.from_bytes(row[at + 1 :], "big")), decode_parked(value)

    def fold(self, entry: Entry, change: Change) -> None:
        """Fold a change of an entry: its object paused or resumed, a command parked or settled."""
        if change.what == "paused":
            self._set_paused(entry.key, Paused(entry.time_ms, entry.principal, entry.command))
        elif change.what == "resumed":
            self._set_paused(entry.key, None)
        elif change.what == "parked":
            self._park(entry, Place(OF_COMMAND, entry.command), "", change.record)
        elif change.what == "settled":
            self.remove_parked(Place(OF_COMMAND, change.offset))

    def park_alarm(self, entry: Entry, name: str, offset: int) -> None:
        """Fold that the entry at journal `offset` parked an alarm of its object."""
        self._park(entry, Place(OF_ALARM, offset), name)

    def remove_parked(self, place: Place) -> None:
        """Fold that nothing is parked at a place any more."""
        self._memtables.set_row(self._parked_row(place), None)

    def remove_namespace(self, namespace: str) -> Iterator[None]:
        """Fold that a namespace is deleted, in pieces."""
        prefix = f"{namespace}/"
        for key in [key for key in self.paused if key.startswith(prefix)]:
            self._set_paused(key, None)
        for piece in self._memtables.pieces(self._parked, after(self._parked)):
            for row, parked in piece:
                if decode_parked(parked).key.startswith(prefix):
                    self._memtables.set_row(row, None)
            yield

    def _set_paused(self, key: str, row: Paused | None) -> None:
        if row is None:
            self.paused.pop(key, None)
        else:
            self.paused[key] = row
        self._memtables.set_row(self._held + key.encode(), None if row is None else encode_row(row))

    def _park(self, entry: Entry, place: Place, alarm: str, record: bytes = b"") -> None:
        error = entry.reply.error
        code, message = ("", "") if error is None else (error.code, error.message)
        row = ParkedItem(entry.key, alarm, entry.time_ms, entry.summary, code, message, record)
        self._memtables.set_row(self._parked_row(place), encode_row(row))

    def _parked_row(self, place: Place) -> bytes:
        return self._parked + place.kind + place.offset.to_bytes(8, "big")
