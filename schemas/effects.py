"""A turn's effects besides values, as the journal records them, and the rows of alarms and sockets.

An object has alarms by name and WebSockets by id. A change in an entry says how one of them stands after the
turn; the row is its form in the tables.
"""

from __future__ import annotations

import msgspec


class Out(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A record for another topic that a turn emits besides its reply."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class AlarmChange(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """An alarm of the object was set, put off, parked or (`due_ms` None) removed.

    `attempt`: how often it has failed since it was set. `cron` and `zone`: it repeats. `parked`: it failed
    for the last time and waits for an operator. `since`: for a run that was not done and keeps the calls it
    has made, the journal offset that set the first run of the series; -1: the next run begins from scratch.
    """

    name: str
    due_ms: int | None
    attempt: int = 0
    cron: str = ""
    zone: str = ""
    parked: bool = False
    since: int = -1


class SocketChange(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A WebSocket of the object was accepted, given another attachment, or (`gateway` empty) is gone.

    `gateway` is the address of the gateway that holds the connection, its incarnation included. `listener`:
    what happens on it is handled by functions in the instance's memory, and it ends with the instance.
    """

    id: str
    gateway: str
    tags: tuple[str, ...] = ()
    attachment: bytes = b""
    listener: bool = False


class AlarmRow(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """An alarm that is set. `set_at`: the journal offset of the entry that set it (-1: not durable yet)."""

    due_ms: int
    set_at: int
    attempt: int = 0
    cron: str = ""
    zone: str = ""
    parked: bool = False
    since: int = -1

    @property
    def series(self) -> int:
        """The setting that is the root of the calls of its next run."""
        return self.since if self.since >= 0 else self.set_at


def alarm_row(change: AlarmChange, set_at: int) -> AlarmRow | None:
    """The row after a change; None if there is none."""
    if change.due_ms is None:
        return None
    return AlarmRow(
        change.due_ms, set_at, change.attempt, change.cron, change.zone, change.parked, change.since
    )


def encode_alarm(row: AlarmRow) -> bytes:
    """The row as bytes: without `since` if it has none, as versions before `since` wrote it."""
    fields = row.due_ms, row.set_at, row.attempt, row.cron, row.zone, row.parked
    return _encode(fields if row.since < 0 else (*fields, row.since))


class SocketRow(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A WebSocket that an object has; see `SocketChange`."""

    gateway: str
    tags: tuple[str, ...] = ()
    attachment: bytes = b""
    listener: bool = False


def socket_row(change: SocketChange) -> SocketRow | None:
    """The row after a change; None if there is none."""
    if not change.gateway:
        return None
    return SocketRow(change.gateway, change.tags, change.attachment, change.listener)


_encode = msgspec.msgpack.Encoder().encode
decode_alarm = msgspec.msgpack.Decoder(AlarmRow).decode
decode_socket = msgspec.msgpack.Decoder(SocketRow).decode
