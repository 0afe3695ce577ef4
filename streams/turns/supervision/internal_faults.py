"""Internal faults: errors of perdure's own. One that meets a turn fails that command; one that may have
broken a partition stops that partition.

The code around a handler may raise an unforeseen error. Each is reported with its traceback, through the
event loop's exception handler. What follows depends on how far the turn was:

| where | what follows |
|---|---|
| before its trace is handed to the journal | the command fails with `internal-error`; it commits nothing |
| while that entry is made | the same answer, as a done: it spends no key; an alarm rings again |
| from then on (the journal's queue, a batch's ack, the fold) | the partition stops: `PartitionBroken` |

Laws [test_internal_faults.py]
- A turn that met a fault commits nothing. Its object loses its instance and its
  cache, and its next command runs.
- A stopped partition answers nothing more in this epoch; the others of the node continue.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perdure.objects.overlay import Overlay
from perdure.objects.turn import Outcome, failed_inside
from perdure.schemas.commands import ALARM
from perdure.schemas.errors import PartitionBroken, PerdureError
from perdure.streams.turns.activation import Turn
from perdure.streams.turns.log_fields import turn_fields

if TYPE_CHECKING:  # they import this file
    from perdure.streams.turns.runner import Turns


def report(error: BaseException, where: str, turn: Turn | None = None) -> None:
    """Write one log line with the traceback."""
    context = {"message": f"perdure failed inside: {where}; report it", "exception": error}
    asyncio.get_running_loop().call_exception_handler(
        context | (turn_fields(turn) if turn is not None else {})
    )


def broken(partition: int, error: BaseException) -> PerdureError:
    """Return the error that stops a partition: `error` itself if perdure raised it on purpose."""
    if isinstance(error, PerdureError):
        return error
    report(error, f"partition {partition} stops")
    text = f"partition {partition} has stopped for a fault of perdure's own ({type(error).__name__}: {error}): report it"
    stopped = PartitionBroken(text)
    stopped.__cause__ = error
    return stopped


class InternalFaults:
    """Ends the turns of one partition that met a fault of perdure's own."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def failed(self, turn: Turn, error: Exception) -> None:
        """End `turn`, for which perdure's own code raised `error`."""
        if turn.concluded:
            self._turns.journal.broke(error)
            return
        report(error, "this command fails", turn)
        try:
            self._end(turn)
        except Exception as again:  # noqa: BLE001 - any fault: now what is queued is not certain
            self._turns.journal.broke(again)

    def _end(self, turn: Turn) -> None:
        turns = self._turns
        if turn.timer is not None:
            turn.timer.cancel()  # type: ignore[attr-defined]  # a TimerHandle, which uvloop types as its own
        if not turn.over and turn.task is not None:
            turn.abandon()  # it may run on
        turn.over = True
        outcome = failed_inside(turn.command)
        turn.time_ms = turn.record.time_ms
        turn.activation = activation = turn.activation or turns.activation(turn.command.key)
        activation.state.end()
        if activation.running is turn:
            activation.running = None
        activation.forget()
        try:
            turns.conclude(turn, self._of_alarm(turn, outcome))
        except Exception as error:
            if turn.concluded:
                raise
            report(error, "nor can this failure be journaled", turn)
            self._as_done(turn, outcome)
        if activation.running is None and activation.mailbox:
            turns.free(activation)

    def _of_alarm(self, turn: Turn, outcome: Outcome) -> Outcome:
        """Return `outcome`, with the change of the alarm if an alarm started the turn."""
        turn.overlay, turn.changes = Overlay(), ()
        if turn.command.kind != ALARM:
            return outcome
        if turn.alarm is not None:
            return self._turns.alarm_turns.concluded(turn, outcome)
        self._turns.alarm_turns.again(turn)
        return Outcome(outcome.reply, False, False, True)

    def _as_done(self, turn: Turn, outcome: Outcome) -> None:
        """Answer the command and mark it as done, without an entry."""
        turn.entry, turn.encoded, turn.overlay = None, b"", None
        turn.reply, turn.concluded = outcome.reply, True
        if turn.activation is not None:
            turn.activation.instance = None
        if turn.command.kind == ALARM:
            self._turns.alarm_turns.again(turn)
        self._turns.counts.dones += 1
        self._turns.journal.add(turn)
