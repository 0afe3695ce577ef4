"""Requests for objects, answered straight from uvicorn's parser to the door and back, without ASGI in between.

ASGI makes a task, a dict of the request and three messages for each request: more than half of what an object's
own turn costs. What is taken here is a plain request for an object; all others go uvicorn's own way.

Laws
- Taken is a complete HTTP/1.1 request for a path of an object, without upgrade and `Expect`, on a connection that
  answers nothing else at the moment. While it is open it stands where uvicorn keeps its own cycle, so that
  what a client sends meanwhile waits in uvicorn's pipeline, and responses keep the order of requests.
- A body above the limit is refused as soon as that is known, and the rest of it is thrown away.
- An idle connection is closed after uvicorn's keep-alive time-out, or within that time again: one timer per
  connection looks, instead of one per request.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from perdure.api.commands import prefers_async
from perdure.api.gateway import Answer
from perdure.api.http import (
    NO_BODY,
    Head,
    HttpDoor,
    RawHeaders,
    encoded,
    problem_at_door,
    read_head,
    sendable,
)
from perdure.api.onewrite import Nobody, OneWriteProtocol
from perdure.api.pages import Refused
from perdure.api.problems import Problem, problem
from perdure.api.websocket import SocketProtocol
from perdure.objects.turn import SWITCHING
from perdure.schemas.errors import PerdureError
from perdure.schemas.replies import Pairs

_PATHS = (b"/objects/", b"/rpc/")
_NO_HEAD = Head((), None, "", 0)


class Exchange:
    """One request and its response; an `Asker`, and for uvicorn the cycle of its connection."""

    __slots__ = ("body", "disconnected", "head", "keep_alive", "method", "protocol", "response_complete")

    message_event: ClassVar[Nobody] = Nobody()

    def __init__(self, protocol: DirectProtocol, method: str, keep_alive: bool) -> None:
        self.protocol = protocol
        self.method = method
        self.keep_alive = keep_alive
        self.head = _NO_HEAD
        self.body: bytes | bytearray = b""
        self.disconnected = False
        self.response_complete = False

    def answered(self, answer: Answer) -> None:
        reply = answer.reply
        start = _start(reply.status, reply.headers) if reply.error is None else None
        if start is None:
            self.respond(self.protocol.door.told(answer))
            return
        start = b"%bperdure-command: %d:%d\r\n" % (start, answer.partition, answer.offset)
        self._send(reply.status, start, reply.body)

    def failed(self, error: BaseException) -> None:
        assert isinstance(error, PerdureError), error
        self.respond(problem_at_door(error))

    def more(self, body: bytes) -> None:
        """A further piece of the body. There may be a million of them, and bytes would be copied as often."""
        if type(self.body) is bytes:
            self.body = bytearray(self.body)
        self.body += body

    def respond(self, told: Problem) -> None:
        """Send a response made of status, headers and body."""
        status, headers, body = told
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        self._send(status, STATUS_LINE[status] + lines, body)

    def _send(self, status: int, start: bytes, body: bytes) -> None:
        if self.response_complete:
            return
        self.response_complete = True
        protocol = self.protocol
        protocol.door.count(status)
        if self.disconnected:
            return
        if not self.keep_alive:
            start += b"connection: close\r\n"
        if status in NO_BODY:
            protocol.joining.write(start + b"\r\n")
        elif self.method == "HEAD":
            protocol.joining.write(b"%bcontent-length: %d\r\n\r\n" % (start, len(body)))
        else:
            protocol.joining.write(b"%bcontent-length: %d\r\n\r\n%b" % (start, len(body), body))
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()


@lru_cache(1024)
def _start(status: int, headers: Pairs) -> bytes | None:
    """Status line and headers of a response, None if they cannot be sent; a class has few different ones."""
    if not sendable(headers) or status == SWITCHING:
        return None
    return STATUS_LINE[status] + b"".join([b"%b: %b\r\n" % header for header in encoded(headers)])


class _Cycle(Protocol):
    response_complete: bool


class DirectProtocol(OneWriteProtocol):
    """Make a subclass with the door and the bounds of the server at hand (see `to`)."""

    door: ClassVar[HttpDoor]
    paths: ClassVar[tuple[bytes, ...]] = _PATHS
    websocket: ClassVar[type[SocketProtocol]]
    _exchange: Exchange | None = None  # the one whose request is being read
    _idle_since_s = 0.0
    _last_headers: RawHeaders | None = None  # of the request before on this connection, and what they say
    _last_head = _NO_HEAD

    @classmethod
    def to(cls, door: HttpDoor, websocket: type[SocketProtocol], **more: Any) -> type[DirectProtocol]:
        # behind a Worker that is alone in front they are refused: that is not worth a quick way
        paths = () if door.closed else _PATHS
        return type("DirectProtocol", (cls,), {"door": door, "paths": paths, "websocket": websocket, **more})

    # What the parser calls

    def on_message_begin(self) -> None:
        self._head_complete = self._whole = False
        self._exchange = None
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        self._head_complete = True
        cycle: _Cycle | None = self.cycle
        parser = self.parser
        if (
            (cycle is not None and not cycle.response_complete)
            or not self.url.startswith(self.paths)
            or self._is_probe
            or b"#" in self.url
            or self.expect_100_continue
            or parser.should_upgrade()
            or parser.get_http_version() != "1.1"
            or (self.headers != self._last_headers and prefers_async(self.headers))
        ):
            self._as_uvicorn_does()
            return
        exchange = Exchange(self, parser.get_method().decode("ascii"), parser.should_keep_alive())
        self._exchange = self.cycle = exchange  # type: ignore[assignment]  # it has what uvicorn asks of a cycle
        try:
            exchange.head = head = self._read_head()
            if head.size:
                self.door.fitting(head.size)
        except PerdureError as error:
            exchange.respond(problem_at_door(error))

    def _read_head(self) -> Head:
        headers = self.headers
        if headers != self._last_headers:  # clients repeat themselves
            self._last_head, self._last_headers = read_head(headers), headers
        return self._last_head

    def _as_uvicorn_does(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            super().on_body(body)
            return
        self._head_complete = True  # as in OneWriteProtocol
        if not exchange.response_complete:
            if exchange.body:
                exchange.more(body)
            else:
                exchange.body = body
            if len(exchange.body) > self.door.body_bytes:
                try:
                    self.door.fitting(len(exchange.body))
                except PerdureError as error:
                    exchange.respond(problem_at_door(error))

    def on_message_complete(self) -> None:
        exchange = self._exchange
        if exchange is None:
            super().on_message_complete()
            return
        self._whole = True
        if not exchange.response_complete:
            raw_path, _, query = self.url.partition(b"?")
            try:
                body = exchange.body if type(exchange.body) is bytes else bytes(exchange.body)
                self.door.ask(exchange, exchange.method, raw_path, query, exchange.head, body)
            except (Refused, PerdureError) as error:
                exchange.respond(problem_at_door(error))
            except Exception as error:  # noqa: BLE001 - the parser would make a client's error of it
                self.loop.call_exception_handler({"message": "a request failed", "exception": error})
                exchange.respond(problem("internal-error", "this request met a fault of perdure", status=500))

    # The connection

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        self._idle_since_s = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_again_in(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        """uvicorn would cancel its timer with each request; ours looks when it rings."""

    def _look_again_in(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        cycle: _Cycle | None = self.cycle
        self.timeout_keep_alive_task = None
        if cycle is not None and not cycle.response_complete:
            return  # the end of its response sets a new one
        idle_s = self.loop.time() - self._idle_since_s
        if not self._head_complete or idle_s < self.timeout_keep_alive:
            self._look_again_in(max(self.timeout_keep_alive - idle_s, 1.0))
        else:
            super().timeout_keep_alive_handler()

    def handle_websocket_upgrade(self) -> None:
        self._look_no_more()
        self.ws_protocol_class = self.websocket  # in place of uvicorn's
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        self._look_no_more()
        super().connection_lost(exc)

    def _look_no_more(self) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
