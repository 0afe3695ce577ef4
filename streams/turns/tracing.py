"""Hooks that an owner calls for tracing. Tracing is off by default: then `TurnServices.tracing` is None."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from perdure.objects.turn import Outcome
from perdure.schemas.commands import Command
from perdure.schemas.replies import Reply
from perdure.streams.turns.activation import Turn

CallFunction = Callable[[Turn, Command], Coroutine[Any, Any, Reply]]


class Tracing(Protocol):
    """The hooks: called for each turn and each call (see api/telemetry/spans.py). They must not raise."""

    def began(self, turn: Turn) -> None:
        """The handler is about to run. Sets the `traceparent` that the turn's own calls carry."""

    def ended(self, turn: Turn, outcome: Outcome) -> None:
        """The handler has ended with this outcome."""

    def calling(self, turn: Turn, request: Command, call: CallFunction) -> Coroutine[Any, Any, Reply]:
        """Return `call(turn, request)` with the call's own `traceparent` set. Raises what that raises."""
