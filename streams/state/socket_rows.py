"""WebSockets as rows: which connections an object holds, and through which gateway.

Rows (p = partition, u16 big endian): `w p key NUL id` a WebSocket.
"""

from __future__ import annotations

from collections.abc import Iterator

from perdure.schemas.effects import SocketRow, decode_socket, socket_row
from perdure.schemas.journal import Entry
from perdure.streams.state.memtables import Memtables, after
from perdure.streams.state.rows import encode_row


class SocketRows:
    """The WebSockets of one partition's objects; `number` is the partition as rows have it."""

    def __init__(self, memtables: Memtables, number: bytes) -> None:
        self._memtables = memtables
        self._prefix = b"w" + number

    def of(self, key: str) -> dict[str, SocketRow]:
        """The WebSockets of object `key`, by id."""
        prefix = self._prefix + key.encode() + b"\0"
        rows = self._memtables.rows(prefix, after(prefix))
        return {row[len(prefix) :].decode(): decode_socket(value) for row, value in rows}

    def all(self, behind: tuple[str, str] | None = None) -> Iterator[tuple[str, str, SocketRow]]:
        """(object key, id, row) of all of them, in order; from after the key and id `behind`, if given."""
        start = self._prefix if behind is None else self._prefix + "\0".join((*behind, "")).encode()
        for row, value in self._memtables.rows(start, after(self._prefix)):
            key, _, id_ = row[len(self._prefix) :].decode().partition("\0")
            yield key, id_, decode_socket(value)

    def fold(self, entry: Entry) -> None:
        """Fold the WebSockets that an entry changes."""
        for socket in entry.sockets:
            row = socket_row(socket)
            place = self._prefix + f"{entry.key}\0{socket.id}".encode()
            self._memtables.set_row(place, None if row is None else encode_row(row))
