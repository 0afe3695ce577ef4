"""uvicorn's HTTP protocol with what it lacks, at next to no cost per request.

Laws
- What is written within one pass of the event loop leaves in one system call and one segment: uvicorn writes
  head and body of a response apart, and uvloop sends each at once. Nothing is held past that pass, and not
  more than 64 KiB, so that back-pressure still works.
- A WebSocket gets the bare transport: its frames gain nothing from joining and would lose latency.
- A head (request line and headers) must be complete within `HEAD_TIMEOUT_S` of its connection or first byte,
  and must fit the limit (counted per read, so one read may overshoot): 408 and 431 else.
- Connections above `connections_max` get a 503 and are closed, before file descriptors run out.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEAD_TIMEOUT_S = 10.0
JOINED_MAX_BYTES = 64 * 1024


class JoiningTransport:
    """Joins what is written within one pass of the event loop; everything else is the transport's."""

    __slots__ = (
        "_call_soon",
        "_parts",
        "_size_bytes",
        "_unsent",
        "bare",
        "is_closing",
        "pause_reading",
        "resume_reading",
    )

    def __init__(
        self, bare: asyncio.Transport, loop: asyncio.AbstractEventLoop, unsent: list[JoiningTransport]
    ) -> None:
        self.bare = bare
        self._unsent = unsent
        self._parts: list[bytes] = []
        self._size_bytes = 0
        self._call_soon = loop.call_soon
        self.is_closing = (
            bare.is_closing
        )  # bound here: `__getattr__` is slow, and these are asked for each time
        self.pause_reading = bare.pause_reading
        self.resume_reading = bare.resume_reading

    def write(self, data: bytes) -> None:
        if not self._parts:
            if not self._unsent:
                self._call_soon(_flush_all, self._unsent)
            self._unsent.append(self)
        self._parts.append(data)
        self._size_bytes += len(data)
        if self._size_bytes > JOINED_MAX_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._parts:
            parts, self._parts, self._size_bytes = self._parts, [], 0
            if not self.bare.is_closing():
                self.bare.write(b"".join(parts))

    def close(self) -> None:
        self.flush()
        self.bare.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bare, name)


def _flush_all(unsent: list[JoiningTransport]) -> None:
    waiting = unsent.copy()
    unsent.clear()
    for transport in waiting:
        transport.flush()


class OneWriteProtocol(HttpToolsProtocol):
    """Make a subclass with the bounds of the server at hand (see `bounded_by`)."""

    head_max_bytes: ClassVar[int] = 64 * 1024
    connections_max: ClassVar[int] = 10_000
    unsent: ClassVar[list[JoiningTransport]] = []  # of one server; they have written in this pass of the loop
    _head_bytes = 0
    _head_complete = False
    _head_timer: asyncio.TimerHandle | None = None

    @classmethod
    def bounded_by(cls, *, head_max_bytes: int, connections_max: int) -> type[OneWriteProtocol]:
        bounds = {"head_max_bytes": head_max_bytes, "connections_max": connections_max, "unsent": []}
        return type(cls.__name__, (cls,), bounds)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        self.joining = joining = JoiningTransport(transport, self.loop, self.unsent)
        super().connection_made(cast("asyncio.Transport", joining))
        if len(self.connections) > self.connections_max:
            self._refuse(503, f"This server has {self.connections_max} connections open, its limit.")
            return
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_complete:
            if self._head_timer is not None:
                self._head_ended()
            return  # the usual case: a whole head on a connection that has spoken before
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)
        self._head_bytes += len(data)
        if self._head_bytes > self.head_max_bytes:
            self._refuse(431, f"Request line and headers must not exceed {self.head_max_bytes} bytes.")

    def on_message_begin(self) -> None:
        self._head_complete = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_complete = True
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_ended()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self._head_ended()
        self.joining.flush()
        self.transport = self.joining.bare
        super().handle_websocket_upgrade()

    def _head_ended(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        if (
            self.cycle is not None and not self.cycle.response_complete
        ):  # the request before it is not answered
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)
            return
        self._refuse(408, f"The request's headers did not arrive within {HEAD_TIMEOUT_S:g} s.")

    def _refuse(self, status: int, text: str) -> None:
        self._head_ended()
        if self.transport.is_closing():
            return
        body = text.encode()
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
            + b"content-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()
