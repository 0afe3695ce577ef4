"""The socket of `sockets.py` without `await`: the same laws, for programs that wait in a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Self

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from perdure.api.client.answers import RawResponse
from perdure.api.client.attempts import Attempt, Lost, Wait
from perdure.api.client.sockets import Opening, Reopening, is_lost, no_server, refused
from perdure.schemas.errors import Unavailable


class SyncSocket:
    """A WebSocket to an object: `with stub.websocket() as ws`, then `for message in ws`.

    It opens again as the asynchronous one does. One thread receives, others may send.

    Attributes:
        reconnects: how often it has been opened again.
    """

    def __init__(self, reopening: Reopening, on_reconnect: Callable[[SyncSocket], None] | None) -> None:
        self._how = reopening
        self._on_reconnect = on_reconnect
        self._connection: ClientConnection | None = None
        self._closed = False
        self.reconnects = 0

    def __enter__(self) -> Self:
        self._connection = self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, message: str | bytes) -> None:
        """Send a message: str as text, bytes as binary.

        Raises `Unavailable` if the connection is lost: nothing was sent; receive, which opens it again, then
        send.
        """
        try:
            self._there().send(message)
        except ConnectionClosed as error:
            raise Unavailable(f"{self._how.url}: the socket is closed, nothing was sent ({error})") from error

    def receive(self, timeout: float | None = None) -> str | bytes:
        """The next message.

        Raises `websockets.exceptions.ConnectionClosed` when the application closed the socket.

        timeout: seconds to wait on one connection, after which TimeoutError is raised; None waits without a
        limit.
        """
        while True:
            try:
                return self._there().recv(timeout)
            except ConnectionClosed as error:
                if self._closed or not is_lost(error):
                    raise
            connection = self._open()
            if self._closed:  # by another thread meanwhile
                connection.close()
                raise Unavailable(f"{self._how.url}: the socket was closed")
            self._connection = connection
            self.reconnects += 1
            if self._on_reconnect is not None:
                self._on_reconnect(self)

    def __iter__(self) -> Iterator[str | bytes]:
        while True:
            try:
                message = self.receive()
            except ConnectionClosed:
                return
            yield message

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the socket for good. `code` is 1000 or 3000 to 4999, `reason` at most 123 bytes."""
        self._closed = True
        if self._connection is not None:
            self._connection.close(code, reason)

    def _there(self) -> ClientConnection:
        if self._connection is None:
            raise RuntimeError("use a socket inside of: with stub.websocket() as ws")
        return self._connection

    def _open(self) -> ClientConnection:
        opening: Opening[ClientConnection] = Opening(self._how)
        while opening.opened is None:
            if isinstance(step := opening.next(), Wait):
                self._how.pause(step.seconds)
            else:
                opening.attempted(self._attempt(step))
        return opening.opened

    def _attempt(self, step: Attempt) -> ClientConnection | RawResponse | Lost:
        try:
            return connect(
                self._how.url,
                additional_headers=self._how.headers,
                open_timeout=step.timeout_s,
                max_size=None,
            )
        except InvalidStatus as error:
            return refused(error)
        except (TimeoutError, OSError, InvalidHandshake, EOFError) as error:
            return no_server(error)
