"""A WebSocket to an object, opened again when the connection is lost.

It uses the `websockets` package for the connection and `attempts` for the retries.

Laws
- A connection is lost without a close frame (1006), or with going away (1001), restart (1012) or too slow
  (1013). Any other close is the application's and ends the iteration.
- A message sent to a lost connection is not sent again, since it may have arrived. `on_reconnect` is where to
  re-sync.
- Only receiving opens the socket again; a refusal (401, 403, 404, …) is raised, and so is the end of the
  deadline.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, NamedTuple, Self, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from perdure.api.client.answers import RawResponse
from perdure.api.client.attempts import Attempt, Lost, Policy, Wait, attempts
from perdure.objects.http import Headers
from perdure.schemas.errors import CallerError, Unavailable

_LOST = frozenset((1001, 1006, 1012, 1013))
_NO_PONG = 1011  # the package closes with it when a ping is not answered
_Opened = TypeVar("_Opened")


class Reopening(NamedTuple):
    """The way to open a socket again: URL, headers, how long to try, and a sync or async `pause`."""

    url: str
    headers: dict[str, str]
    policy: Policy
    pause: Callable[[float], Any]


class Opening(Generic[_Opened]):
    """One opening of a socket, as attempts with pauses.

    It is repeated without a key, since opening changes nothing.

    Carry out each step that `next` returns, and pass the outcome of an attempt to `attempted`, until `opened`
    is set.
    """

    def __init__(self, how: Reopening) -> None:
        self._url = how.url
        self._steps = attempts(f"WebSocket {how.url}", how.policy)
        self._outcome: RawResponse | Lost | None = None
        self.opened: _Opened | None = None

    def next(self) -> Attempt | Wait:
        """The next step. Raises a `PerdureError` when no further attempt is made."""
        outcome, self._outcome = self._outcome, None
        try:
            return self._steps.send(outcome)
        except StopIteration as done:
            problem = f"{self._url}: answered {done.value.status} instead of a WebSocket"
            raise CallerError(problem) from None

    def attempted(self, what: _Opened | RawResponse | Lost) -> None:
        """Take the outcome of an attempt."""
        if isinstance(what, (RawResponse, Lost)):
            self._outcome = what
        else:
            self._steps.close()
            self.opened = what


def refused(error: InvalidStatus) -> RawResponse:
    """The answer of a server that refused the WebSocket."""
    response = error.response
    pairs = tuple((name.lower(), value) for name, value in response.headers.raw_items())
    return RawResponse(response.status_code, Headers(pairs), bytes(response.body or b""))


def no_server(error: Exception) -> Lost:
    """The outcome of an attempt that no server answered, or not with a valid handshake."""
    return Lost(False, f"no server answers ({error or type(error).__name__})")


def is_lost(error: ConnectionClosed) -> bool:
    """True if a socket that ended this way must be opened again."""
    if error.rcvd is not None:
        return error.rcvd.code in _LOST
    return error.sent is None or error.sent.code == _NO_PONG


class Socket:
    """A WebSocket to an object: `async with stub.websocket() as ws`, then `async for message in ws`.

    A lost connection (no close frame, or 1001, 1012, 1013) is opened again while receiving, for as long as
    the stub's timeout allows; messages of the meantime are lost. Any other close ends the iteration.

    Attributes:
        reconnects: how often it has been opened again.
    """

    def __init__(
        self, reopening: Reopening, on_reconnect: Callable[[Socket], Awaitable[None]] | None
    ) -> None:
        self._how = reopening
        self._on_reconnect = on_reconnect
        self._connection: ClientConnection | None = None
        self._closed = False
        self.reconnects = 0

    async def __aenter__(self) -> Self:
        self._connection = await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def send(self, message: str | bytes) -> None:
        """Send a message: str as text, bytes as binary.

        Raises `Unavailable` if the connection is lost: nothing was sent; receive, which opens it again, then
        send.
        """
        try:
            await self._there().send(message)
        except ConnectionClosed as error:
            raise Unavailable(f"{self._how.url}: the socket is closed, nothing was sent ({error})") from error

    async def receive(self) -> str | bytes:
        """The next message.

        Raises `websockets.exceptions.ConnectionClosed` when the application closed the socket.
        """
        while True:
            try:
                return await self._there().recv()
            except ConnectionClosed as error:
                if self._closed or not is_lost(error):
                    raise
            connection = await self._open()
            if self._closed:  # by another task meanwhile
                await connection.close()
                raise Unavailable(f"{self._how.url}: the socket was closed")
            self._connection = connection
            self.reconnects += 1
            if self._on_reconnect is not None:
                await self._on_reconnect(self)

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        while True:
            try:
                message = await self.receive()
            except ConnectionClosed:
                return
            yield message

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the socket for good. `code` is 1000 or 3000 to 4999, `reason` at most 123 bytes."""
        self._closed = True
        if self._connection is not None:
            await self._connection.close(code, reason)

    def _there(self) -> ClientConnection:
        if self._connection is None:
            raise RuntimeError("use a socket inside of: async with stub.websocket() as ws")
        return self._connection

    async def _open(self) -> ClientConnection:
        opening: Opening[ClientConnection] = Opening(self._how)
        while opening.opened is None:
            if isinstance(step := opening.next(), Wait):
                await self._how.pause(step.seconds)
            else:
                opening.attempted(await self._attempt(step))
        return opening.opened

    async def _attempt(self, step: Attempt) -> ClientConnection | RawResponse | Lost:
        try:
            return await connect(
                self._how.url,
                additional_headers=self._how.headers,
                open_timeout=step.timeout_s,
                max_size=None,
                process_exception=lambda error: error,
            )
        except InvalidStatus as error:
            return refused(error)
        except (TimeoutError, OSError, InvalidHandshake, EOFError) as error:
            return no_server(error)
