"""Who may do what at the doors of this node: credentials → a grant, a request → the right it needs, yes or no.

Laws
- There is an `Access` only if tokens or an issuer are configured; then every path needs a right but those in `OPEN` and
  those that are the Worker's. Without one nothing is checked, and nothing is paid for it.
- The decision is made from the request's own bytes, those by which it then goes on: no path is read twice in two ways.
- A token is compared with all that are known, in constant time.
- 401: it is not known who asks. 403: it is, and that one may not. 429: more than its quota. All before an append, and
  before it is known whether there is such an object. No text says which part of a credential was wrong.
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

# perdure's own paths, by their first part, there already or not, and the right that each needs; None: open to all.
# Those of objects need more (`need_of_object`); the Worker never gets any of these.
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
OWN = frozenset(PAGES)
OPEN = frozenset(name for name, verb in PAGES.items() if verb is None)


class TokenIssuer(Protocol):
    """Tokens that somebody else issues (api/access/jwts.py)."""

    def pending(self, token: bytes) -> asyncio.Task[None] | None:
        """What to wait for before `grant` can tell; None: it can."""

    def grant(self, token: bytes) -> Grant:
        """Who brings it. Raises `Unauthenticated` or `Unavailable`."""


def need_of_object(method: str, raw_path: bytes) -> Need:
    """The right that a request for an object needs; `raw_path` begins with /objects/ or /rpc/."""
    parts = raw_path.split(b"/", 3)
    reads = parts[1] == b"objects" and method in ("GET", "HEAD")
    return Need(READ if reads else CALL, parts[2].decode("latin-1"))


def need_of_socket(raw_path: bytes) -> Need:
    """The right that an upgrade to a WebSocket needs."""
    return Need(SUBSCRIBE, raw_path.split(b"/", 3)[2].decode("latin-1"))


def need_of_page(name: str, *, has_worker: bool) -> Need | None:
    """The right that a path of no object needs, by its first part; None: everybody may."""
    verb = PAGES.get(name, None if has_worker else KNOWN)
    return None if verb is None else Need(verb)


def bearer_of(headers: RawHeaders) -> bytes | None:
    """The bearer token in a request's headers; None: no credentials; empty: some that cannot count."""
    found = [value for name, value in headers if name == b"authorization"]
    if not found:
        return None
    scheme, _, token = found[0].partition(b" ")
    return token.strip() if len(found) == 1 and scheme.lower() == b"bearer" else b""


def ticket_in(query: bytes) -> tuple[bytes | None, bytes]:
    """The ticket in a query (None: none, empty: one that cannot count), and the query without it."""
    if b"ticket=" not in query:
        return None, query
    parts = query.split(b"&")
    found = [part[7:] for part in parts if part.startswith(b"ticket=")]
    rest = b"&".join([part for part in parts if not part.startswith(b"ticket=")])
    return (None if not found else found[0] if len(found) == 1 else b""), rest


class Access:
    """What one node knows of who may what. `clock_s` is the wall clock, seconds since 1970.

    `open_objects`: objects are there for who brings no credentials too.
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
        """What to wait for before `authenticate` can tell; None: it can."""
        if self._issued is None or not bearer or bearer.startswith(_TOKEN):
            return None
        return self._issued.pending(bearer)

    def authenticate(self, bearer: bytes | None) -> Grant:
        """Who asks. Raises `Unauthenticated`, or `Unavailable` if that cannot be checked."""
        if bearer is None and self._open_objects:
            return NOBODY
        if not bearer:
            raise Unauthenticated
        grant: Grant | None = None
        if bearer.startswith(_TOKEN):
            digest = sha256(bearer).digest()
            for known, each in self._tokens:
                if hmac.compare_digest(known, digest):
                    grant = each
        elif self._issued is not None:
            grant = self._issued.grant(bearer)
            if grant.principal in self._names:
                grant = None  # a token's name is not to be had from an issuer
        if grant is None or grant.expires_s <= self._clock_s():
            raise Unauthenticated
        return grant

    def current(self, grant: Grant) -> bool:
        """May what was found out before still be used?"""
        return grant.recheck_s > self._clock_s()

    def permit(self, grant: Grant, need: Need) -> None:
        """Raises `Unauthenticated` for a grant that has ended, `Forbidden` for one without the right."""
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
        """Take so much from the quota of whoever asks. Raises `OverQuota`: nothing taken."""
        self._quotas.take(grant.principal, time.monotonic(), requests=requests, body_bytes=body_bytes)

    async def admit(self, headers: RawHeaders, need: Need) -> Grant:
        """Who asks, if that one may. Raises as `authenticate` and `permit` do."""
        grant = self.authenticate(await self._bearer(headers))
        self.permit(grant, need)
        return grant

    async def principal_of(self, headers: RawHeaders) -> str:
        """Who asks something that all may ask; empty if the credentials are nobody's that is known here."""
        return self.name_of(await self._bearer(headers))

    async def _bearer(self, headers: RawHeaders) -> bytes | None:
        """The bearer token, once nothing is to be waited for any more."""
        bearer = bearer_of(headers)
        if (waits := self.pending(bearer)) is not None:
            await asyncio.wait((waits,))
        return bearer

    def name_of(self, bearer: bytes | None) -> str:
        """As `principal_of`, when nothing is to be waited for."""
        try:
            return self.authenticate(bearer).principal
        except (Unauthenticated, Unavailable):
            return ""

    def ticket(self, grant: Grant, key: str) -> str:
        """A ticket for a WebSocket of object `key`."""
        return self._tickets.make(grant, key, self._clock_s())

    def redeem(self, ticket: bytes, key: str) -> Grant:
        """Who shows this ticket. Raises `Unauthenticated`."""
        return self._tickets.redeem(ticket, key, self._clock_s())

    def left_s(self, grant: Grant) -> float:
        """Seconds until a grant ends."""
        return grant.expires_s - self._clock_s()
