"""The direct way and WebSockets where access is guarded: the same protocols, with the question who asks before all else.

Laws
- Where nothing is guarded these classes are not there, and requests pay nothing for them.
- What a connection's headers came to is remembered while they stay the same, so that a client that repeats itself is
  checked by three comparisons: its headers, its right, its time. Rights are looked up per request.
- What has to wait for an issuer's keys goes by ASGI, which can wait.
- The Worker's paths are open to all, for WebSockets too: it sees the credentials, and whom it lets in is its own affair.
- A socket ends with the grant by which it was opened (1008). Its messages count against the quota as requests do, and one
  that is over it is not read until it is not.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import ClassVar

from perdure.api.access.guard import Access, bearer_of, need_of_object, need_of_socket, ticket_in
from perdure.api.door.http import problem_at_door
from perdure.api.http1.heads import Head, RawHeaders
from perdure.api.pages import Refused, for_object
from perdure.api.protocol.fast_path import FastPathProtocol
from perdure.api.protocol.http import HttpProtocol
from perdure.api.protocol.websocket import SocketProtocol
from perdure.schemas.access import NOBODY, Grant
from perdure.schemas.errors import PerdureError, Unauthenticated

LOOK_AGAIN_S = 3600.0
ASKED_S = 1.0


class AuthenticatedProtocol(FastPathProtocol):
    """Requests for objects, of those who may. `to` takes `access`, too."""

    recognizes = False  # each request is looked at
    access: ClassVar[Access]
    _grant: Grant | None = None  # of the request that is being read, and of what headers it was found
    _granted: RawHeaders | None = None
    _granted_head: Head

    def _head_read(self) -> None:
        headers, access = self.headers, self.access
        if b"ticket=" in self.url and not self.parser.head.switches:  # of no use here, and not to be logged
            path, _, query = self.url.partition(b"?")
            rest = ticket_in(query)[1]
            self.url = path + b"?" + rest if rest else path
        if self._grant is None or headers != self._granted or not access.current(self._grant):
            self._grant = None
            if access.pending(bearer_of(headers)) is not None and not self.parser.head.switches:
                HttpProtocol._head_read(self)
                return
        super()._head_read()

    def _read_head(self) -> Head:
        access, grant = self.access, self._grant
        need = need_of_object(self.parser.head.method.decode("ascii"), self.url.partition(b"?")[0])
        if grant is None:
            grant = access.authenticate(bearer_of(self.headers))
            access.permit(grant, need)
            self._granted_head = super()._read_head()._replace(principal=grant.principal)
            self._grant, self._granted = grant, self.headers
        else:
            access.permit(grant, need)
        head = self._granted_head
        access.charge(grant, 1, head.size or 0)
        return head

    def on_message_complete(self) -> None:
        exchange = self._exchange
        if exchange is not None and exchange.head.size is None and not exchange.response_complete:
            assert self._grant is not None
            try:
                self.access.charge(self._grant, 0, len(exchange.body))
            except PerdureError as error:
                exchange.respond(problem_at_door(error))
        super().on_message_complete()


class AuthenticatedSocketProtocol(SocketProtocol):
    """WebSockets, of those who may. `to` takes `access`, too."""

    access: ClassVar[Access]
    _grant = NOBODY
    _asks = ""  # who, as the object or the Worker is told
    _expiry: asyncio.TimerHandle | None = None

    def _admit(self, raw: RawHeaders, path: bytes, query: bytes) -> None:
        waits = self.access.pending(bearer_of(raw))
        if waits is None:
            self._decide(raw, path, query)
        else:
            waits.add_done_callback(partial(self._decide, raw, path, query))

    def _decide(self, raw: RawHeaders, path: bytes, query: bytes, _: object = None) -> None:
        if self._transport.is_closing():
            return
        access, bearer = self.access, bearer_of(raw)
        ticket, rest = ticket_in(query)
        try:
            if self.door.for_worker(path):
                grant = NOBODY  # whom the Worker lets in is its own affair
                self._asks = access.name_of(bearer)
            elif bearer is None and ticket is not None and for_object(path):
                grant = access.redeem(ticket, self._key_of(path))
            else:
                grant = access.authenticate(bearer)
            if path.startswith(b"/objects/"):
                access.permit(grant, need_of_socket(path))
                access.charge(grant, 1, 0)
                self._asks = grant.principal
        except (Refused, PerdureError) as error:
            self._respond(problem_at_door(error))
            return
        self._grant = grant
        self._watch_expiry()
        self._ask(raw, path, rest)

    def _key_of(self, path: bytes) -> str:
        try:
            return self.door.key_of(path)
        except (Refused, PerdureError):
            raise Unauthenticated from None  # whether it is there is not for everybody to know

    def _head(self, head: Head) -> Head:
        return super()._head(head)._replace(principal=self._asks)

    @property
    def principal(self) -> str:
        return self._grant.principal

    def _check_room(self, size_bytes: int) -> None:
        super()._check_room(size_bytes)
        if self._asking is None:  # what comes through the Worker counts against nobody, as its requests do
            self.access.charge(self._grant, 1, size_bytes)

    def _watch_expiry(self) -> None:
        left_s = self.access.left_s(self._grant)
        if left_s <= 0 and self._open:
            self.fail(1008, "the token has expired")
        elif left_s <= 0:
            self._expiry = self._loop.call_later(
                ASKED_S, self._watch_expiry
            )  # its object may still accept it
        elif left_s != float("inf"):
            self._expiry = self._loop.call_later(min(left_s, LOOK_AGAIN_S), self._watch_expiry)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        super().connection_lost(exc)
