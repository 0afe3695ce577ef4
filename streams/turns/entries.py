"""What entries say of records that run no turn: dead letters, and commands that are
parked. Values in, values out.
"""

from __future__ import annotations

from perdure.schemas.admin import Change, encode_record
from perdure.schemas.commands import Command, Headers, record_hash
from perdure.schemas.effects import Out
from perdure.schemas.errors import PerdureError
from perdure.schemas.forwards import MOVED
from perdure.schemas.journal import Entry
from perdure.schemas.replies import REJECTED, error_reply
from perdure.streams.log.base import LogRecord, size_bytes

WHOLE_BYTES = 8 << 20  # of a foreign record that an entry keeps whole; no entry may be over 9 MiB
CUT_BYTES = 64 << 10  # of the value, and of the headers, of one that it does not
FIELD_BYTES = 1024  # of a key, an id or a reply address in an entry; no valid one is longer
MESSAGE_CHARS = 1000  # of an error about a record, which may quote it


def moved_change(command: Command) -> Change:
    """Return the change in the entry of a forward: by it, another copy is known."""
    return Change(MOVED, record=command.forwarded.encode())


def parked_change(record: LogRecord) -> Change:
    """Return the change that a parked command's entry holds: the record itself, since the log may trim it.

    A record over `WHOLE_BYTES` is not kept: that command cannot be driven again, only dropped.
    """
    if size_bytes(record) > WHOLE_BYTES:
        return Change("parked")
    return Change("parked", record=encode_record((record.key, record.value, record.headers)))


def dead_letter(
    record: LogRecord, error: PerdureError, partition: int, reply_to: str, command: Command | None = None
) -> Entry:
    """Return the entry for a record that is not a command: an error reply and a record for `{app}.dead`.

    Args:
        record: the record.
        error: why it is not one.
        partition: in which it lies.
        reply_to: the reply address that it names.
        command: a forward, known by its origin from then on.

    Whatever the record holds, the entry stays below `WHOLE_BYTES` and some KiB: of a larger one the letter
    has the beginning, its size and its hash, and where it lies.
    """
    named = {name: value for name, value in record.headers if len(value) <= FIELD_BYTES}
    id_ = named.get("id", b"").decode("utf-8", "replace")
    message = str(error)[:MESSAGE_CHARS]
    hashed = record_hash(record.key, record.value, record.headers)
    reason = ("reason", f"{error.code}: {message}".encode("utf-8", "replace"))
    place = ("command", f"{partition}:{record.offset}".encode())
    time = ("time", b"%d" % record.time_ms)
    key, value, headers = record.key, record.value, record.headers
    if (size := size_bytes(record)) > WHOLE_BYTES:
        key, value, headers = _cut(record)
        headers = (*headers, ("perdure-size", b"%d" % size), ("perdure-hash", hashed.hex().encode()))
    return Entry(
        command=record.offset,
        key=(record.key or b"")[:FIELD_BYTES].decode("utf-8", "replace"),
        time_ms=record.time_ms,
        outcome=REJECTED,
        reply=error_reply(REJECTED, error.code, message),
        command_hash=hashed,
        id=id_,
        reply_to=reply_to,
        summary="dead letter",
        outbox=(Out("dead", partition, key, value, (*headers, reason, place, time)),),
        mark=0 if command is None else command.mark,
        changes=() if command is None else (moved_change(command),),
    )


def _cut(record: LogRecord) -> tuple[bytes | None, bytes | None, Headers]:
    """The beginning of a record: its key, its first headers, and the first bytes of its value."""
    headers: list[tuple[str, bytes]] = []
    left = CUT_BYTES
    for name, value in record.headers:
        left -= 4 * len(name) + len(value) + 10
        if left < 0:
            break
        headers.append((name, value))
    key = None if record.key is None else record.key[:FIELD_BYTES]
    return key, None if record.value is None else record.value[:CUT_BYTES], tuple(headers)
