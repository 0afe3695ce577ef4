"""Signed checkpoints: the sizes and Merkle roots of an app's journals at a time, under an Ed25519 signature.

An auditor outside keeps checkpoints. With two of them and a consistency proof, or with one, a record and its
inclusion proof, it knows without the log that nothing was changed, removed or inserted.

Laws [test_merkle.py]
- What is signed is a text of lines (`signed_text`), so that a few lines of any language check it.
- A checkpoint whose signature does not fit, or that another key made, is refused.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import msgspec

from perdure.schemas.errors import ConfigError, LogCorrupt

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
except ImportError as missing:
    raise ConfigError(
        "signed checkpoints need the package cryptography: pip install 'cryptography>=43,<51'"
    ) from missing

HEAD = "perdure checkpoint 1"


class JournalRoot(msgspec.Struct, frozen=True):
    """The Merkle root of one partition's journal: over its first `size` records; hexadecimal."""

    partition: int
    size: int
    root: str


class Checkpoint(msgspec.Struct, frozen=True):
    """The roots of all journals of an app, and a signature. `key` and `signature` are base64."""

    app: str
    app_uuid: str
    time_ms: int
    journals: tuple[JournalRoot, ...]
    key: str = ""
    signature: str = ""

    def signed_text(self) -> str:
        """What the signature is of: a line for the app, the time, and each journal."""
        lines = [HEAD, self.app, self.app_uuid, str(self.time_ms)]
        lines += [f"{each.partition} {each.size} {each.root}" for each in self.journals]
        return "\n".join(lines) + "\n"


encode_checkpoint = msgspec.json.encode
_decode = msgspec.json.Decoder(Checkpoint).decode


def make_key(path: Path) -> str:
    """Make a key in a file that only its owner reads; its public part, base64. Raises `ConfigError`."""
    key = Ed25519PrivateKey.generate()
    try:
        with path.open("x") as file:
            path.chmod(0o600)
            file.write(b64encode(key.private_bytes_raw()).decode() + "\n")
    except OSError as error:
        raise ConfigError(f"cannot make the key {path}: {error}") from None
    return public_of(key)


def public_of(key: Ed25519PrivateKey) -> str:
    """The public part of a key, base64."""
    return b64encode(key.public_key().public_bytes_raw()).decode()


def key_in(path: Path) -> Ed25519PrivateKey:
    """The key in a file. Raises `ConfigError`."""
    try:
        return Ed25519PrivateKey.from_private_bytes(b64decode(path.read_text().strip(), validate=True))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the key {path}: {error}; `perdure log key FILE` makes one") from None


def signed(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> Checkpoint:
    """The checkpoint with its signature."""
    fields: dict[str, Any] = {name: getattr(checkpoint, name) for name in checkpoint.__struct_fields__}
    signature = b64encode(key.sign(checkpoint.signed_text().encode())).decode()
    return Checkpoint(**fields | {"key": public_of(key), "signature": signature})


def parse_checkpoint(data: bytes, trusted: str = "") -> Checkpoint:
    """The checkpoint in a file, if its signature is right. Raises `LogCorrupt`.

    `trusted`: the public key that must have made it, base64; empty: the one that it names.
    """
    try:
        checkpoint = _decode(data)
        key = Ed25519PublicKey.from_public_bytes(b64decode(checkpoint.key, validate=True))
        signature = b64decode(checkpoint.signature, validate=True)
        key.verify(signature, checkpoint.signed_text().encode())
    except (msgspec.MsgspecError, ValueError) as error:
        raise LogCorrupt(f"this is not a checkpoint: {error}") from None
    except InvalidSignature:
        raise LogCorrupt("the signature of the checkpoint does not fit: it was changed") from None
    if trusted and checkpoint.key != trusted:
        raise LogCorrupt(f"the checkpoint is signed with the key {checkpoint.key}, not with {trusted}")
    return checkpoint
