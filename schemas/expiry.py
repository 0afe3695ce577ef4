"""How a value that expires is stored, and the hidden name by which it is found when it is due.

Laws
- An expiring value is one msgpack extension, always in its longest form: byte 0xc9, the length, `EXPIRING`,
  the time in ms since 1970 (8 bytes, big endian), the encoded value. So a row describes itself, and the first
  byte of nearly every plain value shows that it does not expire.
- A hidden name is NUL, `x`, the time in ms as 16 hex digits, the name: they sort by time, and before every
  name a user can give.
"""

from __future__ import annotations

import struct

EXT_32 = 0xC9  # how an expiring value begins; a large tuple or set too, so the code decides
EXPIRING = 8  # the extension's code
TIME_BYTES = 8

HIDDEN, HIDDEN_END = "\0x", "\0y"
FIRST_NAME = "\1"  # what sorts below is empty or begins with NUL: no name of a user
NOTED = b"\xc0"  # what lies under a hidden name: nil

_HEADER = struct.Struct(">BIbQ")
_TIME_DIGITS = 16


def with_expiry(encoded: bytes, expires_ms: int) -> bytes:
    """The stored form of a value that is hidden from `expires_ms` on."""
    return _HEADER.pack(EXT_32, TIME_BYTES + len(encoded), EXPIRING, expires_ms) + encoded


def expiry_of(encoded: bytes) -> int | None:
    """When a stored value expires, in ms since 1970; None for one that does not."""
    if encoded[0] != EXT_32 or encoded[5] != EXPIRING:
        return None
    return int.from_bytes(encoded[6:14], "big")


def is_due(encoded: bytes, now_ms: int) -> bool:
    """True if a stored value has expired."""
    expires_ms = expiry_of(encoded)
    return expires_ms is not None and expires_ms <= now_ms


def hidden_name(expires_ms: int, name: str) -> str:
    """The hidden name that notes that `name` expires then."""
    return f"{HIDDEN}{expires_ms:0{_TIME_DIGITS}x}{name}"


def parse_hidden(hidden: str) -> tuple[int, str]:
    """(expires_ms, name) of a hidden name."""
    at = len(HIDDEN) + _TIME_DIGITS
    return int(hidden[len(HIDDEN) : at], 16), hidden[at:]
