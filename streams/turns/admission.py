"""Admission: what happens to a record before its turn.

`admitted` decides whether a record is a command of this app. `early_outcome` decides whether a command still
has to run: not if its idempotency key is spent, its deadline has passed, or it is a deletion.
"""

from __future__ import annotations

from collections.abc import Callable

from perdure.objects.turn import Outcome, not_done
from perdure.schemas.admin import DELETE
from perdure.schemas.calls import NOWHERE, CallKey, call_key
from perdure.schemas.commands import ADMIN, Command, parse_command, payload_hash
from perdure.schemas.errors import AskAgain, Expired, KeyReused
from perdure.schemas.foreign import NO_RULES, RecordRules
from perdure.schemas.replies import UNAVAILABLE, Reply
from perdure.schemas.seal import Seal
from perdure.streams.log.base import LogRecord
from perdure.streams.state.answered_calls import nth_by_order
from perdure.streams.state.tables import Tables
from perdure.streams.turns.activation import Turn
from perdure.streams.turns.deletion import deletion


def admitted(
    record: LogRecord, seal: Seal | None = None, sealed_from: int = 0, rules: RecordRules = NO_RULES
) -> Command:
    """The command in a record, in whichever partition it belongs. Raises a `CallerError`: malformed.

    Args:
        record: as read from `commands`.
        seal: checks what only perdure may send; None: there is none of that.
        sealed_from: the first offset at which only the app's own secret counts (`schemas/seal.py`).
        rules: how records of other systems are read as commands.
    """
    founding = record.offset < sealed_from
    return parse_command(record.key, record.value, record.headers, seal, founding=founding, rules=rules)


def early_outcome(
    turn: Turn,
    tables: Tables,
    clock_s: Callable[[], float],
    of_first: Callable[[Turn], Outcome | None] = lambda turn: None,
) -> Outcome | None:
    """Return the outcome of a command that is not run (expired, key spent, or a deletion); None: run it.

    Args:
        turn: the turn of the command.
        tables: the tables of its partition, which know spent keys.
        clock_s: the clock of the event loop, in seconds.
        of_first: returns the outcome of a command with the same key, if it has one that is not durable yet.
    """
    command = turn.command
    if (client_key := command.client_key) is not None:
        key = call_key(command.principal, client_key) if command.principal else None
        if key is not None:
            outcome = _outcome_of_copy(turn, key, tables)
        else:
            spent = tables.spent_keys.get(command.key, command.principal, client_key)
            outcome = None if spent is None else outcome_of_spent(turn, spent.payload_hash, spent.reply)
            outcome = outcome or of_first(turn)
        if outcome is not None:
            return outcome  # whatever the time: it has run, or must not
    if turn.until_s is not None and clock_s() > turn.until_s:
        return not_done(
            Expired(f"its deadline of {command.deadline_ms} ms passed before {command.key} was free")
        )
    if command.kind == ADMIN and command.method == DELETE:
        return deletion(turn)
    return None


def copy_outcome(copy: Turn, tables: Tables, clock_s: Callable[[], float]) -> Outcome:
    """Return the outcome of a copy of a call that has ended: the same; if the first
    was not done, neither is the copy.

    A copy that ran only now would overtake the commands behind the first one.
    """
    first = early_outcome(copy, tables, clock_s)
    return first or not_done(AskAgain("the call of which this is a copy was not done: ask again"))


def outcome_of_spent(turn: Turn, spent_for: bytes, reply: Reply) -> Outcome | None:
    """Return the outcome of a command whose key was spent for the payload with the hash `spent_for`.

    None: that one was not done after it had called others, and this one goes on.
    """
    if spent_for != payload_hash(turn.command):
        key = turn.command.client_key
        return not_done(KeyReused(f"the idempotency key {key!r} was used for another payload"))
    return _outcome_again(turn, reply)


def _outcome_of_copy(turn: Turn, key: CallKey, tables: Tables) -> Outcome | None:
    """Return the outcome of a call that is not the first of its key; None: it is
    the first, or that one was not done.
    """
    if key.partition != NOWHERE and key.offset < tables.answered_calls.passed(key.partition).floor:
        return not_done(Expired(f"a late copy: the turn that called ({key}) is over"))
    answered = tables.answered_calls.get(key)
    if answered is None and key.content and not key.parent:
        answered = nth_by_order(
            tables.answered_calls.by_order(key.partition, key.offset), turn.command, key.n
        )
    return None if answered is None else _outcome_again(turn, answered.reply)


def _outcome_again(turn: Turn, reply: Reply) -> Outcome | None:
    """Return the stored outcome; None if the turn was not done after it had called others: it continues."""
    if reply.outcome == UNAVAILABLE:
        turn.again = True
        return None
    return Outcome(reply, False, False, False)
