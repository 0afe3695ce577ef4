"""Alarms as rows: each twice, by its object and by the time it is due.

Turns read an object's alarms by its key; the owner's alarm clock reads the partition's alarms in the order in
which they are due.

Rows (p = partition, u16 big endian): `a p key NUL name` an alarm · `t p due key NUL name` the same alarm by
the ms it is due, empty.

Law: an alarm has a row by time exactly while it is set and not parked; a parked one has a row among the
parked (admin_rows.py) instead. [test_tables.py]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from perdure.schemas.admin import OF_ALARM, Place
from perdure.schemas.effects import AlarmRow, alarm_row, decode_alarm, encode_alarm
from perdure.schemas.journal import Entry
from perdure.streams.state.admin_rows import AdminRows
from perdure.streams.state.memtables import Memtables, after

Due = tuple[int, str, str]  # (ms, object key, name) of an alarm


class AlarmRows:
    """The alarms of one partition; `number` is the partition as rows have it."""

    def __init__(self, memtables: Memtables, number: bytes, admin: AdminRows) -> None:
        self._memtables = memtables
        self._admin = admin
        self._alarm, self._time = b"a" + number, b"t" + number
        self.on_change: Callable[[str, str, AlarmRow | None], None] | None = (
            None  # called with each row folded
        )

    def of(self, key: str) -> dict[str, AlarmRow]:
        """The alarms of object `key`, by name, parked ones too."""
        prefix = self._alarm + key.encode() + b"\0"
        rows = self._memtables.rows(prefix, after(prefix))
        return {row[len(prefix) :].decode(): decode_alarm(value) for row, value in rows}

    def get(self, key: str, name: str) -> AlarmRow | None:
        """The alarm `name` of object `key`."""
        row = self._memtables.row(self._alarm + f"{key}\0{name}".encode())
        return None if row is None else decode_alarm(row)

    def due(self, first: Due, until_ms: int) -> Iterator[Due]:
        """The alarms from `first` on with due < until, in the order in which they are due."""
        from_ms, key, name = first
        start = self._time + from_ms.to_bytes(8, "big") + (f"{key}\0{name}".encode() if key else b"")
        for row, _ in self._memtables.rows(start, self._time + until_ms.to_bytes(8, "big")):
            key, _, name = row[11:].decode().partition("\0")
            yield int.from_bytes(row[3:11], "big"), key, name

    def fold(self, entry: Entry, offset: int) -> None:
        """Fold the alarms that the entry at journal `offset` changes."""
        for alarm in entry.alarms:
            self._set(entry.key, alarm.name, alarm_row(alarm, offset))
            if alarm.parked:
                self._admin.park_alarm(entry, alarm.name, offset)

    def clear(self, key: str) -> None:
        """Object `key` was emptied."""
        for name in self.of(key):
            self._set(key, name, None)

    def remove_by_time(self, namespace: str) -> Iterator[None]:
        """A namespace is deleted: remove its alarms' rows by time, which no range holds, in pieces."""
        memtables, prefix = self._memtables, self._alarm + f"{namespace}/".encode()
        for piece in memtables.pieces(prefix, after(prefix)):
            for row, alarm in piece:
                due = decode_alarm(alarm).due_ms.to_bytes(8, "big")
                memtables.set_row(self._time + due + row[len(self._alarm) :], None)
            yield

    def _set(self, key: str, name: str, row: AlarmRow | None) -> None:
        memtables = self._memtables
        place = f"{key}\0{name}".encode()
        before = memtables.row(self._alarm + place)
        if before is not None:
            previous = decode_alarm(before)
            memtables.set_row(self._time + previous.due_ms.to_bytes(8, "big") + place, None)
            if previous.parked:
                self._admin.remove_parked(Place(OF_ALARM, previous.set_at))
        memtables.set_row(self._alarm + place, None if row is None else encode_alarm(row))
        if row is not None and not row.parked:
            memtables.set_row(self._time + row.due_ms.to_bytes(8, "big") + place, b"")
        if self.on_change is not None:
            self.on_change(key, name, row)
