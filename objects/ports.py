"""The ports of a turn: what it may request from its owner besides its state.

Law: the code that runs user code sets `current_turn` to a `Caller`, and to nothing else; stubs and
`state.sync()` read it.
"""

from __future__ import annotations

from random import Random
from typing import Protocol

from perdure.schemas.commands import Command
from perdure.schemas.replies import Reply


class Caller(Protocol):
    """A turn (or a Worker's request) as its calls see it.

    A `Command` given here has the request's own parts: key, kind, method, path, headers, body. The rest of
    the envelope (id, reply-to, key, deadline, principal, chain) is the caller's to fill; `socket` too, if it
    is not empty: then the WebSocket of the request that is being answered is passed on, where there is one. A
    turn has none to pass on.
    """

    @property
    def traceparent(self) -> str:
        """The `traceparent` of the command that runs; empty if it has none."""

    @property
    def principal(self) -> str:
        """The sender of the command that runs, see `Request.principal`."""

    async def call(self, command: Command) -> Reply:
        """The answer of another object, an error reply too; once, however often the turn runs.

        Raises `Deadlock` (it waits for this turn), `NonDeterministic`, `Unavailable` and its kin (not done),
        `OutcomeUnknown`, `TurnEnded`.
        """

    def send(self, command: Command) -> None:
        """Send the command, once, when the turn has committed. Raises `TurnEnded`."""

    async def synced(self) -> None:
        """Return when all that the turn has seen is durable and its owner certainly still owns the partition.

        Raises `TurnEnded`.
        """

    def new_id(self) -> str:
        """32 hex digits that are unique, and the same when the turn runs again. Raises `TurnEnded`."""

    @property
    def random(self) -> Random:
        """Random numbers that are the same when the turn runs again. Raises `TurnEnded`."""
