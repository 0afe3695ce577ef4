"""Parking: the outcome of a command that is not run again, because the process died each time it ran."""

from __future__ import annotations

import structlog

from perdure.objects.overlay import Overlay
from perdure.objects.turn import Outcome, parked
from perdure.schemas.commands import ALARM
from perdure.streams.turns.activation import Turn
from perdure.streams.turns.alarm_turns import AlarmTurns
from perdure.streams.turns.entries import parked_change
from perdure.streams.turns.log_fields import turn_fields
from perdure.streams.turns.supervision.failure_log import what_of

_logger = structlog.get_logger(__name__)


def parking(turn: Turn, times: int, alarm_turns: AlarmTurns) -> Outcome:
    """Return the outcome of a turn that is parked in place of being run. Its entry
    keeps the command for a redrive.
    """
    _logger.error(
        "a command is parked: the process died while it ran",
        **turn_fields(turn),
        what=what_of(turn),
        times=times,
    )
    turn.time_ms, turn.overlay = turn.record.time_ms, Overlay()
    outcome = parked(turn.command, times)
    if turn.command.kind == ALARM:
        return alarm_turns.parked(turn, outcome)
    turn.changes = (parked_change(turn.record),)
    return outcome
