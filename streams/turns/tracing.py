"""What an owner tells whoever traces; nobody does unless it is asked for, and then an owner has none to tell."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from perdure.objects.turn import Outcome
from perdure.schemas.commands import Command
from perdure.schemas.replies import Reply
from perdure.streams.turns.activation import Turn

CallFunction = Callable[[Turn, Command], Coroutine[Any, Any, Reply]]


class Tracing(Protocol):
    """Hears of turns and calls (see api/telemetry/spans.py). None of it may raise."""

    def began(self, turn: Turn) -> None:
        """Its handler is about to run. Gives the turn's command the `traceparent` of what comes of it."""

    def ended(self, turn: Turn, outcome: Outcome) -> None:
        """Its handler has ended, and this is what the turn comes to."""

    def calling(self, turn: Turn, asked: Command, ask: CallFunction) -> Coroutine[Any, Any, Reply]:
        """`ask(turn, asked)`, with the call's own `traceparent`. Raises what that raises."""
