"""A WebSocket on its way through the Worker: an object has accepted it, its client does not have it yet.

    async def fetch(request, env):
        return await env.ROOM.get("lobby").fetch(request)     # an upgrade: the answer is 101, and the client gets it

Laws
- One request is one socket: while an object is asked for it, or has accepted it, nobody else is. Each that is asked is
  asked for a socket with an id of its own.
- What its object sends meanwhile waits, and goes out behind the 101, in its order.
- A socket that was accepted and that its client does not get, for whatever reason, is closed by an event (1006).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from perdure.api.replies import PlacedReply
from perdure.api.sockets.registry import SocketConnection, SocketRegistry
from perdure.objects.turn import SWITCHING
from perdure.schemas.errors import ObjectError, OutcomeUnknown
from perdure.schemas.sockets import ABNORMAL, CLOSED

HELD_BYTES = 1 << 20  # of frames, before the client has the socket


class SocketRelay:
    """Of one request: which object was asked for its WebSocket, and what came of it."""

    def __init__(self, sockets: SocketRegistry) -> None:
        self._sockets = sockets
        self._asked: RelayedSocket | None = None

    @property
    def accepted(self) -> RelayedSocket | None:
        """The socket, if an object has accepted it."""
        return self._asked if self._asked is not None and self._asked.accepted else None

    def ask(self, key: str) -> RelayedSocket:
        """Who waits for the answer of object `key`. Raises `ObjectError` if another has the socket or is asked."""
        if self._asked is not None and not self._asked.refused:
            raise ObjectError(
                f"{key} cannot have this request's WebSocket: {self._asked.key} was asked before; "
                "one request is one socket"
            )
        self._asked = RelayedSocket(self._sockets, key)
        return self._asked

    def take(self) -> RelayedSocket | None:
        """The accepted socket, for the client, which is to be given it."""
        accepted = self.accepted
        if accepted is not None:
            self._asked = None
        return accepted

    def drop(self) -> None:
        """The client does not get it, if it was not taken."""
        if self._asked is not None:
            self._asked.drop("the Worker did not pass it on")


class RelayedSocket:
    """What one object was asked for: an asker first, then, if it accepts, a connection that holds its frames."""

    def __init__(self, sockets: SocketRegistry, key: str) -> None:
        self.key = key
        self.principal = ""
        self.position = -1
        self.auto: tuple[str, bytes] | None = None
        self.number, self.id = sockets.new_id()
        self.socket = f"{self.id} {sockets.address}"
        self.future: asyncio.Future[PlacedReply] = asyncio.get_running_loop().create_future()
        self.accepted = False
        self.refused = False
        self._sockets = sockets
        self._dropped = ""
        self._closed = False  # by its object
        self._held: list[Callable[[SocketConnection], None]] = []
        self._bytes = 0

    # As a `ReplyListener`

    def answered(self, answer: PlacedReply) -> None:
        self.accepted = answer.reply.error is None and answer.reply.status == SWITCHING
        self.refused = not self.accepted
        if self.accepted:
            self._sockets.opened(self.number, self.id, self)
        if self._dropped:
            self.drop(self._dropped)
        if not self.future.done():
            self.future.set_result(answer)

    def failed(self, error: BaseException) -> None:
        if isinstance(error, OutcomeUnknown):
            self._gone("it is not known whether the socket was accepted")
        self.refused = True
        if not self.future.done():
            self.future.set_exception(error)

    # As a `SocketConnection`

    def write(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes <= HELD_BYTES:
            self._held.append(lambda connection: connection.write(data))
        else:
            self._held[:] = [lambda connection: connection.fail(1013, "more was sent than can wait")]

    def close(self, code: int, reason: str) -> None:
        self._closed = True
        self._sockets.closed(self.number)
        self._held.append(lambda connection: connection.close(code, reason))

    def fail(self, code: int, reason: str) -> None:
        self._held.append(lambda connection: connection.fail(code, reason))

    def ended(self) -> None:
        """It has no events."""

    def lost(self, error: BaseException) -> None:
        """It has no events."""

    def ping(self) -> None:
        """Nobody is there yet who could answer."""

    # Its end

    def give(self, connection: SocketConnection) -> None:
        """The client has it, by `connection`, which is to have been opened under its number just now."""
        connection.position, connection.auto = self.position, self.auto
        for act in self._held:
            act(connection)

    def drop(self, why: str) -> None:
        """The client does not get it; one that is accepted later neither."""
        self._dropped = why
        if self.accepted and not self._closed:
            self._sockets.closed(self.number)
            self._gone(why)
        self.accepted = False

    def _gone(self, why: str) -> None:
        facts = ("code", str(ABNORMAL)), ("clean", "0")
        self._sockets.event(None, self.key, self.id, 1, CLOSED, why.encode(), *facts)
