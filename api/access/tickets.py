"""Tickets: short-lived credentials for one WebSocket, which a page sends in the address.

A page in a browser cannot set the header `Authorization` of a WebSocket. It requests a ticket
(ticket_page.py) and opens the socket with `?ticket=…`.

Laws [test_access.py]
- A ticket opens one socket of one object for one principal within `TICKET_S`, and has no other use.
- It is signed with a secret of this start of this node: other nodes refuse it, and so does this one after a
  restart.
- Used tickets are remembered until they have expired, up to a bound. Above it, tickets are refused.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable
from hashlib import sha256

import msgspec

from perdure.schemas.access import SUBSCRIBE, Grant
from perdure.schemas.errors import Overloaded, Unauthenticated
from perdure.schemas.keys import namespace_of

TICKET_S = 30
USED_MAX = 100_000
_MAC_BYTES = 32
_MAX_CHARS = 4096


class _Ticket(msgspec.Struct, array_like=True):
    key: str
    principal: str
    until_s: float
    expires_s: float | None  # of the token that it was made with
    nonce: str


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Ticket).decode


class Tickets:
    """Makes and redeems tickets. `secret` and `new_nonce` are random and known to this node only."""

    def __init__(self, secret: bytes, new_nonce: Callable[[], str], used_max: int = USED_MAX) -> None:
        self._secret = secret
        self._new_nonce = new_nonce
        self._used: dict[str, float] = {}  # nonce → when it has expired
        self._used_max = used_max

    def make(self, grant: Grant, key: str, now_s: float) -> str:
        """A ticket for a WebSocket of object `key`, with the principal of `grant`."""
        expires_s = grant.expires_s if grant.expires_s != float("inf") else None
        until_s = min(now_s + TICKET_S, grant.expires_s)
        payload = _encode(_Ticket(key, grant.principal, until_s, expires_s, self._new_nonce()))
        return base64.urlsafe_b64encode(self._mac(payload) + payload).rstrip(b"=").decode()

    def redeem(self, ticket: bytes, key: str, now_s: float) -> Grant:
        """The grant of a ticket. Raises `Unauthenticated` if invalid, `Overloaded` above the bound."""
        made = self._opened(ticket)
        if made.key != key or made.until_s <= now_s:
            raise Unauthenticated
        self._forget(now_s)
        if made.nonce in self._used:
            raise Unauthenticated
        if len(self._used) >= self._used_max:
            raise Overloaded("too many tickets are in use: try again")
        self._used[made.nonce] = made.until_s
        expires_s = float("inf") if made.expires_s is None else made.expires_s
        return Grant(made.principal, frozenset((f"{SUBSCRIBE}:{namespace_of(key)}",)), expires_s)

    def _opened(self, ticket: bytes) -> _Ticket:
        if len(ticket) > _MAX_CHARS:
            raise Unauthenticated
        try:
            raw = base64.b64decode(ticket + b"=" * (-len(ticket) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise Unauthenticated from None
        mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(payload)):
            raise Unauthenticated
        return _decode(payload)  # made here: the signature is right

    def _forget(self, now_s: float) -> None:
        for nonce, until_s in list(self._used.items()):
            if until_s > now_s:
                break
            del self._used[nonce]

    def _mac(self, payload: bytes) -> bytes:
        return hmac.digest(self._secret, payload, sha256)
