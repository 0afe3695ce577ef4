"""Access: the rights of principals, and the tables of a configuration that grant them.

The gateway turns a request's credentials into a `Grant` and the requested page or object into a `Need`; `may`
compares.

Laws
- A right that is not written down is denied: each need is met by a scope. [test_access.py]
- Only a token's owner has its text; the configuration has its SHA-256. Tokens are 32 random bytes, so a slow
  hash would protect nothing: there is no list of likely tokens to try.
- A principal from outside is 1 to 255 printable characters and never begins with `@`: such principals are
  objects.

A scope is `call:NAMESPACE`, `read:NAMESPACE`, `subscribe:NAMESPACE` (`*` is every namespace), `admin` or
`metrics`.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, model_validator

from perdure.schemas.scram import parse_verifier
from perdure.schemas.secrecy import without_credentials
from perdure.schemas.section import Section

CALL, READ, SUBSCRIBE, ADMIN, METRICS = "call", "read", "subscribe", "admin", "metrics"
KNOWN = "known"  # the need of a request that any known principal may make
TOKEN_PREFIX = "pdr_"
TOKEN_BYTES = 32
MAX_PRINCIPAL_CHARS = 255
ALL_QUOTAS = "*"

_SCOPE = re.compile(r"(?:call|read|subscribe):(?:\*|[A-Za-z][A-Za-z0-9_-]{0,63})|admin|metrics", re.ASCII)


class Need(NamedTuple):
    """A right that a request needs; `namespace` is empty for those that concern no object."""

    verb: str
    namespace: str = ""


class Grant(NamedTuple):
    """A principal and its rights. Times are seconds since 1970.

    `expires_s` is the grant's end; from `recheck_s` on it must be made again from the credentials.
    """

    principal: str
    rights: frozenset[str]
    expires_s: float = math.inf
    recheck_s: float = math.inf


NOBODY = Grant(
    "", frozenset(("call:*", "read:*", "subscribe:*"))
)  # of requests without credentials, where objects are open


def may(grant: Grant, need: Need) -> bool:
    """True if `grant` has the right that `need` names."""
    verb, namespace = need
    rights = grant.rights
    if verb in (CALL, READ, SUBSCRIBE):
        return f"{verb}:*" in rights or f"{verb}:{namespace}" in rights
    if verb == KNOWN:
        return bool(grant.principal)
    return ADMIN in rights or (verb == METRICS and METRICS in rights)


def is_scope(text: str) -> bool:
    return _SCOPE.fullmatch(text) is not None


def scopes_among(said: object) -> frozenset[str]:
    """The scopes in a claim: a text with spaces or a list. Scopes of other applications are ignored."""
    parts: Iterable[object] = (
        said.split() if isinstance(said, str) else said if isinstance(said, list) else ()
    )
    return frozenset(part for part in parts if isinstance(part, str) and is_scope(part))


def is_principal(text: object) -> bool:
    """True if a principal from outside can have this name."""
    return (
        isinstance(text, str)
        and 0 < len(text) <= MAX_PRINCIPAL_CHARS
        and text.isprintable()
        and text[0] != "@"
    )


def token_of(random: bytes) -> str:
    """The text of a token made of so many random bytes."""
    return TOKEN_PREFIX + base64.urlsafe_b64encode(random).rstrip(b"=").decode()


def token_hash(text: bytes) -> str:
    """What a configuration has of a token: its SHA-256 in hexadecimal digits."""
    return hashlib.sha256(text).hexdigest()


def grant_of_claims(
    claims: Mapping[str, Any], scopes_claim: str, *, now_s: float, leeway_s: float
) -> Grant | None:
    """The grant of a JWT whose signature, issuer and audience are verified; None if its claims grant nothing.

    `exp` and `sub` are required; `nbf` and `iat` are optional and must not lie in the future.

    claims: the verified claims.
    scopes_claim: the name of the claim that holds the scopes.
    now_s: the time, in seconds since 1970.
    leeway_s: by how many seconds the issuer's clock may differ.
    """
    expires_s, principal = _time(claims.get("exp")), claims.get("sub")
    if expires_s is None or expires_s + leeway_s <= now_s or not is_principal(principal):
        return None
    for name in ("nbf", "iat"):
        if name in claims:
            from_s = _time(claims[name])
            if from_s is None or from_s - leeway_s > now_s:
                return None
    return Grant(str(principal), scopes_among(claims.get(scopes_claim)), expires_s + leeway_s)


def _time(value: object) -> float | None:
    """Seconds since 1970; None if the value is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) else None


# --- the tables of a configuration ---


def _scope(text: str) -> str:
    if not is_scope(text):
        raise ValueError(
            f'"{text}" is not a scope; use call:NAMESPACE, read:NAMESPACE, subscribe:NAMESPACE (* for all), admin or metrics'
        )
    return text


def _principal(text: str) -> str:
    if not is_principal(text):
        raise ValueError(
            f'{text[:60]!r} cannot name a principal: 1 to {MAX_PRINCIPAL_CHARS} printable characters, not beginning with "@"'
        )
    return text


def _with_zone(when: datetime) -> datetime:
    if when.tzinfo is None:
        raise ValueError("needs a time zone, such as 2030-01-01T00:00:00Z")
    return when


def _jwks_url(text: str) -> str:
    try:
        parts = urlsplit(text)
    except ValueError:  # its text quotes what stands in brackets, which may be of a password
        parts = urlsplit("")
    if parts.hostname is None or parts.username is not None:
        raise ValueError(
            f'"{without_credentials(text)}" is not the address of a key set; use one such as '
            '"https://issuer.example/jwks.json"'
        )
    if not is_https_or_loopback(text):
        raise ValueError(
            f'"{without_credentials(text)}" must begin with https://: otherwise an attacker on the way could replace the keys'
        )
    return text


def is_https_or_loopback(url: str) -> bool:
    """True if what is sent to `url` cannot be read or changed on the way."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    host = parts.hostname
    return host is not None and (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host)))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


Principal = Annotated[str, AfterValidator(_principal)]
Algorithm = Literal["RS256", "ES256", "EdDSA"]


def _verifier(text: str) -> str:
    return str(parse_verifier(text))


def _sha256(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError(
            "is not a SHA-256, which has 64 hexadecimal digits: `perdure token create` prints it"
        )
    return text


class Token(Section):
    """A principal that is known by a bearer token; `perdure token create` prints the lines."""

    name: Principal
    sha256: Annotated[str, AfterValidator(_sha256)]
    scopes: Annotated[tuple[Annotated[str, AfterValidator(_scope)], ...], Field(strict=False)]
    expires: Annotated[datetime, AfterValidator(_with_zone)] | None = None
    scram: Annotated[tuple[Annotated[str, AfterValidator(_verifier)], ...], Field(strict=False)] = ()
    """What Kafka clients that use SCRAM are known by; none: they send the token itself (PLAIN)."""

    @property
    def grant(self) -> Grant:
        expires_s = math.inf if self.expires is None else self.expires.timestamp()
        return Grant(self.name, frozenset(self.scopes), expires_s, expires_s)


class Jwt(Section):
    """The issuer whose JSON Web Tokens are accepted, and the keys that verify them."""

    issuer: Annotated[str, Field(min_length=1)]
    audience: Annotated[str, Field(min_length=1)]
    jwks_url: Annotated[str, AfterValidator(_jwks_url)] | None = None
    jwks_file: str | None = None
    algorithms: Annotated[tuple[Algorithm, ...], Field(strict=False, min_length=1)] = (
        "RS256",
        "ES256",
        "EdDSA",
    )
    """Asymmetric ones only: with a shared secret a server that checks tokens could also make them."""
    leeway_s: Annotated[float, Field(ge=0, le=300, allow_inf_nan=False)] = 30.0
    """How far the issuer's clock and ours may differ."""
    scopes_claim: Annotated[str, Field(min_length=1)] = "scope"

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.jwks_url is None) == (self.jwks_file is None):
            raise ValueError("[jwt] needs either jwks_url or jwks_file")
        return self


class Quota(Section):
    """The limits of one principal; a request over one is answered 429.

    A limit that is not set does not apply.
    """

    requests_per_s: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    burst: PositiveInt | None = None
    """Requests that may arrive at once; if not set, as many as in one second."""
    body_bytes_per_s: PositiveInt | None = None
    """Bodies of requests and WebSocket messages; as many may arrive at once."""
    objects: NonNegativeInt | None = None
    """Objects that it created and that exist."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.requests_per_s is None and self.burst is not None:
            raise ValueError(
                "burst needs requests_per_s: it is the number of requests that are allowed at once"
            )
        if self.requests_per_s is self.body_bytes_per_s is self.objects is None:
            raise ValueError("a quota needs a limit: requests_per_s, body_bytes_per_s or objects")
        return self


def quota_of(quotas: Mapping[str, Quota], principal: str) -> Quota | None:
    """The quota of a principal: its own, or the one for principals that are not named."""
    return quotas.get(principal) or quotas.get(ALL_QUOTAS)
