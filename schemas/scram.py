"""SCRAM (RFC 5802, RFC 7677): what a server keeps of a password, and the proof of a client that knows it.

A verifier is a text of the configuration, such as `SCRAM-SHA-256$4096:SALT$STORED:SERVER` (base64). It does
not give the password away, and is no more of a secret than the SHA-256 of a token.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import NamedTuple

HASHES = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}
ITERATIONS = 4096  # what clients require at least; tokens are random, so more would protect nothing
SALT_BYTES = 16
MAX_ITERATIONS = 1_000_000


class ScramVerifier(NamedTuple):
    """The parts of a verifier."""

    mechanism: str
    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes

    def __str__(self) -> str:
        salt, stored, server = (base64.b64encode(each).decode() for each in self[2:])
        return f"{self.mechanism}${self.iterations}:{salt}${stored}:{server}"


def verifier_of(mechanism: str, password: bytes, salt: bytes, iterations: int = ITERATIONS) -> ScramVerifier:
    """The verifier of a password.

    Args:
        mechanism: one of `HASHES`.
        password: what the client knows.
        salt: random bytes.
        iterations: how often it is hashed.
    """
    digest = HASHES[mechanism]
    salted = hashlib.pbkdf2_hmac(digest, password, salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", digest)
    stored = hashlib.new(digest, client_key).digest()
    return ScramVerifier(mechanism, iterations, salt, stored, hmac.digest(salted, b"Server Key", digest))


def parse_verifier(text: str) -> ScramVerifier:
    """The verifier that a text stands for. Raises `ValueError`."""
    try:
        mechanism, middle, keys = text.split("$")
        iterations, salt = middle.split(":")
        stored, server = keys.split(":")
        parts = [base64.b64decode(each, validate=True) for each in (salt, stored, server)]
        size = hashlib.new(HASHES[mechanism]).digest_size
        number = int(iterations)
    except (ValueError, KeyError):
        raise ValueError("is not a SCRAM verifier: `perdure token create --scram` prints them") from None
    if (
        not ITERATIONS <= number <= MAX_ITERATIONS
        or not parts[0]
        or {len(each) for each in parts[1:]} != {size}
    ):
        raise ValueError("is not a SCRAM verifier: `perdure token create --scram` prints them")
    return ScramVerifier(mechanism, number, *parts)


def client_knows(verifier: ScramVerifier, message: bytes, proof: bytes) -> bool:
    """True if the proof behind an exchange of messages was made by a client that knows the password."""
    digest = HASHES[verifier.mechanism]
    signature = hmac.digest(verifier.stored_key, message, digest)
    if len(proof) != len(signature):
        return False
    client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
    return hmac.compare_digest(hashlib.new(digest, client_key).digest(), verifier.stored_key)


def server_signature(verifier: ScramVerifier, message: bytes) -> bytes:
    """What proves to the client that the server knows the verifier."""
    return hmac.digest(verifier.server_key, message, HASHES[verifier.mechanism])
