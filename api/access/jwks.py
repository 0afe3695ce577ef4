"""The public keys of an issuer: a JSON Web Key Set, fetched when it is needed and cached.

`Verifier` (jwts.py) looks up the key of each token in a `Keyring`. PyJWT's own PyJWKClient fetches by a call
that blocks its thread, which here is the event loop with all objects.

Laws [test_access.py]
- There is at most one fetch per `MIN_INTERVAL_S`, also for unknown key ids: a client cannot make this node
  fetch.
- Keys older than `FRESH_S` are fetched again in the background; keys older than `STALE_S` are not used. A
  check that lacks its key is `Unavailable`, and never passes.
- Only public keys for signatures of the allowed algorithms are used. A key id that is listed twice is
  ignored.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import httpx
from jwt import PyJWK

from perdure.schemas.access import Jwt
from perdure.schemas.commands import parse_json
from perdure.schemas.errors import ConfigError, MalformedCommand, Unauthenticated, Unavailable

MIN_INTERVAL_S = 10.0
FRESH_S = 300.0
STALE_S = 3600.0
FETCH_S = 5.0
JWKS_MAX_BYTES = 1 << 20
RSA_MIN_BITS = 2048
_logger = logging.getLogger("perdure")


def keys_in(body: bytes, algorithms: Collection[str]) -> dict[str, PyJWK]:
    """The usable keys of a JSON Web Key Set, by key id. Raises `ValueError` if it is not a key set."""
    try:
        listed = parse_json(body)
    except MalformedCommand as error:
        raise ValueError(str(error)) from None
    if type(listed) is not dict or type(listed.get("keys")) is not list:
        raise ValueError('a key set is {"keys": [...]}')
    keys: dict[str, PyJWK] = {}
    ids: set[str] = set()
    for each in listed["keys"]:
        if type(each) is not dict or type(each.get("kid")) is not str:
            continue
        kid = each["kid"]
        if kid in ids:
            keys.pop(kid, None)
            continue
        ids.add(kid)
        if each.get("kty") == "oct" or "d" in each or each.get("use", "sig") != "sig":
            continue
        try:
            key = PyJWK(each)
        except Exception:  # noqa: BLE001, S112 - a kind of key that is not supported raises many types
            continue
        if key.algorithm_name in algorithms and getattr(key.key, "key_size", RSA_MIN_BITS) >= _bits(key):
            keys[kid] = key
    return keys


def _bits(key: PyJWK) -> int:
    return RSA_MIN_BITS if key.key_type == "RSA" else 0


class Keyring:
    """The keys of one issuer. `load` returns the text of the key set; `clock_s` is monotonic."""

    def __init__(
        self, load: Callable[[], Awaitable[bytes]], algorithms: Collection[str], clock_s: Callable[[], float]
    ) -> None:
        self._load = load
        self._algorithms = algorithms
        self._clock_s = clock_s
        self._keys: dict[str, PyJWK] = {}
        self._loaded_s = self._tried_s = -math.inf
        self._failed = False
        self._task: asyncio.Task[None] | None = None

    def wanted(self, kid: str) -> asyncio.Task[None] | None:
        """A task to wait for before `find` can decide; None if it can decide now. Fetches if that is due."""
        now_s = self._clock_s()
        age_s = now_s - self._loaded_s
        known = kid in self._keys
        running = self._task is not None and not self._task.done()
        if not running and (age_s >= FRESH_S or not known) and now_s - self._tried_s >= MIN_INTERVAL_S:
            self._tried_s = now_s
            self._task = asyncio.get_running_loop().create_task(self._fetch())
            running = True
        return self._task if running and (age_s >= STALE_S or not known) else None

    def find(self, kid: str) -> PyJWK:
        """The key of this id. Raises `Unauthenticated` if there is none,
        `Unavailable` if that is not known.
        """
        known = self._clock_s() - self._loaded_s < STALE_S
        key = self._keys.get(kid) if known else None
        if key is not None:
            return key
        if self._failed or not known:
            raise Unavailable("your credentials cannot be checked at the moment")
        raise Unauthenticated

    async def refresh(self) -> None:
        """Fetch the keys. Raises `OSError`, `httpx.HTTPError`, `TimeoutError` or `ValueError`."""
        self._tried_s = self._clock_s()
        self._keys = keys_in(await self._load(), self._algorithms)
        self._loaded_s, self._failed = self._clock_s(), False

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _fetch(self) -> None:
        try:
            await self.refresh()
        except (OSError, httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            self._failed = True
            _logger.error("the keys of [jwt] cannot be fetched: %s: %s", type(error).__name__, error)


async def keyring_of(config: Jwt, clock_s: Callable[[], float]) -> Keyring:
    """The keyring that a configuration names. Raises `ConfigError` for a file that is not a key set."""
    if config.jwks_url is not None:
        return Keyring(lambda: _fetched(str(config.jwks_url)), config.algorithms, clock_s)
    path = Path(str(config.jwks_file))
    keyring = Keyring(lambda: asyncio.to_thread(path.read_bytes), config.algorithms, clock_s)
    try:
        await keyring.refresh()
    except (OSError, ValueError) as error:
        raise ConfigError(f"jwt.jwks_file {path}: {error}") from None
    return keyring


async def _fetched(url: str) -> bytes:
    async with (
        asyncio.timeout(FETCH_S),
        httpx.AsyncClient(timeout=FETCH_S, follow_redirects=False) as client,
        client.stream("GET", url) as response,
    ):
        if response.status_code != 200:
            raise ValueError(f"{url} answered {response.status_code}")
        body = bytearray()
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > JWKS_MAX_BYTES:
                raise ValueError(f"{url} answers with more than {JWKS_MAX_BYTES} bytes")
        return bytes(body)
