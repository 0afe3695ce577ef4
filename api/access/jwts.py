"""JSON Web Tokens: the grant of a token that an external issuer signed.

`Access` (guard.py) passes bearer tokens that are not perdure's own to a `Verifier`, which checks them with
the keys of jwks.py.

Laws [test_access.py]
- The configuration lists the algorithms, all asymmetric; `none` and shared secrets are never accepted. A
  token must name its key (`kid`). The key decides the algorithm, and the token must name the same.
- Signature, `iss`, `aud`, `exp` and `sub` are required and checked; `nbf` and `iat` may be missing. A token
  with critical extensions (`crit`) is refused, since none are supported.
- The client gets the same answer for each kind of invalid token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import jwt

from perdure.api.access.jwks import Keyring
from perdure.schemas.access import Grant, Jwt, grant_of_claims
from perdure.schemas.errors import Unauthenticated

MAX_BYTES = 8192
RECHECK_S = 300.0  # a key that its issuer withdraws is used for so long, and until the next fetch
_OPTIONS: Any = {  # the times are checked by our own clock
    "verify_signature": True,
    "verify_aud": True,
    "verify_iss": True,
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "require": ["exp", "iss", "aud", "sub"],
}


class Verifier:
    """Checks the tokens of one issuer. `clock_s` is the wall clock, seconds since 1970."""

    def __init__(self, config: Jwt, keyring: Keyring, clock_s: Callable[[], float]) -> None:
        self._config = config
        self._keyring = keyring
        self._clock_s = clock_s

    def pending(self, token: bytes) -> asyncio.Task[None] | None:
        """A task to wait for before `grant` can decide; None if it can decide now."""
        head = self._head(token)
        return None if head is None else self._keyring.wanted(head[0])

    def grant(self, token: bytes) -> Grant:
        """The grant of a token. Raises `Unauthenticated`, or `Unavailable` without the issuer's keys."""
        head = self._head(token)
        if head is None:
            raise Unauthenticated
        kid, algorithm = head
        key = self._keyring.find(kid)
        if key.algorithm_name != algorithm:
            raise Unauthenticated
        config, now_s = self._config, self._clock_s()
        try:
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                audience=config.audience,
                issuer=config.issuer,
                options=_OPTIONS,
            )
        except Exception:  # noqa: BLE001 - if an attacker makes the library fail, the token is not valid
            raise Unauthenticated from None
        grant = grant_of_claims(claims, config.scopes_claim, now_s=now_s, leeway_s=config.leeway_s)
        if grant is None:
            raise Unauthenticated
        return grant._replace(recheck_s=min(grant.expires_s, now_s + RECHECK_S))

    def _head(self, token: bytes) -> tuple[str, str] | None:
        """(key id, algorithm) by the token's own header; None if it cannot be valid."""
        if len(token) > MAX_BYTES:
            return None
        try:
            head = jwt.get_unverified_header(token)
        except Exception:  # noqa: BLE001 - as above
            return None
        kid, algorithm = head.get("kid"), head.get("alg")
        if type(kid) is not str or algorithm not in self._config.algorithms or "crit" in head:
            return None
        return kid, str(algorithm)
