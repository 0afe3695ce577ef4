"""The app's seal: how an owner knows that a command was sent by perdure itself.

Laws
- The seal covers the whole record: key, value and all other headers. Who changes one of them breaks it.
- Commands that only perdure may send (alarms, socket events, calls between objects) count only with it.
"""

from __future__ import annotations

import hmac
from hashlib import blake2b

import msgspec

SEAL_BYTES = 16
HEADER = "seal"

_encode = msgspec.msgpack.Encoder().encode
Headers = tuple[tuple[str, bytes], ...]


class Seal:
    """Made from a secret that all nodes of the app share."""

    __slots__ = ("_key",)

    def __init__(self, secret: str) -> None:
        self._key = blake2b(secret.encode(), digest_size=32).digest()

    def sealed(self, key: bytes | None, value: bytes | None, headers: Headers) -> Headers:
        """The headers with the seal."""
        return (*headers, (HEADER, self._of(key, value, headers)))

    def holds(self, key: bytes | None, value: bytes | None, headers: Headers) -> bool:
        """Is the record as perdure sealed it?"""
        plain = tuple(header for header in headers if header[0] != HEADER)
        found = [value for name, value in headers if name == HEADER]
        return len(found) == 1 and hmac.compare_digest(found[0], self._of(key, value, plain))

    def _of(self, key: bytes | None, value: bytes | None, headers: Headers) -> bytes:
        return blake2b(_encode((key, value, headers)), digest_size=SEAL_BYTES, key=self._key).digest()
