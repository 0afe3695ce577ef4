"""SASL: the exchange by which a connection proves which token it has.

PLAIN sends the token's name and the token itself; SCRAM proves that the client knows it. SCRAM is for
perdure's tokens only; a JWT is sent by PLAIN, with its principal as the name.

Laws [tests/unit/test_wire_sasl.py]
- A connection has no grant before its exchange has succeeded, and one exchange at a time.
- An unknown name and a wrong token have the same answer.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from hashlib import sha256
from typing import NamedTuple

from perdure.schemas.access import Grant
from perdure.schemas.errors import Unauthenticated
from perdure.schemas.scram import (
    HASHES,
    ITERATIONS,
    SALT_BYTES,
    ScramVerifier,
    client_knows,
    server_signature,
)
from perdure.streams.wire.admission import Admission, Credentials

PLAIN = "PLAIN"
MECHANISMS = (PLAIN, *HASHES)
_FAKE = secrets.token_bytes(32)  # makes salts for names that do not exist


class SaslAnswer(NamedTuple):
    """An answer of the server; the last one has the grant, and the credentials that it is for."""

    answer: bytes
    grant: Grant | None = None
    credentials: Credentials | None = None


class Exchange:
    """One exchange of a connection, by a mechanism of `MECHANISMS`."""

    def __init__(self, admission: Admission, mechanism: str) -> None:
        self._admission = admission
        self._mechanism = mechanism
        self._name = ""
        self._first = b""  # of the client and the server, as they are signed
        self._nonce = ""
        self._verifier: ScramVerifier | None = None
        self._known = False

    async def step(self, data: bytes) -> SaslAnswer:
        """The next message of the client. Raises `Unauthenticated` or `Unavailable`."""
        try:
            if self._mechanism == PLAIN:
                return await self._plain(data)
            return self._scram_first(data) if self._verifier is None else self._scram_final(data)
        except (ValueError, KeyError):
            raise Unauthenticated from None

    async def _plain(self, data: bytes) -> SaslAnswer:
        acts_as, name, token = data.split(b"\x00")
        if acts_as not in (b"", name):
            raise Unauthenticated
        credentials = Credentials(name.decode(), token)
        await self._admission.prepared(credentials)
        return SaslAnswer(b"", self._admission.granted(credentials), credentials)

    def _scram_first(self, data: bytes) -> SaslAnswer:
        binding, acts_as, bare = data.decode().split(",", 2)
        fields = dict(part.split("=", 1) for part in bare.split(","))
        if binding not in ("n", "y") or acts_as or "m" in fields or not fields["r"]:
            raise Unauthenticated
        self._name = fields["n"].replace("=2C", ",").replace("=3D", "=")
        verifier = self._admission.verifier(self._name, self._mechanism)
        self._known = verifier is not None
        self._verifier = verifier or self._fake()
        self._nonce = fields["r"] + base64.b64encode(secrets.token_bytes(18)).decode()
        salt = base64.b64encode(self._verifier.salt).decode()
        answer = f"r={self._nonce},s={salt},i={self._verifier.iterations}".encode()
        self._first = bare.encode() + b"," + answer
        return SaslAnswer(answer)

    def _fake(self) -> ScramVerifier:
        """A verifier for a name that does not exist: no password fits it, and its salt is always the same."""
        salt = hmac.digest(_FAKE, self._name.encode(), sha256)[:SALT_BYTES]
        size = hashlib.new(HASHES[self._mechanism]).digest_size
        return ScramVerifier(
            self._mechanism, ITERATIONS, salt, secrets.token_bytes(size), secrets.token_bytes(size)
        )

    def _scram_final(self, data: bytes) -> SaslAnswer:
        assert self._verifier is not None
        unproved, _, proof = data.rpartition(b",p=")
        fields = dict(part.split("=", 1) for part in unproved.decode().split(","))
        if base64.b64decode(fields["c"], validate=True) not in (b"n,,", b"y,,") or fields["r"] != self._nonce:
            raise Unauthenticated
        message = self._first + b"," + unproved
        if (
            not client_knows(self._verifier, message, base64.b64decode(proof, validate=True))
            or not self._known
        ):
            raise Unauthenticated
        credentials = Credentials(self._name, None)
        grant = self._admission.granted(credentials)
        signature = base64.b64encode(server_signature(self._verifier, message))
        return SaslAnswer(b"v=" + signature, grant, credentials)
