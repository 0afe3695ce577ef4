"""A WebSocket as its client sees it, in a world of `perdure.testing`: without a
connection, with the same events.

Laws
- A sent message becomes an event on the log; a received one is a frame that left after its turn's commit.
- A socket ends once: by its client, by its object, or with the process that held it (1006).
"""

from __future__ import annotations

import asyncio

from perdure.api.replies import PlacedReply
from perdure.api.sockets.registry import SocketRegistry
from perdure.schemas.replies import Reply
from perdure.schemas.sockets import ABNORMAL, BINARY, CLOSED, MESSAGE, TEXT

_TEXT_OPCODE = 1


class SocketClosed(Exception):
    """A WebSocket under test has closed, or could not be opened. Raised in tests only (`perdure.testing`).

    Whose fault: the test's, if it expected an open socket; otherwise `code` and
    `reason` say who closed it, and why.
    What to do: expect it with `pytest.raises(SocketClosed)`, or correct what closes the socket.

    Attributes:
        code: the close code, or the HTTP status of the response that refused it.
        reason: the text of the close, or the body of that response.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed with {code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class Socket:
    """An open WebSocket to an object under test, which `World.connect` returns."""

    def __init__(self, end: End) -> None:
        self._end = end

    async def send(self, data: str | bytes) -> None:
        """Send a message: str as text, bytes as binary. Raises `SocketClosed` on a closed socket."""
        self._end.send(data)

    async def receive(self) -> str | bytes:
        """The next message.

        Raises `SocketClosed` once the socket has closed and all its messages are read.
        """
        frame = await self._end.frames.get()
        if isinstance(frame, SocketClosed):
            self._end.frames.put_nowait(frame)  # for the next call of `receive`
            raise frame
        return frame

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the socket as its client would; the object's `websocket_close` is called."""
        self._end.leave(code, reason)


class End:
    """The gateway's end of a socket under test: a reply listener while it opens, then a connection."""

    def __init__(self, sockets: SocketRegistry, key: str) -> None:
        self.key = key
        self.principal = ""
        self.position = -1
        self.auto: tuple[str, bytes] | None = None
        self.frames: asyncio.Queue[str | bytes | SocketClosed] = asyncio.Queue()
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._sockets = sockets
        self._number, self._id = sockets.new_id()
        self._events = 0
        self._closed: SocketClosed | None = None

    @property
    def socket(self) -> str:
        """The value that makes a fetch command a request for this socket."""
        return f"{self._id} {self._sockets.address}"

    # As a `ReplyListener`

    def answered(self, answer: PlacedReply) -> None:
        if answer.reply.status == 101:  # before the frames that its object sent with the answer
            self._sockets.opened(self._number, self._id, self)
        self.reply.set_result(answer.reply)

    def failed(self, error: BaseException) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)

    # As a `SocketConnection`

    def write(self, data: bytes) -> None:
        short = data[1] & 127
        body = data[2 if short < 126 else 4 if short == 126 else 10 :]
        self.frames.put_nowait(body.decode() if data[0] & 15 == _TEXT_OPCODE else body)

    def close(self, code: int, reason: str) -> None:
        if self._closed is None:
            self._closed = SocketClosed(code, reason)
            self._sockets.closed(self._number)
            self.frames.put_nowait(self._closed)

    def fail(self, code: int, reason: str) -> None:
        self.leave(code, reason, clean=False)

    def ended(self) -> None:
        """Do nothing: an event has had its turn."""

    def lost(self, error: BaseException) -> None:
        self.close(1011, "a message may not have been processed")

    def ping(self) -> None:
        """Do nothing: the client is always reachable."""

    # As its client

    def send(self, data: str | bytes) -> None:
        if self._closed is not None:
            raise self._closed
        if self.auto is not None and data == self.auto[0]:
            self.write(self.auto[1])
            return
        type_, body = (TEXT, data.encode()) if isinstance(data, str) else (BINARY, data)
        self._event(MESSAGE, body, ("type", type_))

    def leave(self, code: int, reason: str, *, clean: bool = True) -> None:
        if self._closed is None:
            self._event(CLOSED, reason.encode(), ("code", str(code)), ("clean", "1" if clean else "0"))
            self.close(code, reason)

    def died(self) -> None:
        """Close the socket as when the process that held it is killed."""
        self.close(ABNORMAL, "the process was killed")

    def _event(self, method: str, body: bytes, *facts: tuple[str, str]) -> None:
        self._events += 1
        self._sockets.event(self, self.key, self._id, self._events, method, body, *facts)
