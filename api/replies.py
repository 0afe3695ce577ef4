"""The answer to a command, as the gateway hands it to the part of this process that waits for it.

A door passes a `ReplyListener` with each command that it submits; the gateway calls it once. Code that runs
as a coroutine uses `ReplyFuture` and awaits it. The answer is a `PlacedReply`: the object's reply and the
command's place on the log. Frames of WebSockets are not answers: a `FrameReceiver` gets them.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec

from perdure.schemas.effects import Out
from perdure.schemas.replies import Reply
from perdure.streams.log.base import LogRecord


class PlacedReply(msgspec.Struct, gc=False, frozen=True):
    """A reply and the place of the command that it answers."""

    reply: Reply
    partition: int
    offset: int


class ReplyListener(Protocol):
    """The receiver of a command's answer.

    The gateway calls exactly one of the two methods, once, possibly before `submit` returns. Neither may
    raise. A listener that is no longer interested ignores the call.
    """

    def answered(self, answer: PlacedReply) -> None:
        """The command was answered."""

    def failed(self, error: BaseException) -> None:
        """There will be no answer: `OutcomeUnknown`, or `Unavailable` or `TooLarge` (certainly not run)."""


class ReplyFuture:
    """A `ReplyListener` for coroutines: `answer = await listener.future`."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[PlacedReply] = asyncio.get_running_loop().create_future()

    def answered(self, answer: PlacedReply) -> None:
        if not self.future.done():
            self.future.set_result(answer)

    def failed(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class RequestTracing(Protocol):
    """Tracing of the commands that doors submit (see api/telemetry/spans.py)."""

    def trace_request(
        self, listener: ReplyListener, key: str, kind: str, method: str, traceparent: str
    ) -> tuple[ReplyListener, str]:
        """Begin a span; returns the listener to use instead, and the command's `traceparent`."""


class FrameReceiver(Protocol):
    """The holder of this gateway's WebSockets (see api/sockets/registry.py)."""

    address: str

    @property
    def count(self) -> int:
        """The number of open WebSockets."""

    def frames(self, out: Out, partition: int, offset: int, n: int) -> bool:
        """As `Ingress.frames`."""

    def ended(self, reply_to: str, id_: str) -> bool:
        """The turn of event `id_` has ended; False if it belongs to no socket here."""

    def receive(self, record: LogRecord) -> bool:
        """Handle a record of `{app}.replies`; False if it does not concern WebSockets."""
