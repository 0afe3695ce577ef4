"""One HTTP connection: uvicorn's protocol, with time-outs and limits that it lacks.

Bytes of a connection arrive here first. `RequestParser` (api/http1/) reads them as requests; uvicorn runs the
ASGI application for each, unless `fast_path.py`, a subclass, answers the request itself.

Laws [test_server.py, test_direct_connections.py]
- A WebSocket gets the bare transport: its frames gain nothing from joining and would lose latency.
- A head (request line and headers) must be complete within `HEAD_TIMEOUT_S` of the connection's start or the
  head's first byte. Otherwise the answer is 408.
- A body must arrive at `BODY_BYTES_PER_S` or faster, checked every `BODY_LOOK_S`, except while this server
  does not read. Otherwise the answer is 408.
- Connections above `connections_max` get a 503 and are closed, before file descriptors run out. A few more
  are accepted for `PROBES` only: monitoring must see a server that is full, not one that is gone.
- A refusal (400, 408, 431, …) ends the connection. It follows the answers to earlier requests: in place of
  such an answer it would deny something that may still happen. Later bytes are discarded for `LINGER_S`:
  closing with unread bytes resets the connection, and the client would lose the answer (RFC 9112 §9.6).
- A client that closes its sending side after its requests still gets their answers. While it waits, it is
  checked every `LOOK_S`: it is sent `100 Continue`, to which a client that is gone answers with a reset.
- When the server ends, bytes that a client has sent already are answered before its connection is closed,
  even if they have not been read yet. A request is lost only if it crosses the closing on its way.
- A client is not read from while its requests wait in the pipeline or while it does not read its responses.
  (uvicorn reads one more segment after each response, so that a pipeline grows without bound.)
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from perdure.api.http1.heads import Invalid
from perdure.api.http1.parser import RequestParser
from perdure.api.http1.status_lines import STATUS_LINES
from perdure.api.protocol.transport import Flow, JoiningTransport

HEAD_TIMEOUT_S = 10.0
BODY_LOOK_S = 10.0
BODY_BYTES_PER_S = 1024
PROBES = (b"/livez", b"/readyz", b"/metrics")
PROBE_TIMEOUT_S = 1.0
SPARE_CONNECTIONS = 16
LINGER_S = 2.0
LOOK_S = 1.0
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_LOOK_S = 0.05  # when the server ends: time to read what an idle connection has sent already


class NullEvent:
    """The event that uvicorn sets when a connection ends, for cycles that never wait for it."""

    def set(self) -> None: ...


class FinalRefusal:
    """A refusal that ends a connection; for uvicorn it is a cycle that waits in the pipeline for its turn."""

    message_event: ClassVar[NullEvent] = NullEvent()

    def __init__(self, protocol: HttpProtocol, status: int, text: str) -> None:
        self._protocol = protocol
        self._status = status
        self._text = text
        self.keep_alive = False
        self.disconnected = False
        self.response_complete = False

    async def run_asgi(self, _: object) -> None:
        self.response_complete = True
        self._protocol.end_with(self._status, self._text)


class HttpProtocol(HttpToolsProtocol):
    """The protocol of one connection. `bounded_by` returns a subclass with the limits of a server."""

    head_max_bytes: ClassVar[int] = 64 * 1024
    connections_max: ClassVar[int] = 10_000
    unsent: ClassVar[
        list[JoiningTransport]
    ] = []  # of one server: those with unsent bytes in this pass of the loop
    parser: RequestParser  # type: ignore[assignment]  # it has the methods that uvicorn calls
    _head_complete = False  # of the latest request
    _head_timer: asyncio.TimerHandle | None = None
    _body_timer: asyncio.TimerHandle | None = None
    _body_bytes = 0  # read since the timer was set
    _is_probe = False
    _leaving = False  # the server is ending
    _lingering: asyncio.TimerHandle | None = None  # set once the last answer is sent
    _ended = False  # the client has closed its sending side
    _look_timer: asyncio.TimerHandle | None = None

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        """As `uvicorn.protocols.http.httptools_impl.HttpToolsProtocol`, which uvicorn makes."""
        super().__init__(config, server_state, app_state, _loop)
        self.parser = RequestParser(self, self.head_max_bytes)

    @classmethod
    def bounded_by(cls, *, head_max_bytes: int, connections_max: int) -> type[HttpProtocol]:
        """A subclass with these limits: bytes of a head, and open connections of the server."""
        bounds = {"head_max_bytes": head_max_bytes, "connections_max": connections_max, "unsent": []}
        return type(cls.__name__, (cls,), bounds)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        self.joining = joining = JoiningTransport(transport, self.loop, self.unsent)
        super().connection_made(cast("asyncio.Transport", joining))
        self.flow = Flow(self.transport, self.pipeline)
        timeout_s = HEAD_TIMEOUT_S
        if len(self.connections) > self.connections_max:
            if len(self.connections) > self.connections_max + SPARE_CONNECTIONS:
                self._write_refusal(503, self._no_room())
                self.transport.close()
                return
            self._is_probe, timeout_s = True, PROBE_TIMEOUT_S
        self._head_timer = self.loop.call_later(timeout_s, self._head_is_late)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        parser = self.parser
        try:
            rest = parser.feed(data)
        except Invalid as error:
            self._refuse(error.status, error.text)
            return
        if rest is not None:
            self._switch(rest)
        elif parser.in_body:
            if self._head_timer is not None:
                self._head_ended()
            self._body_received(len(data))
        elif parser.begun:  # a head or trailers
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)
        elif self._head_timer is not None:
            self._head_ended()

    # Called by the parser

    def on_message_begin(self) -> None:
        # a timer that is left of the message before, which came whole
        if self._head_complete and self._head_timer is not None:
            self._head_ended()
        if self._body_timer is not None:
            self._body_ended()
        self._head_complete = False

    def on_headers_complete(self) -> None:
        self._head_complete = True
        head = self.parser.head
        self.url, self.headers = head.url, head.headers
        self._head_read()

    def _head_read(self) -> None:
        """The head of a request has been read."""
        if self._is_probe and not self._may_probe():
            return
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url, self.expect_100_continue = url, self.parser.head.expects
        self.headers.extend(headers)
        super().on_headers_complete()
        if self._is_probe or self._leaving:
            self.cycle.keep_alive = False

    # The connection

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio has it
        self._ended = True
        if self.transport.is_closing() or self._lingering is not None:
            self.transport.close()
        elif self.parser.begun:
            self._refuse(400, "The request ended before it was complete.")
        elif self._idle:
            self.transport.close()
        else:
            self.cycle.keep_alive = False
            self._look_timer = self.loop.call_later(LOOK_S, self._look_for_client, True)
        return True  # we close

    def _look_for_client(self, first: bool) -> None:
        """Send bytes to find out if the client is gone: closed and half-closed connections look alike."""
        if self._idle or self.transport.is_closing():
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
            return
        cycle = self.cycle
        if (
            first
            and not self.pipeline
            and not getattr(cycle, "response_started", False)
            and self.parser.head.version == "1.1"
        ):
            self.transport.write(CONTINUE)
        self._look_timer = self.loop.call_later(LOOK_S, self._look_for_client, first and bool(self.pipeline))

    def shutdown(self) -> None:
        self._leaving = True
        if self._lingering is not None:
            self.transport.close()
        elif self._idle:
            self.loop.call_later(LAST_LOOK_S, self._leave)
        else:
            super().shutdown()
            if getattr(
                self.cycle, "response_started", False
            ):  # a stream of events, which has no end of its own
                self.transport.close()

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _leave(self) -> None:
        if self._idle:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_ended()
        self._body_ended()
        for timer in (self._lingering, self._look_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _switch(self, rest: bytes) -> None:
        """Hand the connection over to a WebSocket; `rest` is what followed the head of its request."""
        self._head_ended()
        self._body_ended()
        self.joining.flush()
        self.transport = self.joining.bare
        self._hand_over(rest)

    def _hand_over(self, rest: bytes) -> None:
        """Give the connection to uvicorn's protocol for WebSockets; no bytes may precede its answer."""
        self.handle_websocket_upgrade()

    def _head_ended(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        if not self._idle:  # an earlier request is not answered yet
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)
            return
        self._refuse(408, f"The request's headers did not arrive within {HEAD_TIMEOUT_S:g} s.")

    def _body_received(self, size: int) -> None:
        self._body_bytes += size
        if self._body_timer is None:
            self._look_at_body()

    def _look_at_body(self) -> None:
        self._body_bytes = 0
        self._body_timer = self.loop.call_later(BODY_LOOK_S, self._body_may_be_late)

    def _body_ended(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _body_may_be_late(self) -> None:
        self._body_timer = None
        cycle = self.cycle
        if not self.parser.begun:
            return
        if cycle is not None and cycle.response_complete:
            self.transport.close()  # answered already, and still sending
        elif self.flow.read_paused or self._body_bytes >= BODY_BYTES_PER_S * BODY_LOOK_S:
            self._look_at_body()
        else:
            self._refuse(408, f"The request's body arrived at less than {BODY_BYTES_PER_S} bytes per second.")

    def _may_probe(self) -> bool:
        """True if this connection above the limit requests one of `PROBES`; otherwise it is refused here."""
        if self.url.partition(b"?")[0] in PROBES:
            return True
        self._head_complete = False  # the request is not accepted
        self._refuse(503, self._no_room())
        return False

    def _no_room(self) -> str:
        return f"This server has {self.connections_max} connections open, its limit."

    def _refuse(self, status: int, text: str) -> None:
        self._head_ended()
        self._body_ended()
        self.parser.end()
        if self._head_complete:  # the body is being read
            if self._idle:
                self.linger()  # answered already
                return
            if not self.pipeline:
                self.end_with(status, text)
                return
            self.pipeline.popleft()  # the newest, whose request will never be complete
        elif self._idle:
            self.end_with(status, text)
            return
        last: Any = FinalRefusal(self, status, text)
        self.cycle = last
        self.pipeline.appendleft((last, self.app))
        self.flow.pause_reading()

    def end_with(self, status: int, text: str) -> None:
        """Send a refusal in plain text, and close the connection."""
        if self.transport.is_closing() or self._lingering is not None:
            return
        self._write_refusal(status, text)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # its answer is not sent any more
            cycle.message_event.set()
        self.linger()

    def linger(self) -> None:
        """Close the connection once the client has read its answers, and discard what it still sends."""
        transport = self.transport
        self.parser.end()
        if transport.is_closing() or self._lingering is not None:
            return
        if self._ended or self._leaving or not transport.can_write_eof():
            transport.close()
            return
        transport.write_eof()
        transport.resume_reading()
        self._lingering = self.loop.call_later(LINGER_S, transport.close)

    def _write_refusal(self, status: int, text: str) -> None:
        body = text.encode()
        self.transport.write(
            STATUS_LINES[status]
            + b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
            + b"content-length: %d\r\n\r\n" % len(body)
            + body
        )
