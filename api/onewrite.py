"""uvicorn's HTTP protocol with what it lacks, at next to no cost per request.

Laws
- What is written within one pass of the event loop leaves in one system call and one segment: uvicorn writes
  head and body of a response apart, and uvloop sends each at once. Nothing is held past that pass, and not
  more than 64 KiB, so that back-pressure still works. `write_now` is for what is whole and has waited.
- A WebSocket gets the bare transport: its frames gain nothing from joining and would lose latency.
- A head (request line and headers) must be complete within `HEAD_TIMEOUT_S` of its connection or first byte,
  and must fit the limit (counted per read, so one read may overshoot; what is in a read before it is not
  counted): 408 and 431 else. Trailers must fit it too, and are dropped: nobody asks for them, and uvicorn would take them for headers.
- A body must arrive at `BODY_BYTES_PER_S` at least, looked at every `BODY_LOOK_S` and not while we do not read: 408 else.
- Connections above `connections_max` get a 503 and are closed, before file descriptors run out. A few more are let in to
  ask `PROBES`, and nothing else: whoever watches must see a server that is full, not one that is gone.
- A refusal (400, 408, 431) ends the connection, and is said behind the answers to the requests before it: said in
  place of one it would deny what may happen.
- When the server ends, what a client has sent already is answered before its connection is closed, even if it has not been
  read yet: a request is lost only if it crosses the closing on its way.
- A client whose requests wait in the pipeline is not read from, nor is one that does not read its responses. uvicorn
  reads one more segment after each response, and so a pipeline grows without bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sized
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEAD_TIMEOUT_S = 10.0
BODY_LOOK_S = 10.0
BODY_BYTES_PER_S = 1024
PROBES = (b"/livez", b"/readyz", b"/metrics")
PROBE_TIMEOUT_S = 1.0
SPARE_CONNECTIONS = 16
LAST_LOOK_S = 0.05  # at what an idle connection has sent, when the server ends
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

    def write_now(self, whole: bytes) -> None:
        """Send at once what is whole, behind what was written before."""
        if self._parts:
            self.write(whole)
        elif not self.bare.is_closing():
            self.bare.write(whole)

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


class Flow(FlowControl):
    """Whether a connection is read from: not while requests wait in its pipeline or responses in its buffer."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if self.read_paused and not self.write_paused and not self._pipeline:
            super().resume_reading()


class Nobody:
    """What uvicorn wakes when a connection ends, of a cycle that waits for nothing of it."""

    def set(self) -> None: ...


class LastWord:
    """A refusal that ends a connection: for uvicorn a cycle, which waits in the pipeline for its turn."""

    message_event: ClassVar[Nobody] = Nobody()

    def __init__(self, protocol: OneWriteProtocol, status: int, text: str) -> None:
        self._protocol = protocol
        self._status = status
        self._text = text
        self.keep_alive = False
        self.disconnected = False
        self.response_complete = False

    async def run_asgi(self, _: object) -> None:
        self.response_complete = True
        self._protocol.end_with(self._status, self._text)


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
    _head_bytes = 0  # of the head that `_counted` is part of
    _counted: object = None
    _head_complete = False
    _in_chunk = False  # of a chunked body; trailers are part of its last one
    _head_timer: asyncio.TimerHandle | None = None
    _whole = True  # nothing of a request's body is missing
    _body_timer: asyncio.TimerHandle | None = None
    _body_bytes = 0  # read since the timer was set
    _is_probe = False
    _leaving = False  # the server ends

    @classmethod
    def bounded_by(cls, *, head_max_bytes: int, connections_max: int) -> type[OneWriteProtocol]:
        bounds = {"head_max_bytes": head_max_bytes, "connections_max": connections_max, "unsent": []}
        return type(cls.__name__, (cls,), bounds)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        self.joining = joining = JoiningTransport(transport, self.loop, self.unsent)
        super().connection_made(cast("asyncio.Transport", joining))
        self.flow = Flow(self.transport, self.pipeline)
        timeout_s = HEAD_TIMEOUT_S
        if len(self.connections) > self.connections_max:
            if len(self.connections) > self.connections_max + SPARE_CONNECTIONS:
                self._refuse(503, self._no_room())
                return
            self._is_probe, timeout_s = True, PROBE_TIMEOUT_S
        self._head_timer = self.loop.call_later(timeout_s, self._head_is_late)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_complete:
            if self._head_timer is not None:
                self._head_ended()
            if not self._whole:
                self._body_came(len(data))
            return  # the usual case: a whole head on a connection that has spoken before
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)
        if self._counted is self.headers:
            self._head_bytes += len(data)
        else:  # it began somewhere in this read
            self._counted = self.headers
            self._head_bytes = 0 if self._in_chunk else len(data) - data.rfind(self.url)
        if self._head_bytes > self.head_max_bytes:
            self._refuse(431, f"Request line and headers must not exceed {self.head_max_bytes} bytes.")

    def on_message_begin(self) -> None:
        self._head_complete = self._whole = False
        super().on_message_begin()

    def on_message_complete(self) -> None:
        self._whole = True
        super().on_message_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_chunk:
            return  # a trailer
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._is_probe and not self._may_probe():
            return
        super().on_headers_complete()
        self._head_complete = True
        if self._is_probe or self._leaving:
            self.cycle.keep_alive = False

    def on_chunk_header(self) -> None:
        self._in_chunk, self._head_complete, self._counted = True, False, None

    def on_body(self, body: bytes) -> None:
        self._head_complete = True  # no trailers yet
        super().on_body(body)

    def on_chunk_complete(self) -> None:
        self._in_chunk, self._head_complete = False, True

    def shutdown(self) -> None:
        self._leaving = True
        if self._idle:
            self.loop.call_later(LAST_LOOK_S, self._leave)
        else:
            super().shutdown()

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

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_ended()
        self._body_ended()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self._head_ended()
        self._body_ended()
        self.joining.flush()
        self.transport = self.joining.bare
        super().handle_websocket_upgrade()

    def _head_ended(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        if not self._idle:  # the request before it is not answered
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)
            return
        self._refuse(408, f"The request's headers did not arrive within {HEAD_TIMEOUT_S:g} s.")

    def _body_came(self, size: int) -> None:
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
        if self._whole:
            return
        if cycle is not None and cycle.response_complete:
            self.transport.close()  # it has its answer, and goes on sending what nobody reads
        elif self.flow.read_paused or self._body_bytes >= BODY_BYTES_PER_S * BODY_LOOK_S:
            self._look_at_body()
        else:
            self._refuse(408, f"The request's body came at less than {BODY_BYTES_PER_S} bytes a second.")

    def _may_probe(self) -> bool:
        """This connection is one too many: it may ask how the server is, once. Else it is refused here."""
        if self.url.partition(b"?")[0] in PROBES:
            return True
        self._head_complete = False  # nothing of it is taken
        self._refuse(503, self._no_room())
        if self._idle:
            refused: Any = LastWord(self, 503, "")
            refused.response_complete = True
            self.cycle = refused  # what comes of its body is for nobody
        return False

    def _no_room(self) -> str:
        return f"This server has {self.connections_max} connections open, its limit."

    def _refuse(self, status: int, text: str) -> None:
        self._head_ended()
        self._body_ended()
        in_its_body = (self._head_complete or self._in_chunk) and not self._idle
        if in_its_body and self.pipeline:
            self.pipeline.popleft()  # the newest: its request will never be whole
        elif in_its_body or self._idle:
            self.end_with(status, text)
            return
        last: Any = LastWord(self, status, text)
        self.cycle = last
        self.pipeline.appendleft((last, self.app))
        self.flow.pause_reading()

    def end_with(self, status: int, text: str) -> None:
        """Refuse in plain text, and close the connection."""
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
