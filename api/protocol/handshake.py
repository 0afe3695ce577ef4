"""The handshake of a WebSocket: from the request for an upgrade to the 101, or to another response.

An upgrade at a path of an object becomes a command for that object. At any other path it is the Worker's,
which may pass it on to an object (api/sockets/relay.py). `websocket.py` continues from the 101.

Laws [test_websockets.py]
- A page of another site is refused (api/access/origins.py), at each path.
- A handshake that is not valid by RFC 6455 is refused with a reason: 400, 405 for another method than GET,
  426 for another version. No bytes may follow it before it is answered.
- The answer decides: 101 accepts, any other is the HTTP response. If an object has accepted a socket whose
  connection has ended meanwhile, an event closes it there.
- A socket's id is made when the object or the Worker is called, so that it is one of the gateway's current
  name.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import re
from abc import abstractmethod
from typing import Any, ClassVar, Self

from websockets.protocol import SERVER, State
from websockets.protocol import Protocol as Frames

from perdure.api.door.http import (
    HttpDoor,
    not_exposed,
    problem_at_door,
)
from perdure.api.http1.heads import Head, RawHeaders, RequestHead, read_head, whole_request
from perdure.api.http1.status_lines import STATUS_LINES
from perdure.api.pages import Refused, not_allowed
from perdure.api.problems import Problem, problem
from perdure.api.replies import PlacedReply
from perdure.api.sockets.registry import SocketRegistry
from perdure.api.sockets.relay import SocketRelay
from perdure.api.worker.worker import Worker
from perdure.schemas.errors import OutcomeUnknown, PerdureError
from perdure.schemas.replies import Pairs
from perdure.schemas.statuses import UPGRADE_REQUIRED

_HANDSHAKE = ("sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions")
_KEY_NAME, _VERSION_NAME = b"sec-websocket-key", b"sec-websocket-version"
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")  # 16 bytes
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
# at the level `debug` the package would log each frame with its contents
_SILENT = logging.Logger("websockets", logging.CRITICAL + 1)  # noqa: LOG001 - outside of the configured tree
_FRAMING = frozenset(
    ("upgrade", "connection", "content-length", "sec-websocket-accept", "sec-websocket-extensions")
)


class Handshake(asyncio.Protocol):
    """The part of a WebSocket connection before it is open; `SocketProtocol` (websocket.py) adds the rest."""

    door: ClassVar[HttpDoor]
    sockets: ClassVar[SocketRegistry]
    position: int
    auto: tuple[str, bytes] | None
    _transport: asyncio.Transport

    @classmethod
    def to(cls, door: HttpDoor, sockets: SocketRegistry, **more: Any) -> type[Self]:
        """A subclass for the door and the sockets of a node; `more` are further attributes of the class."""
        return type(cls.__name__, (cls,), {"door": door, "sockets": sockets, **more})

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._conn = Frames(SERVER, state=State.OPEN, max_size=self.door.body_bytes, logger=_SILENT)
        self._accept = b""
        self.switched = False  # True once the client has its 101
        self._number, self.id, self.key = -1, "", ""  # until its object is known
        self._answer_pending = False  # the object or the Worker was called, and has not answered
        self._over = False  # its object knows of the end, or will by an event
        self._lost: asyncio.Future[None] = self._loop.create_future()  # done when the connection is lost
        self._worker_task: asyncio.Task[None] | None = None  # runs the Worker

    @property
    def principal(self) -> str:
        """The client that sends its messages; empty without access control."""
        return ""

    def open(self, head: RequestHead, rest: bytes) -> None:
        """Take over the connection of a request for a WebSocket; `rest` is what followed its head."""
        self._pause()
        path, _, query = head.url.partition(b"?")
        try:
            self._accept = _accept_of(head)
            self.door.origins.check("GET", path, head.headers, socket=True)
        except Refused as error:
            self._respond(problem_at_door(error))
            return
        self._admit(head.headers, path, query)
        if rest and not self._transport.is_closing():
            self.data_received(rest)

    def _admit(self, raw: RawHeaders, path: bytes, query: bytes) -> None:
        """Check the client, then ask the object or the Worker; without access control there is no check."""
        self._submit(raw, path, query)

    def _submit(self, raw: RawHeaders, path: bytes, query: bytes) -> None:
        """Pass the request to the object, or to the Worker."""
        raw = [each for each in raw if each[0].decode() not in _HANDSHAKE]
        try:
            head = self._head(read_head(raw))
            if not path.startswith(b"/objects/"):
                self._ask_worker(self.door.worker_for(path), head, raw, path, query)
                return
            if self.door.closed:
                raise not_exposed()
            key = self.door.key_of(path)
            self._identify(key, *self.sockets.new_id())
            self._answer_pending = True
            self.door.submit(self, "GET", path, query, head, b"", f"{self.id} {self.sockets.address}")
        except (Refused, PerdureError) as error:
            self._respond(problem_at_door(error))

    def _head(self, head: Head) -> Head:
        return head._replace(headers=(*head.headers, ("upgrade", "websocket")), client_key=None)

    def _identify(self, key: str, number: int, id_: str) -> None:
        """Note the identity of this socket: its object, number and id."""
        self.key, self._number, self.id = key, number, id_

    # The object's answer

    def answered(self, answer: PlacedReply) -> None:
        self._answer_pending = False
        reply = answer.reply
        accepted = reply.error is None and reply.status == 101
        if self._transport.is_closing():  # the client is gone
            if accepted:
                self._end(1006, "the connection broke", clean=False)
        elif accepted:
            self._switch((*reply.headers, ("perdure-command", f"{answer.partition}:{answer.offset}")))
            self._opened()
        else:
            self._respond(self.door.response_to(answer))

    def failed(self, error: BaseException) -> None:
        self._answer_pending = False
        assert isinstance(error, PerdureError), error
        if isinstance(error, OutcomeUnknown):
            self._end(1006, "it is not known whether the socket was accepted", clean=False)
        if not self._transport.is_closing():
            self._respond(problem_at_door(error))

    # The Worker's answer

    def _ask_worker(self, worker: Worker, head: Head, raw: RawHeaders, path: bytes, query: bytes) -> None:
        request = whole_request(
            "GET", path, query, raw, b"", ("upgrade", "websocket"), principal=head.principal
        )
        self._answer_pending = True
        self._resume()  # to notice if the client closes the connection
        self._worker_task = self._loop.create_task(self._by_worker(worker, request, head.traceparent))

    async def _by_worker(self, worker: Worker, request: Any, traceparent: str) -> None:
        relay = SocketRelay(self.sockets)
        try:
            status, headers, body = await worker.answer(
                request, None, traceparent, asyncio.shield(self._lost), relay
            )
            self._answer_pending = False
            if self._transport.is_closing():
                return
            accepted = relay.take() if status == 101 else None
            if accepted is None:
                self._respond((status, headers, body))
                return
            self._identify(accepted.key, accepted.number, accepted.id)
            self._switch(tuple((name.decode(), value.decode("latin-1")) for name, value in headers))
            self._opened()
            accepted.give(self)
        finally:
            relay.drop()
            if self._answer_pending:
                self._transport.abort()

    # The response to the client

    def _switch(self, pairs: Pairs) -> None:
        """Send the 101; `_opened` is called next."""
        more = [
            b"%b: %b\r\n" % (name.encode(), value.encode("latin-1"))
            for name, value in pairs
            if name.lower() not in _FRAMING
        ]
        self._transport.write(
            b"".join((_SWITCH, b"sec-websocket-accept: %b\r\n" % self._accept, *more, b"\r\n"))
        )
        self.switched = True
        self.door.count(101)

    def _respond(self, response: Problem) -> None:
        """Send an HTTP response instead of a WebSocket."""
        status, headers, body = response
        self._answer_pending, self._over = False, True
        self.door.count(status)
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        end = b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        self._transport.write(STATUS_LINES[status] + lines + end)
        self._transport.close()

    # What api/protocol/websocket.py does

    @abstractmethod
    def _opened(self) -> None: ...

    @abstractmethod
    def _end(self, code: int, reason: str, *, clean: bool) -> None: ...

    @abstractmethod
    def _pause(self) -> None: ...

    @abstractmethod
    def _resume(self) -> None: ...

    @abstractmethod
    def _flush_and_close(self) -> None: ...

    # As a `SocketConnection`

    @abstractmethod
    def write(self, data: bytes) -> None: ...

    @abstractmethod
    def close(self, code: int, reason: str) -> None: ...

    @abstractmethod
    def fail(self, code: int, reason: str) -> None: ...

    @abstractmethod
    def ended(self) -> None: ...

    @abstractmethod
    def lost(self, error: BaseException) -> None: ...

    @abstractmethod
    def ping(self) -> None: ...


def _accept_of(head: RequestHead) -> bytes:
    """The answer to the key of a handshake (RFC 6455 §4.2). Raises `Refused` for an invalid handshake."""
    fields = [(name, value) for name, value in head.headers if name in (_KEY_NAME, _VERSION_NAME)]
    keys, versions = (
        [value for name, value in fields if name == each] for each in (_KEY_NAME, _VERSION_NAME)
    )
    if head.method != b"GET":
        raise not_allowed("a WebSocket is opened with GET", "GET")
    if len(versions) > 1 or len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        what = "one Sec-WebSocket-Version, and one Sec-WebSocket-Key of 16 bytes in base64"
        raise Refused(problem("bad-request", f"a WebSocket's handshake has {what}", status=400))
    if versions != [b"13"]:
        status, headers, body = problem(
            UPGRADE_REQUIRED, "this server speaks version 13 of WebSockets", status=426
        )
        raise Refused((status, [*headers, (b"sec-websocket-version", b"13")], body))
    return base64.b64encode(hashlib.sha1(keys[0] + _GUID, usedforsecurity=False).digest())
