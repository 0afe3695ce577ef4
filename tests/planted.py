"""Faults inside perdure, put there on purpose: each step that it takes for a turn can be made to raise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from perdure.objects.state import State
from perdure.streams.journal.writer import Journal
from perdure.streams.owner import intake
from perdure.streams.owner.administration import Administration
from perdure.streams.owner.output import OutputGate
from perdure.streams.state.tables import Tables
from perdure.streams.turns import commit, runner
from perdure.streams.turns.activation import Activation
from perdure.streams.turns.alarm_turns import AlarmTurns
from perdure.streams.turns.runner import Turns
from perdure.streams.turns.supervision.failure_log import FailureLog

# by name: where it is, and what it is called there
BEFORE = {  # a turn's trace is handed to the journal
    "a record is read": (intake, "admitted"),
    "an object is looked up": (Turns, "activation"),
    "is it still to be run": (runner, "early_outcome"),
    "the state begins a turn": (State, "begin"),
    "the handler is made": (Activation, "handler"),
    "the handler is run": (runner, "run_inline"),
    "the turn is over": (State, "end"),
    "its outcome is found": (runner, "conclude"),
    "its entry is made": (commit, "entry_of"),
    "its entry is encoded": (commit, "encode_entry"),
    "its object sees what it wrote": (Activation, "commit"),
}
OF_FAILURES = {"the handler is blamed": (FailureLog, "failed")}
OF_ALARMS = {
    "is the alarm still set": (AlarmTurns, "early"),
    "the alarm's handler is made": (AlarmTurns, "handler"),
    "what becomes of the alarm": (AlarmTurns, "concluded"),
}
OF_ADMINISTRATION = {"an act of administration": (Administration, "_pause")}
FROM_THEN_ON = {
    "the trace is queued": (Journal, "add"),
    "a batch is encoded": (Journal, "_encode"),
    "an entry is let out": (OutputGate, "entries"),
    "a batch is folded": (Tables, "applied"),
    "a turn is settled": (Activation, "acked"),
    "a key is in flight no more": (Turns, "forget_key"),
}
STEPS: dict[str, tuple[Any, str]] = {
    **BEFORE,
    **OF_FAILURES,
    **OF_ALARMS,
    **OF_ADMINISTRATION,
    **FROM_THEN_ON,
}


class Planted(Exception):
    """Not an error that perdure knows."""


@contextmanager
def planted(
    steps: dict[str, tuple[Any, str]], raises: Callable[[str, tuple[Any, ...]], bool]
) -> Iterator[None]:
    """A step raises `Planted` in place of what it does if `raises(its name, its arguments)`."""

    def instead(name: str, true: Callable[..., Any]) -> Callable[..., Any]:
        def step(*given: Any, **named: Any) -> Any:
            if raises(name, given):
                raise Planted(name)
            return true(*given, **named)

        return step

    with ExitStack() as all_of_them:
        for name, (place, attribute) in steps.items():
            true = getattr(place, attribute)
            all_of_them.enter_context(patch.object(place, attribute, instead(name, true)))
        yield


@contextmanager
def planted_once(name: str, after: int = 0) -> Iterator[list[str]]:
    """The step `name` raises once, after so many times that it did not; gives a
    list that holds `name` then.
    """
    left, hit = after, list[str]()

    def raises(step: str, given: tuple[Any, ...]) -> bool:
        nonlocal left
        left -= 1
        if left != -1:
            return False
        hit.append(step)
        return True

    with planted({name: STEPS[name]}, raises):
        yield hit
