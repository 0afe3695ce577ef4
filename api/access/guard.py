"""Access control: finds the grant of a request's credentials, and checks that it has the right that the path
needs.

`Access` is called by the connection (api/protocol/authenticated.py) or by the door (api/door/http.py), before
the body of a request is read. The functions beside it say which right a path needs.

Laws [test_access.py]
- There is an `Access` only if tokens or an issuer are configured. Then every path needs a right, except those
  in `OPEN` and those of the Worker. Without one nothing is checked, at no cost.
- The decision uses the bytes by which the request then continues: no path is read twice in two ways.
- A token is compared with all known tokens, in constant time.
- 401: the credentials are not valid. 403: they lack the right. 429: their quota is used up. All are decided
  before an append, and before it is known if the object exists. No text says which part of a credential was
  wrong.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from types import MappingProxyType
from typing import Protocol

from perdure.api.access.quotas import Quotas
from perdure.api.access.tickets import Tickets
from perdure.schemas.access import (
    ADMIN,
    CALL,
    KNOWN,
    METRICS,
    NOBODY,
    READ,
    SUBSCRIBE,
    TOKEN_PREFIX,
    Grant,
    Need,
    Token,
    may,
)
from perdure.schemas.errors import Forbidden, Unauthenticated, Unavailable

RawHeaders = Sequence[tuple[bytes, bytes]]
_TOKEN = TOKEN_PREFIX.encode()

# perdure's own paths, by their first part, and the right that each needs; None: open to all. Some are
# reserved only. Those of objects need a further right (`need_of_object`). The Worker gets none of these
# paths.
PAGES: Mapping[str, str | None] = MappingProxyType(
    {
        "livez": None,
        "readyz": None,
        "metrics": METRICS,
        "admin": ADMIN,
        "console": ADMIN,
        "commands": KNOWN,
        "ticket": KNOWN,
        "docs": KNOWN,
        "openapi.json": KNOWN,
        "asyncapi.json": KNOWN,
        "objects": KNOWN,
        "rpc": KNOWN,
    }
)
# which of them, it does not say
_NOT_ACCEPTED = "the credentials that were sent are not valid here: unknown, expired or revoked"
OWN = frozenset(PAGES)
OPEN = frozenset(name for name, verb in PAGES.items() if verb is None)


class TokenIssuer(Protocol):
    """The check of tokens that an external issuer signs (api/access/jwts.py)."""

    def pending(self, token: bytes) -> asyncio.Task[None] | None:
        """A task to wait for before `grant` can decide; None if it can decide now."""

    def grant(self, token: bytes) -> Grant:
        """The grant of a token. Raises `Unauthenticated` or `Unavailable`."""


def need_of_object(method: str, raw_path: bytes) -> Need:
    """The right that a request for an object needs; `raw_path` begins with /objects/ or /rpc/."""
    parts = raw_path.split(b"/", 3)
    reads = parts[1] == b"objects" and method in ("GET", "HEAD")
    return Need(READ if reads else CALL, parts[2].decode("latin-1"))


def need_of_socket(raw_path: bytes) -> Need:
    """The right that an upgrade to a WebSocket needs."""
    return Need(SUBSCRIBE, raw_path.split(b"/", 3)[2].decode("latin-1"))


def need_of_page(name: str, *, has_worker: bool) -> Need | None:
    """The right that a path outside of objects needs, by its first part; None if it is open to all."""
    verb = PAGES.get(name, None if has_worker else KNOWN)
    return None if verb is None else Need(verb)


def bearer_of(headers: RawHeaders) -> bytes | None:
    """The bearer token in a request's headers; None without credentials, empty if they cannot be valid."""
    values = [value for name, value in headers if name == b"authorization"]
    if not values:
        return None
    scheme, _, token = values[0].partition(b" ")
    return token.strip() if len(values) == 1 and scheme.lower() == b"bearer" else b""


def ticket_in(query: bytes) -> tuple[bytes | None, bytes]:
    """The ticket in a query (None without one, empty if it cannot be valid), and the query without it."""
    if b"ticket=" not in query:
        return None, query
    parts = query.split(b"&")
    tickets = [part[7:] for part in parts if part.startswith(b"ticket=")]
    rest = b"&".join([part for part in parts if not part.startswith(b"ticket=")])
    return (None if not tickets else tickets[0] if len(tickets) == 1 else b""), rest


class Access:
    """The access control of one node.

    Args:
        tokens: the configured tokens with their grants.
        issued: the check of an issuer's tokens; None if no issuer is configured.
        quotas: the quotas of principals.
        tickets: makes and redeems tickets for WebSockets.
        clock_s: the wall clock, seconds since 1970.
        open_objects: True if objects are open to requests without credentials.
    """

    def __init__(
        self,
        tokens: Sequence[Token],
        issued: TokenIssuer | None,
        quotas: Quotas,
        tickets: Tickets,
        *,
        clock_s: Callable[[], float],
        open_objects: bool = False,
    ) -> None:
        self._tokens = [(bytes.fromhex(token.sha256), token.grant) for token in tokens]
        self._names = frozenset(token.name for token in tokens)
        self._issued = issued
        self._quotas = quotas
        self._tickets = tickets
        self._clock_s = clock_s
        self._open_objects = open_objects

    def pending(self, bearer: bytes | None) -> asyncio.Task[None] | None:
        """A task to wait for before `authenticate` can decide; None if it can decide now."""
        if self._issued is None or not bearer or bearer.startswith(_TOKEN):
            return None
        return self._issued.pending(bearer)

    def authenticate(self, bearer: bytes | None) -> Grant:
        """The grant of a bearer token. Raises `Unauthenticated`, or `Unavailable` if it cannot be checked."""
        if bearer is None and self._open_objects:
            return NOBODY
        if bearer is None:
            raise Unauthenticated
        grant: Grant | None = None
        if bearer.startswith(_TOKEN):
            digest = sha256(bearer).digest()
            for known, each in self._tokens:
                if hmac.compare_digest(known, digest):
                    grant = each
        elif self._issued is not None and bearer:
            grant = self._issued_grant(bearer)
            if grant.principal in self._names:
                grant = None  # an issuer cannot use the name of a token
        if grant is None or grant.expires_s <= self._clock_s():
            raise Unauthenticated(_NOT_ACCEPTED)
        return grant

    def _issued_grant(self, bearer: bytes) -> Grant:
        assert self._issued is not None
        try:
            return self._issued.grant(bearer)
        except Unauthenticated:
            raise Unauthenticated(_NOT_ACCEPTED) from None

    def current(self, grant: Grant) -> bool:
        """True if a grant that was found earlier may still be used without a new check."""
        return grant.recheck_s > self._clock_s()

    def permit(self, grant: Grant, need: Need) -> None:
        """Raises `Unauthenticated` for a grant that has expired, `Forbidden` for one without the right."""
        if grant.expires_s <= self._clock_s():
            raise Unauthenticated
        if not may(grant, need):
            if not grant.principal:
                raise Unauthenticated
            right = f"{need.verb}:{need.namespace[:64]}" if need.namespace else need.verb
            raise Forbidden(
                f"this needs the right {right}, which {grant.principal} does not have: give it that scope"
            )

    def charge(self, grant: Grant, requests: int, body_bytes: int) -> None:
        """Count a request against the quota of its principal. Raises `OverQuota`; then nothing is counted."""
        self._quotas.take(grant.principal, time.monotonic(), requests=requests, body_bytes=body_bytes)

    async def admit(self, headers: RawHeaders, need: Need) -> Grant:
        """The grant of a request that has the right. Raises as `authenticate` and `permit` do."""
        grant = self.authenticate(await self._bearer(headers))
        self.permit(grant, need)
        return grant

    async def principal_of(self, headers: RawHeaders) -> str:
        """The principal of a request that needs no right; empty if it has no valid credentials."""
        return self.name_of(await self._bearer(headers))

    async def _bearer(self, headers: RawHeaders) -> bytes | None:
        """The bearer token, once `authenticate` can decide about it."""
        bearer = bearer_of(headers)
        if (waits := self.pending(bearer)) is not None:
            await asyncio.wait((waits,))
        return bearer

    def name_of(self, bearer: bytes | None) -> str:
        """As `principal_of`, for a token about which `authenticate` can decide now."""
        try:
            return self.authenticate(bearer).principal
        except (Unauthenticated, Unavailable):
            return ""

    def ticket(self, grant: Grant, key: str) -> str:
        """A ticket for a WebSocket of object `key`."""
        return self._tickets.make(grant, key, self._clock_s())

    def redeem(self, ticket: bytes, key: str) -> Grant:
        """The grant of a ticket. Raises `Unauthenticated`, or `Overloaded` if too many tickets are in use."""
        return self._tickets.redeem(ticket, key, self._clock_s())

    def left_s(self, grant: Grant) -> float:
        """Seconds until a grant expires."""
        return grant.expires_s - self._clock_s()
