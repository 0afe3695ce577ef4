"""Journal entries from turns and from records that are no commands. Values in, values out."""

from __future__ import annotations

from perdure.objects.overlay import Overlay
from perdure.objects.turn import Outcome
from perdure.schemas.admin import Change, encode_record
from perdure.schemas.commands import Command, payload_hash, record_hash
from perdure.schemas.effects import Out
from perdure.schemas.errors import CallerError
from perdure.schemas.journal import Entry
from perdure.schemas.replies import REJECTED, error_reply
from perdure.streams.log import LogRecord
from perdure.streams.mailbox import Turn

SUMMARY_CHARS = 200
_NOTHING: dict[str, bytes] = {}


def entry_of(turn: Turn, outcome: Outcome, overlay: Overlay | None) -> Entry:
    """The entry of a turn; `overlay` holds what it commits, None if nothing."""
    command, record = turn.command, turn.record
    puts, cleared = _NOTHING, False
    deletes: tuple[str, ...] = ()
    effects = None
    if overlay is not None:
        cleared = overlay.cleared
        puts, deletes = _split(overlay.changes)
        effects = overlay.effects
    return Entry(
        turn.offset,
        command.key,
        turn.time_ms,
        outcome.reply.outcome,
        outcome.reply,
        puts,
        deletes,
        cleared,
        record_hash(record.key, record.value, record.headers),
        command.id,
        command.reply_to,
        summary_of(command),
        command.principal,
        command.client_key,
        b"" if command.client_key is None else payload_hash(command),
        () if effects is None else effects.outs(command.key),
        () if effects is None else tuple(effects.alarms.values()),
        () if effects is None else tuple(effects.sockets.values()),
        command.mark,
        turn.changes,
    )


def parked_change(record: LogRecord) -> Change:
    """What the entry of a command that is parked says beside: the record itself, which the log may trim."""
    return Change("parked", record=encode_record((record.key, record.value, record.headers)))


def summary_of(command: Command) -> str:
    """What a command asks, for people."""
    return f"{command.kind} {command.method} {command.path}"[:SUMMARY_CHARS]


def _split(changes: dict[str, bytes | None]) -> tuple[dict[str, bytes], tuple[str, ...]]:
    if None not in changes.values():
        return changes, ()  # type: ignore[return-value]  # the turn is over: nobody changes them any more
    puts = {name: value for name, value in changes.items() if value is not None}
    return puts, tuple(name for name, value in changes.items() if value is None)


def dead_letter(record: LogRecord, error: CallerError, partition: int) -> Entry:
    """The entry for a record that is no command: an error reply and a record for `{app}.dead`."""
    named = dict(record.headers)
    id_, reply_to = (named.get(name, b"").decode("utf-8", "replace") for name in ("id", "reply-to"))
    reason = ("reason", f"{error.code}: {error}".encode("utf-8", "replace"))
    place = ("command", f"{partition}:{record.offset}".encode())
    return Entry(
        command=record.offset,
        key=(record.key or b"").decode("utf-8", "replace"),
        time_ms=record.time_ms,
        outcome=REJECTED,
        reply=error_reply(REJECTED, error.code, str(error)),
        command_hash=record_hash(record.key, record.value, record.headers),
        id=id_,
        reply_to=reply_to,
        summary="dead letter",
        outbox=(Out("dead", partition, record.key, record.value, (*record.headers, reason, place)),),
    )
