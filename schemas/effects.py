"""What a turn does besides writing values, as the journal says it, and the rows that this leads to.

An object has alarms by name and WebSockets by id. A change says how one of them stands after the turn; the row is how
it lies in the tables.
"""

from __future__ import annotations

import msgspec


class Out(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """Something a turn lets out besides its reply: a record for another topic."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class AlarmChange(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """An alarm of the object was set, put off, parked or (`due_ms` None) removed.

    `attempt`: how often it has failed since it was set. `cron` and `zone`: it repeats. `parked`: it failed for
    the last time and waits for somebody to look at it. `since`: of a run that was not done, and is to go on with what
    it has called: the journal offset that set the first run of the series; -1: the next run begins afresh.
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

    `gateway` is the address of the gateway that holds the connection, its incarnation included. `listener`: what
    happens on it is heard by functions in the instance's memory, and it ends with the instance.
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
        """The setting that the calls of its next run hang on."""
        return self.since if self.since >= 0 else self.set_at


def alarm_row(change: AlarmChange, set_at: int) -> AlarmRow | None:
    """The row that a change leads to; None: there is none."""
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
    """The row that a change leads to; None: there is none."""
    if not change.gateway:
        return None
    return SocketRow(change.gateway, change.tags, change.attachment, change.listener)


_encode = msgspec.msgpack.Encoder().encode
decode_alarm = msgspec.msgpack.Decoder(AlarmRow).decode
decode_socket = msgspec.msgpack.Decoder(SocketRow).decode
