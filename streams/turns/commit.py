"""Commit: the entry of an ended turn, and what its object sees of it from then on.

The runner hands over each turn whose outcome needs an entry; the entry then goes to the journal.

Laws
- If the entry cannot be made (it is too large, or a value cannot be encoded), the turn fails. The entry of
  that failure commits nothing but the change of the turn's alarm or socket. [test_large_records.py]
"""

from __future__ import annotations

from collections.abc import Callable

from perdure.objects.overlay import Overlay
from perdure.objects.turn import Outcome, entry_failed
from perdure.schemas.admin import MADE
from perdure.schemas.commands import ALARM, SOCKET, Command, new_hash, payload_hash, record_hash
from perdure.schemas.errors import TooLarge
from perdure.schemas.journal import BODY_BYTES, Entry, encode_entry
from perdure.schemas.replies import Reply
from perdure.streams.log.base import LogRecord
from perdure.streams.turns.activation import Activation, Turn
from perdure.streams.turns.alarm_turns import AlarmTurns, note_expiry
from perdure.streams.turns.entries import moved_change
from perdure.streams.turns.object_quotas import ObjectQuotas
from perdure.streams.turns.socket_events import removal
from perdure.streams.turns.supervision.failure_log import FailureLog

SUMMARY_CHARS = 200
_NOTHING: dict[str, bytes] = {}
_TIMED = b"\x94\xcf"  # an array of four, the first a u64: eight bytes of time, then what is hashed as an array of three


class Committer:
    """Makes the entries of one partition's turns. `instance_gone(activation)` is called if an instance may
    hold values that were not committed.
    """

    def __init__(
        self,
        object_quotas: ObjectQuotas | None,
        entry_bytes: int,
        alarm_turns: AlarmTurns,
        failures: FailureLog,
        instance_gone: Callable[[Activation | None], None],
    ) -> None:
        self._object_quotas = object_quotas
        self._entry_bytes = entry_bytes
        self._alarm_turns = alarm_turns
        self._failures = failures
        self._instance_gone = instance_gone

    def entry(self, turn: Turn, outcome: Outcome) -> None:
        """Set the turn's entry, and commit its overlay."""
        overlay, activation = turn.overlay, turn.activation
        assert overlay is not None
        assert activation is not None
        committed = overlay if outcome.commit and (overlay.changes or not overlay.empty) else None
        if committed is not None and committed.first_expiry is not None:
            note_expiry(activation, committed)
        if committed is None and turn.command.kind == SOCKET:
            committed = removal(turn.command)
        try:
            entry = turn.entry = entry_of(turn, outcome, committed)
            turn.encoded = encode_entry(entry)
            if (size := len(turn.encoded)) > (most := self._entry_bytes):
                raise TooLarge(f"the turn's journal entry has {size} bytes, over {most}")
        except Exception as error:  # noqa: BLE001 - a user's value that no log can hold raises anything
            self._failures.failed(turn, error)
            committed = self._small_entry(turn, entry_failed(turn.command, error))
            self._instance_gone(activation)
        if committed is not None and self._object_quotas is not None:
            self._object_quotas.committed(turn, committed)
        turn.overlay = None
        activation.commit(committed)

    def _small_entry(self, turn: Turn, outcome: Outcome) -> Overlay | None:
        """Set the entry of a turn whose own cannot be made. It commits only the
        change of its alarm or its socket.
        """
        committed = None
        if turn.command.kind == ALARM:
            outcome, committed = self._alarm_turns.failed_after_all(turn, outcome), turn.overlay
        elif turn.command.kind == SOCKET:
            committed = removal(turn.command)
        turn.changes = tuple(change for change in turn.changes if change.what != MADE)
        turn.entry = entry_of(turn, outcome, committed)
        turn.encoded = encode_entry(turn.entry)
        return committed


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
        _hash_of(record),
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
        turn.changes if not command.forwarded else (*turn.changes, moved_change(command)),
        command.body if len(command.body) <= BODY_BYTES else None,
        command.chain[-1] if command.chain else "",
        () if turn.calling is None else tuple(turn.calling.made),
    )


def _split(changes: dict[str, bytes | None]) -> tuple[dict[str, bytes], tuple[str, ...]]:
    if None not in changes.values():
        return changes, ()  # type: ignore[return-value]  # the turn is over: they do not change any more
    puts = {name: value for name, value in changes.items() if value is not None}
    return puts, tuple(name for name, value in changes.items() if value is None)


def summary_of(command: Command) -> str:
    """Return a command's request in a form for people."""
    return f"{command.kind} {command.method} {command.path}"[:SUMMARY_CHARS]


def _hash_of(record: LogRecord) -> bytes:
    """Return its `record_hash`, computed from the bytes that the log wrote if they are at hand."""
    packed = record.packed
    if packed[:2] == _TIMED:
        hashed = new_hash()
        hashed.update(b"\x93" + packed[10:])
        return hashed.digest()
    return record_hash(record.key, record.value, record.headers)


def note_forward(turn: Turn, reply: Reply) -> None:
    """Set the entry of a forward whose outcome needs none (it changed nothing, or was not done).

    By it, another copy of the forward is known. It spends no key.
    """
    command, record = turn.command, turn.record
    turn.overlay = None
    turn.entry = Entry(
        command=turn.offset,
        key=command.key,
        time_ms=record.time_ms,
        outcome=reply.outcome,
        reply=reply,
        command_hash=_hash_of(record),
        id=command.id,
        reply_to=command.reply_to,
        summary=summary_of(command),
        principal=command.principal,
        mark=command.mark,
        changes=(moved_change(command),),
    )
    turn.encoded = encode_entry(turn.entry)
    if turn.activation is not None:
        turn.activation.commit(None)
