"""The turns that alarms start: whether one runs, what runs, and what becomes of the alarm.

The alarm clock (owner/alarm_clock.py) appends a command when an alarm is due; the runner asks `AlarmTurns`
whether that command still has to run, for its handler, and for the outcome once the handler has ended.

Laws [test_alarms.py, test_alarms_again.py]
- An alarm command runs only if the alarm still stands as the command says, unacknowledged turns of its object
  included, and is due by log time. Otherwise it is only marked as done.
- A run that was not done is continued by the next one: its calls belong to the same setting of the alarm, so
  answered calls are not made again, and the requests of both runs are compared. After a failed run the next
  one makes its own calls.
- The change of the alarm is part of the turn's own entry, after success and after failure.
- The removal of expired values, and a due time that is set again after a step back of log time, run no code
  of the user's. A parked alarm is driven again or dropped by administration (owner/administration.py).
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

import structlog

from perdure.objects.alarms import after_failure, after_success, retimed
from perdure.objects.durable import Env
from perdure.objects.http import Response
from perdure.objects.overlay import Overlay
from perdure.objects.turn import Outcome, not_done
from perdure.schemas.alarms import RETIME, TTL, parse_ring
from perdure.schemas.effects import AlarmChange, AlarmRow
from perdure.schemas.errors import CallerError, StorageFailed
from perdure.schemas.replies import FAILED, OK, UNAVAILABLE, Reply, error_reply
from perdure.streams.turns.activation import Activation, Turn
from perdure.streams.turns.inline_task import user_code
from perdure.streams.turns.log_fields import turn_fields
from perdure.streams.turns.ports import Counts

AGAIN_S = 1.0  # after the state could not be read to see how an alarm stands
_DONE = Outcome(Reply(OK, 204, (), b""), False, False, False)
_RETIMED = Outcome(Reply(OK, 204, (), b""), True, True, False)
_logger = structlog.get_logger(__name__)


class Clock(Protocol):
    """The alarm clock, as the turns see it: it sent the command, and sends it again if it has to."""

    def begun(self, key: str, name: str) -> None: ...

    def again(self, key: str, name: str, wait_s: float) -> None: ...


class AlarmTurns:
    """The alarm turns of one partition."""

    def __init__(self, counts: Counts, clock: Clock) -> None:
        self._counts = counts
        self._clock = clock

    def early(self, turn: Turn) -> Outcome | None:
        """Return the outcome of a command that is not run; None: run it."""
        command, activation = turn.command, turn.activation
        assert activation is not None
        name = command.method
        self._clock.begun(command.key, name)
        try:
            ring = parse_ring(command.body)
            row = activation.alarm(name)
        except CallerError as error:
            return not_done(error)
        except Exception as error:  # noqa: BLE001 - whatever the store raises: it stays set and comes again
            self._clock.again(command.key, name, AGAIN_S)
            return not_done(StorageFailed(f"the alarms of {command.key} could not be read: {error}"))
        if row is None or row.set_at != ring.set_at or row.parked:
            return _DONE
        if ring.act == RETIME:
            return _retime(turn, row)
        if turn.record.time_ms < row.due_ms:
            self._clock.again(command.key, name, (row.due_ms - turn.record.time_ms) / 1000)
            return _DONE
        turn.alarm, turn.again = row, row.since >= 0
        return None

    def again(self, turn: Turn) -> None:
        """Have the alarm of a turn that was not done ring again: it stays set."""
        self._clock.again(turn.command.key, turn.command.method, AGAIN_S)

    def handler(self, turn: Turn, env: Env) -> Coroutine[Any, Any, Response]:
        """Return the coroutine that runs; the turn's overlay must be set."""
        return self._sweep(turn) if turn.command.method == TTL else self._ring(turn, env)

    @user_code
    async def _ring(self, turn: Turn, env: Env) -> Response:
        activation, name = turn.activation, turn.command.method
        assert activation is not None
        _change(turn, after_success(name, _row(turn), turn.time_ms))  # the handler may set it again
        await activation.handler(turn.command, env)
        return Response(None, 204)

    async def _sweep(self, turn: Turn) -> Response:
        assert turn.activation is not None
        next_ms = turn.activation.state.sweep()
        _change(turn, AlarmChange(TTL, None if next_ms is None else max(next_ms, turn.time_ms)))
        return Response(None, 204)

    def concluded(self, turn: Turn, outcome: Outcome) -> Outcome:
        """Return the final outcome: a failed turn has an entry too, which postpones the alarm or parks it."""
        row, name, counts = _row(turn), turn.command.method, self._counts
        of_user = name != TTL
        if outcome.commit:
            counts.alarms_fired += of_user
            return outcome
        failed_to_read = turn.overlay is not None and turn.overlay.failure is not None
        goes_on = of_user and (failed_to_read or outcome.reply.outcome == UNAVAILABLE)
        change = after_failure(name, row, turn.time_ms, goes_on=goes_on)
        turn.overlay = Overlay()
        _change(turn, change)
        counts.alarms_failed += of_user
        error = outcome.reply.error
        code, text = (error.code, error.message) if error is not None else ("handler-failed", "")
        if change.parked:
            counts.alarms_parked += 1
            _logger.warning("alarm parked", **turn_fields(turn), alarm=name, error=text)
        return Outcome(error_reply(FAILED, code, text), True, True, outcome.drop_instance)

    def failed_after_all(self, turn: Turn, outcome: Outcome) -> Outcome:
        """Return the outcome of a turn that was counted as a success, and whose entry cannot be made."""
        if not _row(turn).parked and turn.command.method != TTL:
            self._counts.alarms_fired -= 1
        return self.concluded(turn, outcome)

    def parked(self, turn: Turn, outcome: Outcome) -> Outcome:
        """The process died while this turn ran, too often: the alarm is parked with its command."""
        row, name = _row(turn), turn.command.method
        _change(turn, AlarmChange(name, row.due_ms, row.attempt + 1, row.cron, row.zone, True, row.series))
        self._counts.alarms_parked += 1
        return Outcome(outcome.reply, True, True, False)


def _row(turn: Turn) -> AlarmRow:
    assert turn.alarm is not None, "the turn was not made by an alarm"
    return turn.alarm


def _retime(turn: Turn, row: AlarmRow) -> Outcome:
    """Set the alarm to the due time that log time gives it now, if that is earlier."""
    change = retimed(turn.command.method, row, turn.record.time_ms)
    if change is None:
        return _DONE
    turn.time_ms, turn.overlay = turn.record.time_ms, Overlay()
    _change(turn, change)
    return _RETIMED


def note_expiry(activation: Activation, overlay: Overlay) -> None:
    """The turn put a value that expires: set the alarm that removes it, if none is due before."""
    first_ms = overlay.first_expiry
    assert first_ms is not None
    try:
        row = None if overlay.cleared else activation.alarm(TTL)
    except Exception:  # noqa: BLE001 - whatever the store raises: set once more does no harm
        row = None
    if row is None or row.parked or row.due_ms > first_ms:
        overlay.effect().alarms[TTL] = AlarmChange(TTL, first_ms)


def _change(turn: Turn, change: AlarmChange) -> None:
    assert turn.overlay is not None
    turn.overlay.effect().alarms[change.name] = change
