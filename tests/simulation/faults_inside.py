"""Runs in which perdure itself fails, at any step that it takes for a turn.

A command that met such a fault changed nothing and says so; a partition that met one stops, and its node is
started again after a while, as an operator would do it. All invariants hold as in every other run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any

from perdure.schemas.alarms import TTL
from perdure.schemas.commands import ALARM, FETCH, Command
from perdure.schemas.errors import BadReply, FailedInside
from perdure.schemas.journal import Entry
from perdure.streams.turns.activation import Turn
from tests.planted import BEFORE, FROM_THEN_ON, OF_ALARMS, STEPS, Planted, planted
from tests.simulation.sample import SPEAKING

if TYPE_CHECKING:
    from tests.simulation.world import Run

RUNS = 0.15  # of all
CHANCE = 0.01  # at each step
_STEPS = {name: STEPS[name] for name in (*BEFORE, *OF_ALARMS, *FROM_THEN_ON)}
_NO_COMMAND_THERE = ("a record is read", "an object is looked up", "the turn is over", "its entry is encoded")
EVERYWHERE = [name for name in _STEPS if name not in (*_NO_COMMAND_THERE, "its object sees what it wrote")]


def met_one(entry: Entry) -> bool:
    """True if the entry is of a command that failed by a fault inside."""
    error = entry.reply.error
    if error is None:
        return False
    return error.code == FailedInside.code or (
        error.code == BadReply.code and "its entry is made" in error.message
    )


@contextmanager
def faults_inside(run: Run) -> Iterator[None]:
    """Some steps raise, if the run is one of those, until it calms down."""
    random = Random(run.seed * 7919 + 1)
    if random.random() >= RUNS:
        yield
        return

    def raises(step: str, given: tuple[Any, ...]) -> bool:
        if run.calm or random.random() >= CHANCE:
            return False
        if step not in FROM_THEN_ON and not _alone(given):
            return False
        run.counts[f"fault where {step}"] += 1
        return True

    with planted(_STEPS, raises):
        yield


def _alone(given: tuple[Any, ...]) -> bool:
    """True if the step is for a command that no other command depends on."""
    for each in given:
        command = each.command if isinstance(each, Turn) else each
        if isinstance(command, Command):
            if command.kind == ALARM:
                return command.method != TTL
            return command.kind == FETCH and command.path.split("/")[1] not in SPEAKING
    return False


def of_a_fault(error: BaseException | None) -> bool:
    """True if `error` is one of these faults, or comes of one."""
    return isinstance(error, Planted) or (error is not None and isinstance(error.__cause__, Planted))
