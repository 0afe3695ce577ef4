"""The fast path and WebSockets with access control: the same protocols, which first check the client's
credentials.

A node uses these classes if tokens or an issuer are configured. The check finds the client's grant, which
holds its principal and its rights (api/access/guard.py).

Laws [test_access.py]
- Without access control these classes are not used, and requests pay nothing for them.
- The grant of a connection is remembered while its headers stay the same. A client that repeats its headers
  is checked by three comparisons: the headers, the right, the expiry. Rights are looked up for each request.
- A request that has to wait for an issuer's keys takes ASGI, which can wait.
- The Worker's paths are open to all clients, for WebSockets too: the Worker sees the credentials and decides.
- A socket ends with the grant that opened it (1008). Its messages count against the quota as requests do; a
  socket that is over its quota is not read until it is below it again.
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
ANSWER_PENDING_S = 1.0


class AuthenticatedProtocol(FastPathProtocol):
    """The fast path with access control; `to` takes `access` too."""

    recognizes = False  # the head of each request is checked
    access: ClassVar[Access]
    _grant: Grant | None = None  # of the request that is being read, found by the headers `_granted`
    _granted: RawHeaders | None = None
    _granted_head: Head

    def _head_read(self) -> None:
        headers, access = self.headers, self.access
        if (
            b"ticket=" in self.url and not self.parser.head.switches
        ):  # a ticket is for WebSockets only, and must not be logged
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
    """WebSockets with access control; `to` takes `access` too."""

    access: ClassVar[Access]
    _grant = NOBODY
    _client = ""  # the principal that the object or the Worker sees
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
                grant = NOBODY  # the Worker decides
                self._client = access.name_of(bearer)
            elif bearer is None and ticket is not None and for_object(path):
                grant = access.redeem(ticket, self._key_of(path))
            else:
                grant = access.authenticate(bearer)
            if path.startswith(b"/objects/"):
                access.permit(grant, need_of_socket(path))
                access.charge(grant, 1, 0)
                self._client = grant.principal
        except (Refused, PerdureError) as error:
            self._respond(problem_at_door(error))
            return
        self._grant = grant
        self._watch_expiry()
        self._submit(raw, path, rest)

    def _key_of(self, path: bytes) -> str:
        try:
            return self.door.key_of(path)
        except (Refused, PerdureError):
            raise Unauthenticated from None  # must not reveal if the object exists

    def _head(self, head: Head) -> Head:
        return super()._head(head)._replace(principal=self._client)

    @property
    def principal(self) -> str:
        return self._grant.principal

    def _check_room(self, size_bytes: int) -> None:
        super()._check_room(size_bytes)
        if self._worker_task is None:  # the Worker's sockets have no quota, and neither have its requests
            self.access.charge(self._grant, 1, size_bytes)

    def _watch_expiry(self) -> None:
        left_s = self.access.left_s(self._grant)
        if left_s <= 0 and self._open:
            self.fail(1008, "the token has expired")
        elif left_s <= 0:
            self._expiry = self._loop.call_later(
                ANSWER_PENDING_S, self._watch_expiry
            )  # its object may still accept it
        elif left_s != float("inf"):
            self._expiry = self._loop.call_later(min(left_s, LOOK_AGAIN_S), self._watch_expiry)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        super().connection_lost(exc)
