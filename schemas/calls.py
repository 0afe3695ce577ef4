"""Calls and sends of turns: the keys by which each takes effect once, and the chain of those who wait.

Laws
- A key says which call of which command it is: `call:{partition}:{offset}:{n}` (or `send:…`), the command being the
  caller's. A turn that runs again makes the same keys.
- Such keys count as that only for a principal that begins with `@`, which only perdure may send.
"""

from __future__ import annotations

from typing import NamedTuple

CALL_KEY, SEND_KEY = "call", "send"
PRINCIPAL = "@"  # and then the key of the object whose turn it is


class CallKey(NamedTuple):
    """The `n`th call (or send) of the turn of the command at `offset` in `partition`."""

    kind: str
    partition: int
    offset: int
    n: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.partition}:{self.offset}:{self.n}"


def call_key(principal: str, client_key: str) -> CallKey | None:
    """The key as `CallKey` wrote it; None if it is a client's."""
    if not principal.startswith(PRINCIPAL):
        return None
    kind, *numbers = client_key.split(":")
    if kind not in (CALL_KEY, SEND_KEY) or len(numbers) != 3:
        return None
    if not all(each.isascii() and each.isdigit() for each in numbers):
        return None
    return CallKey(kind, *map(int, numbers))


def link(key: str, partition: int, offset: int) -> str:
    """A turn that waits, in the chain of callers: `key@partition:offset`."""
    return f"{key}@{partition}:{offset}"


def key_of_link(waiting: str) -> str:
    """The object key in a link."""
    return waiting.rpartition("@")[0]
