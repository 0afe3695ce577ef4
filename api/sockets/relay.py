"""A WebSocket that the Worker passes on to an object: accepted by the object, not yet connected to the
client.

    async def fetch(request, env):
        return await env.ROOM.get("lobby").fetch(request)  # an upgrade: the client gets the 101

`SocketRelay` belongs to the request; each object that the Worker passes it on to gets a `RelayedSocket`,
which holds the object's frames until the client has its 101.

Laws [test_passing.py]
- One request is one socket: while an object decides about it, or has accepted it, it cannot be passed to
  another one. Each object gets a socket with an id of its own.
- Frames that the object sends meanwhile wait, and follow the 101 in their order.
- A socket that was accepted and does not reach its client is closed by an event (1006).
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
    """The WebSocket of one request to the Worker, and the object that it was passed to last."""

    def __init__(self, sockets: SocketRegistry) -> None:
        self._sockets = sockets
        self._current: RelayedSocket | None = None

    @property
    def accepted(self) -> RelayedSocket | None:
        """The socket, once an object has accepted it."""
        return self._current if self._current is not None and self._current.accepted else None

    def begin(self, key: str) -> RelayedSocket:
        """The socket to offer to object `key`. Raises `ObjectError` if another object has or may get it."""
        if self._current is not None and not self._current.refused:
            raise ObjectError(
                f"{key} cannot have this request's WebSocket: it was passed to {self._current.key} before; "
                "one request is one socket"
            )
        self._current = RelayedSocket(self._sockets, key)
        return self._current

    def take(self) -> RelayedSocket | None:
        """The accepted socket, to connect it to the client; afterwards `drop` does nothing."""
        accepted = self.accepted
        if accepted is not None:
            self._current = None
        return accepted

    def drop(self) -> None:
        """The request is over: close a socket that was not taken."""
        if self._current is not None:
            self._current.drop("the Worker did not pass it on")


class RelayedSocket:
    """The socket of one object: a `ReplyListener` first, then a `SocketConnection` that holds its frames."""

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
            self._held[:] = [lambda connection: connection.fail(1013, "the object sent more than can wait")]

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
        """There is no client yet that could answer."""

    # Its end

    def give(self, connection: SocketConnection) -> None:
        """Pass the frames on to the client's `connection`, which was just opened under this number."""
        connection.position, connection.auto = self.position, self.auto
        for act in self._held:
            act(connection)

    def drop(self, why: str) -> None:
        """The client does not get the socket, even if the object accepts it later."""
        self._dropped = why
        if self.accepted and not self._closed:
            self._sockets.closed(self.number)
            self._gone(why)
        self.accepted = False

    def _gone(self, why: str) -> None:
        facts = ("code", str(ABNORMAL)), ("clean", "0")
        self._sockets.event(None, self.key, self.id, 1, CLOSED, why.encode(), *facts)
