"""Tickets: a page in a browser cannot set a header on a WebSocket, so it shows one of these in the address instead.

Laws
- A ticket opens one socket, of one object, for one principal, within `TICKET_S`; it is no use for anything else.
- It is signed with a secret of this start of this node: no other node takes it, nor this one after a restart.
- Used ones are remembered until they have expired. There is a bound to that, and over it none is taken.
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
    """Makes tickets and takes them back. `secret` and `new_nonce` are random, and nobody else's."""

    def __init__(self, secret: bytes, new_nonce: Callable[[], str], used_max: int = USED_MAX) -> None:
        self._secret = secret
        self._new_nonce = new_nonce
        self._used: dict[str, float] = {}  # nonce → when it has expired
        self._used_max = used_max

    def make(self, grant: Grant, key: str, now_s: float) -> str:
        """A ticket for object `key`, for who has `grant`."""
        expires_s = grant.expires_s if grant.expires_s != float("inf") else None
        until_s = min(now_s + TICKET_S, grant.expires_s)
        payload = _encode(_Ticket(key, grant.principal, until_s, expires_s, self._new_nonce()))
        return base64.urlsafe_b64encode(self._mac(payload) + payload).rstrip(b"=").decode()

    def redeem(self, ticket: bytes, key: str, now_s: float) -> Grant:
        """Who shows it. Raises `Unauthenticated` for one that does not count, `Overloaded` over the bound."""
        made = self._opened(ticket)
        if made.key != key or made.until_s <= now_s:
            raise Unauthenticated
        self._forget(now_s)
        if made.nonce in self._used:
            raise Unauthenticated
        if len(self._used) >= self._used_max:
            raise Overloaded("too many tickets were used within their time: ask again")
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
        return _decode(payload)  # ours: it bears our signature

    def _forget(self, now_s: float) -> None:
        for nonce, until_s in list(self._used.items()):
            if until_s > now_s:
                break
            del self._used[nonce]

    def _mac(self, payload: bytes) -> bytes:
        return hmac.digest(self._secret, payload, sha256)
