"""The fast path of requests for objects: from the parser to the door and back, without ASGI in between.

ASGI needs a task, a dict of the request and three messages for each request, which is more than half of the
cost of an object's turn. `FastPathProtocol` passes plain requests for objects to `HttpDoor.submit` itself,
with an `HttpExchange` that writes the response. uvicorn runs the ASGI application for all others.

Laws [test_direct.py, test_direct_connections.py]
- The fast path takes a complete HTTP/1.1 request for a path of an object, without `Expect`, on a connection
  that answers no other request at the moment. While it is open, its exchange stands where uvicorn keeps its
  own cycle: later requests wait in uvicorn's pipeline, and responses keep the order of requests.
- A head whose bytes were seen before is not parsed again (api/http1/head_cache.py).
- A body above the limit is refused as soon as its size is known, and the rest of it is discarded.
- An idle connection is closed after one to two times uvicorn's keep-alive time-out: one timer per connection
  checks, instead of one per request.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Protocol

import msgspec

from perdure.api.door.async_commands import prefers_async
from perdure.api.door.http import (
    NO_BODY,
    HttpDoor,
    encoded,
    problem_at_door,
    sendable,
)
from perdure.api.http1.head_cache import FIRST_LINE, METHODS, CachedHead, alike, cached_head_of
from perdure.api.http1.heads import Head, RawHeaders, read_head
from perdure.api.http1.status_lines import STATUS_LINES
from perdure.api.pages import Refused
from perdure.api.problems import Problem, problem
from perdure.api.protocol.http import HttpProtocol, NullEvent
from perdure.api.protocol.websocket import SocketProtocol
from perdure.api.replies import PlacedReply
from perdure.objects.turn import SWITCHING
from perdure.schemas.cache import PureCache
from perdure.schemas.errors import PerdureError
from perdure.schemas.replies import Pairs

_PATHS = (b"/objects/", b"/rpc/")
# Answers to writes wait for one fsync and arrive together. Each is sent at once, so that the client's next
# request is here when the next batch is sealed. Answers to reads arrive between parsing: they are sent
# together, after all bytes that have arrived are parsed.
_READS = frozenset(("GET", "HEAD"))
_NO_HEAD = Head((), None, "", 0)


class HttpExchange(msgspec.Struct, eq=False):
    """One request and its response: a `ReplyListener`, and for uvicorn the cycle of its connection.

    A Struct, like everything that is created per request: it costs a third of a class with an `__init__`.
    """

    protocol: FastPathProtocol
    method: str
    keep_alive: bool
    head: Head = _NO_HEAD
    body: bytes | bytearray = b""
    disconnected: bool = False
    response_complete: bool = False
    message_event: ClassVar[NullEvent] = NullEvent()

    def answered(self, answer: PlacedReply) -> None:
        reply = answer.reply
        start = _start[reply.status, reply.headers] if reply.error is None else None
        if start is None:
            self.respond(self.protocol.door.response_to(answer))
            return
        status, body = reply.status, reply.body
        if not self.keep_alive or status in NO_BODY or self.method == "HEAD":
            self._send(
                status, b"%bperdure-command: %d:%d\r\n" % (start, answer.partition, answer.offset), body
            )
        elif not self.response_complete:
            place = start, answer.partition, answer.offset, len(body), body
            self._send_whole(status, b"%bperdure-command: %d:%d\r\ncontent-length: %d\r\n\r\n%b" % place)

    def failed(self, error: BaseException) -> None:
        assert isinstance(error, PerdureError), error
        self.respond(problem_at_door(error))

    def more(self, body: bytes) -> None:
        """Add a piece of the body: to a bytearray, since bytes would be copied for each piece."""
        if type(self.body) is bytes:
            self.body = bytearray(self.body)
        self.body += body

    def respond(self, response: Problem) -> None:
        """Send a response: (status, headers, body)."""
        status, headers, body = response
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        self._send(status, STATUS_LINES[status] + lines, body)

    def _send(self, status: int, start: bytes, body: bytes) -> None:
        if self.response_complete:
            return
        if not self.keep_alive:
            start += b"connection: close\r\n"
        if status in NO_BODY:
            whole = start + b"\r\n"
        elif self.method == "HEAD":
            whole = b"%bcontent-length: %d\r\n\r\n" % (start, len(body))
        else:
            whole = b"%bcontent-length: %d\r\n\r\n%b" % (start, len(body), body)
        self._send_whole(status, whole)

    def _send_whole(self, status: int, whole: bytes) -> None:
        self.response_complete = True
        protocol = self.protocol
        protocol.answered[status] += 1
        if self.disconnected:
            return
        if self.method in _READS:
            protocol.joining.write(whole)
        else:
            protocol.joining.write_now(whole)
        if not self.keep_alive:
            protocol.linger()
        protocol.on_response_complete()


def _start_of(response: tuple[int, Pairs]) -> bytes | None:
    """Status line and headers of a response, None if they cannot be sent."""
    status, headers = response
    if not sendable(headers) or status == SWITCHING:
        return None
    return STATUS_LINES[status] + b"".join([b"%b: %b\r\n" % header for header in encoded(headers)])


_start = PureCache(_start_of, 1024)  # a class has few different ones


class _Cycle(Protocol):
    response_complete: bool


class FastPathProtocol(HttpProtocol):
    """The protocol of one connection. `to` returns a subclass for the door of a node."""

    door: ClassVar[HttpDoor]
    answered: ClassVar[Counter[int]]  # the door's
    paths: ClassVar[tuple[bytes, ...]] = _PATHS
    websocket: ClassVar[type[SocketProtocol]]
    exchange: ClassVar[type[HttpExchange]] = HttpExchange
    recognizes: ClassVar[bool] = True  # True if heads are compared by their bytes
    _exchange: HttpExchange | None = None  # of the request that is being read
    _spoke = False  # True if a response was sent since the timer last fired
    _last_headers: RawHeaders | None = (
        None  # of the previous request on this connection; parsed: `_last_head`
    )
    _last_head = _NO_HEAD
    _plain = False  # True if requests with these headers do not have to pass the check of origins
    _headers_again = False  # True if the headers are those of the previous request, and allowed
    _cached: CachedHead | None = None  # a head that is recognized without the parser

    @classmethod
    def to(cls, door: HttpDoor, websocket: type[SocketProtocol], **more: Any) -> type[FastPathProtocol]:
        """A subclass for `door`; `websocket` takes over upgrades, `more` are further attributes."""
        # if objects are closed behind a Worker their requests are refused, by ASGI
        paths = () if door.closed else _PATHS
        given = {"door": door, "answered": door.answered, "paths": paths, "websocket": websocket, **more}
        return type("FastPathProtocol", (cls,), given)

    def data_received(self, data: bytes) -> None:
        known, fresh = self._cached, self.parser.idle
        if (
            known is not None
            and fresh
            and self.cycle.response_complete
            and len(data) <= self.head_max_bytes + known.size
        ):
            line = FIRST_LINE.match(data)
            if line is not None and (request := known.read(data, line.end())) is not None:
                head, body = request
                exchange = self.exchange(self, METHODS[line[1]], True, head)
                self.cycle = exchange  # type: ignore[assignment]  # as in `_head_read`
                self._submit(exchange, line[2], body)
                return
        super().data_received(data)
        if self._headers_again and fresh and self.parser.idle:
            self._headers_again = False
            self._cached = cached_head_of(data, self._last_head)

    # Called by the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._headers_again = False
        self._exchange = None

    def _head_read(self) -> None:
        cycle: _Cycle | None = self.cycle
        head = self.parser.head
        if head.switches:
            return  # `_switch` comes next
        if (
            (cycle is not None and not cycle.response_complete)
            or not self.url.startswith(self.paths)
            or self._is_probe
            or head.expects
            or head.version != "1.1"
            or (self.headers != self._last_headers and prefers_async(self.headers))
        ):
            super()._head_read()
            return
        keep_alive = head.keep_alive and not self._leaving
        exchange = self.exchange(self, head.method.decode("ascii"), keep_alive)
        self._exchange = self.cycle = exchange  # type: ignore[assignment]  # it has what uvicorn needs
        try:
            # most clients send the same headers again
            again = self.headers == self._last_headers or alike(self.headers, self._last_headers)
            if not (again and self._plain):
                self._last_headers = None  # until these are parsed
                self._plain = self.door.origins.plain(self.headers)
                if not self._plain:
                    path = self.url.partition(b"?")[0]
                    self.door.origins.check(exchange.method, path, self.headers)
            exchange.head = known = self._read_head()
            if known.size:
                self.door.check_size(known.size)
            self._headers_again = again and self._plain and self.recognizes and exchange.keep_alive
        except (Refused, PerdureError) as error:
            exchange.respond(problem_at_door(error))

    def _read_head(self) -> Head:
        headers = self.headers
        if headers != self._last_headers:
            self._last_head, self._last_headers = read_head(headers), headers
        return self._last_head

    def on_body(self, body: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            super().on_body(body)
            return
        if not exchange.response_complete:
            if exchange.body:
                exchange.more(body)
            else:
                exchange.body = body
            if len(exchange.body) > self.door.body_bytes:
                try:
                    self.door.check_size(len(exchange.body))
                except PerdureError as error:
                    exchange.respond(problem_at_door(error))

    def on_message_complete(self) -> None:
        exchange = self._exchange
        if exchange is None:
            super().on_message_complete()
        elif not exchange.response_complete:
            body = exchange.body
            self._submit(exchange, self.url, body if type(body) is bytes else bytes(body))

    def _submit(self, exchange: HttpExchange, url: bytes, body: bytes) -> None:
        raw_path, _, query = url.partition(b"?")
        try:
            self.door.submit(exchange, exchange.method, raw_path, query, exchange.head, body)
        except (Refused, PerdureError) as error:
            exchange.respond(problem_at_door(error))
        except Exception as error:  # noqa: BLE001 - the parser would report it as an error of the client
            self.loop.call_exception_handler({"message": "a request failed", "exception": error})
            exchange.respond(
                problem(
                    "internal-error",
                    "this request failed by a bug in perdure; its log has the details",
                    status=500,
                )
            )

    # The connection

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        self._spoke = True
        if self.timeout_keep_alive_task is None:
            self._look_again_in(self.timeout_keep_alive)

    def shutdown(self) -> None:
        self._cached = None  # from here on by the parser, which knows that the server is ending
        super().shutdown()

    def _unset_keepalive_if_required(self) -> None:
        """uvicorn cancels its timer with each request; ours checks when it fires."""

    def _look_again_in(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if not self._idle:
            return  # the end of the response sets a new timer
        if self._spoke or self.parser.begun:
            self._spoke = False
            self._look_again_in(self.timeout_keep_alive)
        else:
            super().timeout_keep_alive_handler()

    def _switch(self, rest: bytes) -> None:
        if not self._idle:
            self._refuse(400, "An upgrade to a WebSocket may not follow requests that are not answered yet.")
            return
        self._cancel_keep_alive()
        super()._switch(rest)

    def _hand_over(self, rest: bytes) -> None:
        self.connections.discard(self)
        protocol = self.websocket(self.config, self.server_state, self.app_state)
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        protocol.open(self.parser.head, rest)
        if self._leaving:
            protocol.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_keep_alive()
        super().connection_lost(exc)

    def _cancel_keep_alive(self) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
