"""The beginning of a WebSocket: who may, who is asked, and what comes of it.

A path of an object is for that object; any other is the Worker's, which may pass the upgrade on to an object
(api/sockets/relay.py).

Laws
- A page of another site is refused (api/access/origins.py), whoever would have answered.
- A handshake that RFC 6455 does not have is refused with what is wrong: 400, 405 for another method than GET, 426 for
  another version. Nothing may come behind it before it is answered.
- The answer decides: 101 accepts, anything else is the HTTP response. A socket that its object accepted and that ended
  before it could be told is closed there by an event.
- Its id is made when somebody is asked, so that it is one of the gateway as it is then.
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
from perdure.objects.sockets import UPGRADE_REQUIRED
from perdure.schemas.errors import OutcomeUnknown, PerdureError
from perdure.schemas.replies import Pairs

_HANDSHAKE = ("sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions")
_KEY_NAME, _VERSION_NAME = b"sec-websocket-key", b"sec-websocket-version"
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")  # 16 bytes
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
# at the level `debug` the package would log each frame with what is in it
_SILENT = logging.Logger("websockets", logging.CRITICAL + 1)  # noqa: LOG001 - of nobody else, whatever is configured
_FRAMING = frozenset(
    ("upgrade", "connection", "content-length", "sec-websocket-accept", "sec-websocket-extensions")
)


class Handshake(asyncio.Protocol):
    """What comes before a socket is open. `api/protocol/websocket.py` has the rest of the connection."""

    door: ClassVar[HttpDoor]
    sockets: ClassVar[SocketRegistry]
    position: int
    auto: tuple[str, bytes] | None
    _transport: asyncio.Transport

    @classmethod
    def to(cls, door: HttpDoor, sockets: SocketRegistry, **more: Any) -> type[Self]:
        return type(cls.__name__, (cls,), {"door": door, "sockets": sockets, **more})

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._conn = Frames(SERVER, state=State.OPEN, max_size=self.door.body_bytes, logger=_SILENT)
        self._accept = b""
        self.switched = False  # the client has its 101
        self._number, self.id, self.key = -1, "", ""  # until its object is known
        self._asked = False  # the object or the Worker was asked, and has not answered
        self._over = False  # its object knows, or is being told
        self._lost: asyncio.Future[None] = self._loop.create_future()  # done when the connection is
        self._asking: asyncio.Task[None] | None = None  # the Worker

    @property
    def principal(self) -> str:
        """Who sends its messages: nobody who is known, where access is not guarded."""
        return ""

    def open(self, head: RequestHead, rest: bytes) -> None:
        """Take over the connection of a request for a WebSocket; `rest` came behind its head."""
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
        """May it? Here whoever comes may."""
        self._ask(raw, path, query)

    def _ask(self, raw: RawHeaders, path: bytes, query: bytes) -> None:
        """Ask the object, or the Worker."""
        raw = [each for each in raw if each[0].decode() not in _HANDSHAKE]
        try:
            head = self._head(read_head(raw))
            if not path.startswith(b"/objects/"):
                self._ask_worker(self.door.worker_for(path), head, raw, path, query)
                return
            if self.door.closed:
                raise not_exposed()
            key = self.door.key_of(path)
            self._is(key, *self.sockets.new_id())
            self._asked = True
            self.door.ask(self, "GET", path, query, head, b"", f"{self.id} {self.sockets.address}")
        except (Refused, PerdureError) as error:
            self._respond(problem_at_door(error))

    def _head(self, head: Head) -> Head:
        return head._replace(headers=(*head.headers, ("upgrade", "websocket")), client_key=None)

    def _is(self, key: str, number: int, id_: str) -> None:
        """It is, or is to be, this socket of object `key`."""
        self.key, self._number, self.id = key, number, id_

    # What the object answers

    def answered(self, answer: PlacedReply) -> None:
        self._asked = False
        reply = answer.reply
        accepted = reply.error is None and reply.status == 101
        if self._transport.is_closing():  # gone, or too late
            if accepted:
                self._end(1006, "the connection broke", clean=False)
        elif accepted:
            self._switch((*reply.headers, ("perdure-command", f"{answer.partition}:{answer.offset}")))
            self._opened()
        else:
            self._respond(self.door.response_to(answer))

    def failed(self, error: BaseException) -> None:
        self._asked = False
        assert isinstance(error, PerdureError), error
        if isinstance(error, OutcomeUnknown):
            self._end(1006, "it is not known whether the socket was accepted", clean=False)
        if not self._transport.is_closing():
            self._respond(problem_at_door(error))

    # What the Worker answers

    def _ask_worker(self, worker: Worker, head: Head, raw: RawHeaders, path: bytes, query: bytes) -> None:
        request = whole_request(
            "GET", path, query, raw, b"", ("upgrade", "websocket"), principal=head.principal
        )
        self._asked = True
        self._resume()  # so that it is noticed if the client goes
        self._asking = self._loop.create_task(self._by_worker(worker, request, head.traceparent))

    async def _by_worker(self, worker: Worker, request: Any, traceparent: str) -> None:
        passing = SocketRelay(self.sockets)
        try:
            status, headers, body = await worker.answer(
                request, None, traceparent, asyncio.shield(self._lost), passing
            )
            self._asked = False
            if self._transport.is_closing():
                return
            accepted = passing.take() if status == 101 else None
            if accepted is None:
                self._respond((status, headers, body))
                return
            self._is(accepted.key, accepted.number, accepted.id)
            self._switch(tuple((name.decode(), value.decode("latin-1")) for name, value in headers))
            self._opened()
            accepted.give(self)
        finally:
            passing.drop()
            if self._asked:
                self._transport.abort()

    # What the client is told

    def _switch(self, pairs: Pairs) -> None:
        """It has its WebSocket; `_opened` comes next."""
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

    def _respond(self, told: Problem) -> None:
        """An HTTP response instead of a WebSocket."""
        status, headers, body = told
        self._asked, self._over = False, True
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
    """What answers the key of a handshake (RFC 6455 4.2). Raises `Refused` for one that is none."""
    said = [(name, value) for name, value in head.headers if name in (_KEY_NAME, _VERSION_NAME)]
    keys, versions = ([value for name, value in said if name == each] for each in (_KEY_NAME, _VERSION_NAME))
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
