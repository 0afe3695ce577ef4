"""What a turn may ask of its owner beside its state: the ports that this room is given from outside.

Law: whoever runs user code sets `current_turn` to a `Caller`, and to nothing else; stubs and `state.sync()` find it there.
"""

from __future__ import annotations

from random import Random
from typing import Protocol

from perdure.schemas.commands import Command
from perdure.schemas.replies import Reply


class Caller(Protocol):
    """A turn (or a Worker's request) as its calls see it.

    A `Command` given here says what is asked: key, kind, method, path, headers, body. The rest of the envelope
    (id, reply-to, key, deadline, principal, chain) is the caller's to fill; `socket` too, if it is not empty: then the
    WebSocket of the request that is being answered is passed on, where there is one. A turn has none to pass on.
    """

    @property
    def traceparent(self) -> str:
        """Of the command that runs; empty if it has none."""

    @property
    def principal(self) -> str:
        """Who sent the command that runs, see `Request.principal`."""

    async def call(self, command: Command) -> Reply:
        """The answer of another object, an error reply too; once, however often the turn runs.

        Raises `Deadlock` (it waits for this turn), `NonDeterministic`, `Unavailable` and its kin (not done),
        `OutcomeUnknown`, `TurnEnded`.
        """

    def send(self, command: Command) -> None:
        """Let the command go, once, when the turn has committed. Raises `TurnEnded`."""

    async def synced(self) -> None:
        """Return when all that the turn has seen is durable, and it is certain that its owner still is it.

        Raises `TurnEnded`.
        """

    def new_id(self) -> str:
        """32 hex digits that nobody else gets; the same when the turn runs again. Raises `TurnEnded`."""

    @property
    def random(self) -> Random:
        """Of a turn: random numbers that are the same when it runs again. Raises `TurnEnded`."""
