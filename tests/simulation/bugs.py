"""Bugs, put in on purpose: a suite is trusted only once its random runs have caught them.

Each is a context manager that makes one promise untrue, in the product's own code, for as long as it is entered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from perdure.objects.turn import Outcome
from perdure.schemas.journal import Claim, EntryRecord, NoOp
from perdure.schemas.replies import FAILED
from perdure.streams import beginning
from perdure.streams import owner as owner_module
from perdure.streams.alarms import AlarmClock
from perdure.streams.journal import Batch, Journal
from perdure.streams.mailbox import Turn
from perdure.streams.owner import Owner
from perdure.streams.reader import JournalReader, Position
from perdure.streams.ringing import Ringing
from perdure.streams.tables import Tables
from perdure.streams.turns import Turns


@contextmanager
def _instead(place: Any, name: str, made: Callable[[Any], Any]) -> Iterator[None]:
    true = getattr(place, name)
    setattr(place, name, made(true))
    try:
        yield
    finally:
        setattr(place, name, true)


def no_dedupe_on_replay() -> Any:
    """An owner that begins takes commands from the watermark on, and runs those done above it again."""

    def serve(true: Callable[[Owner], None]) -> Callable[[Owner], None]:
        def forgetful(self: Owner) -> None:
            self.tables.done.ahead.clear()
            true(self)

        return forgetful

    return _instead(Owner, "serve", serve)


def offset_outside_the_batch() -> Any:
    """The applied offset is written on its own, before the rows that it stands for."""

    def write_piece(true: Callable[[Tables], bool]) -> Callable[[Tables], bool]:
        def torn(self: Tables) -> bool:
            if self._closed:
                piece = self._closed[0]
                self.store.write((), piece.closing)
                piece.closing = []
            return true(self)

        return torn

    return _instead(Tables, "write_piece", write_piece)


def reply_before_durability() -> Any:
    """A turn's answer leaves when its entry is handed to the journal."""

    def conclude(true: Callable[..., None]) -> Callable[..., None]:
        def hasty(self: Turns, turn: Turn, outcome: Outcome) -> None:
            true(self, turn, outcome)
            if outcome.entry and outcome.reply.outcome != FAILED:
                command = turn.command
                self.ports.doors.answer(
                    command.reply_to, command.id, outcome.reply, self.tables.partition, turn.offset
                )

        return hasty

    return _instead(Turns, "conclude", conclude)


def fence_ignored() -> Any:
    """A claim in the gap before an owner's batch does not stop it: it goes on, and answers."""

    def read_gap(true: Callable[..., Any]) -> Callable[..., Any]:
        async def blind(*given: Any) -> None:
            await true(*given)

        return blind

    return _instead(owner_module, "read_gap", read_gap)


def read_without_proof() -> Any:
    """What changed nothing is answered at once, whether or not this owner still has the right to."""

    def conclude(true: Callable[..., None]) -> Callable[..., None]:
        def unproven(self: Turns, turn: Turn, outcome: Outcome) -> None:
            settled = turn.resident is None or not turn.resident.unsettled
            true(self, turn, outcome)
            if not outcome.entry and settled and turn.reply is not None:
                assert self.journal._waiting.pop() is turn
                self.journal.add_answered(turn.offset)
                command = turn.command
                self.ports.doors.answer(
                    command.reply_to, command.id, outcome.reply, self.tables.partition, turn.offset
                )

        return unproven

    return _instead(Turns, "conclude", conclude)


def answered_without_trace() -> Any:
    """The offsets done without an entry are not journaled."""

    def encode(true: Callable[..., Any]) -> Callable[..., Any]:
        def traceless(self: Journal, items: list[Any]) -> Any:
            kept = [item for item in items if item.entry is not None]
            answered, self._answered = self._answered, []
            records = true(self, kept)
            assert isinstance(self._batch, Batch)
            self._batch.dones = [item for item in items if item.entry is None]
            self._batch.answered = answered
            return records

        return traceless

    return _instead(Journal, "_encode", encode)


def error_reply_not_gated() -> Any:
    """What a handler raised is told at once; only its entry waits."""

    def conclude(true: Callable[..., None]) -> Callable[..., None]:
        def hasty(self: Turns, turn: Turn, outcome: Outcome) -> None:
            true(self, turn, outcome)
            if outcome.entry and outcome.reply.outcome == FAILED:
                command = turn.command
                self.ports.doors.answer(
                    command.reply_to, command.id, outcome.reply, self.tables.partition, turn.offset
                )

        return hasty

    return _instead(Turns, "conclude", conclude)


def alarm_of_any_setting() -> Any:
    """An alarm command runs as long as there is an alarm of its name, whichever setting it is for."""

    def early(true: Callable[..., Any]) -> Callable[..., Any]:
        def trusting(self: Ringing, turn: Turn) -> Any:
            outcome = true(self, turn)
            assert turn.resident is not None
            row = turn.resident.alarm(turn.command.method)
            if outcome is None or row is None or row.parked:
                return outcome
            turn.alarm = row
            return None

        return trusting

    return _instead(Ringing, "early", early)


def alarm_forgotten_at_a_take_over() -> Any:
    """A clock that begins looks at what is set from then on only."""
    return _instead(AlarmClock, "start", lambda true: lambda self: setattr(self, "_on", True))


BUGS = (
    no_dedupe_on_replay,
    offset_outside_the_batch,
    reply_before_durability,
    fence_ignored,
    read_without_proof,
    answered_without_trace,
    error_reply_not_gated,
    alarm_of_any_setting,
    alarm_forgotten_at_a_take_over,
)

__all__ = ["BUGS", "Claim", "EntryRecord", "JournalReader", "NoOp", "Position", "beginning"]
