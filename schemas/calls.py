"""Calls and sends of turns: the keys by which each takes effect once, and the chain of waiting callers.

A turn that calls another object may run again after a crash. It then makes the same keys, and the called
object answers from the row of the first call (streams/state/answered_calls.py).

Laws
- A call is identified by its content, not by its time: its key names the root of its turn (`Root`), the hash
  of the call, and how many equal calls the turn made before. A turn that runs again, in any order, makes the
  same keys. [test_calls_again.py]
- The root of a turn is the place of its command; if a client gave a key, that key, so that a command repeated
  under it continues where the first one was; for a called turn, the call, and with it the first caller's
  root. For a turn of an alarm it is the setting of the alarm, or of the first run if later runs continue it.
- A send is identified by its number in its turn: it is part of one entry.
- Such keys are recognised only for a principal that begins with `@`, which only perdure may send.

Keys: `call:{partition}:{offset}:{parent}:{content}:{n}` (the place is empty if a client's key is at the root;
the parent, if the turn of that place called) · `send:{partition}:{offset}:{n}` ·
`call:{partition}:{offset}:{n}`, by order, as earlier versions wrote calls.
"""

from __future__ import annotations

from binascii import b2a_base64
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from perdure.schemas.alarms import parse_ring
from perdure.schemas.commands import ALARM, Command

CALL_KEY, SEND_KEY = "call", "send"
FORWARD_KEY = "forward"  # known by its origin, of a command that was not produced into its home partition
PRINCIPAL = "@"  # and then the key of the object whose turn it is
NOWHERE = -1  # the place of a root that is a client's key
_HASH_BYTES = 15  # 20 characters, without padding
_HASH_CHARS = 20
_encode = msgspec.msgpack.Encoder().encode


class Root(NamedTuple):
    """The root of a turn's calls: the place of a command, or nowhere, and the turn in the tree of its
    calls."""

    partition: int
    offset: int
    parent: str = ""


class CallKey(NamedTuple):
    """The `n`th send of a turn, or the `n`th of its calls with this content.

    `content` is empty for a key by order.
    """

    kind: str
    partition: int
    offset: int
    n: int
    parent: str = ""
    content: str = ""

    def __str__(self) -> str:
        if not self.content:
            return f"{self.kind}:{self.partition}:{self.offset}:{self.n}"
        place = ":" if self.partition == NOWHERE else f"{self.partition}:{self.offset}"
        return f"{self.kind}:{place}:{self.parent}:{self.content}:{self.n}"

    @property
    def root(self) -> Root:
        """The root of its turn."""
        return Root(self.partition, self.offset, self.parent)


def call_key(principal: str, client_key: str) -> CallKey | None:
    """The key as `CallKey` wrote it; None if it is a client's."""
    return _call_key(client_key) if principal.startswith(PRINCIPAL) else None


@lru_cache(2048)  # read several times: on arrival, when the turn runs, and when its entry is folded
def _call_key(client_key: str) -> CallKey | None:
    kind, *parts = client_key.split(":")
    if kind == CALL_KEY and len(parts) == 5:
        return _by_content(*parts)
    if kind not in (CALL_KEY, SEND_KEY) or len(parts) != 3:
        return None
    if not all(_is_number(each) for each in parts):
        return None
    partition, offset, n = map(int, parts)
    return CallKey(kind, partition, offset, n)


def _by_content(partition: str, offset: str, parent: str, content: str, n: str) -> CallKey | None:
    if len(content) != _HASH_CHARS or len(parent) not in (0, _HASH_CHARS) or not _is_number(n):
        return None
    if not partition and not offset:
        return CallKey(CALL_KEY, NOWHERE, NOWHERE, int(n), parent, content) if parent else None
    if not _is_number(partition) or not _is_number(offset):
        return None
    return CallKey(CALL_KEY, int(partition), int(offset), int(n), parent, content)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def root_of(command: Command, partition: int, offset: int) -> Root:
    """The root of the calls that the turn of `command`, at that place, makes."""
    client_key = command.client_key
    if client_key is None:
        ring = parse_ring(command.body) if command.kind == ALARM else None
        if ring is None or ring.since is None or ring.act:
            return Root(partition, offset)
        return Root(NOWHERE, NOWHERE, _hash((command.key, ALARM, command.method, ring.since)))
    key = call_key(command.principal, client_key)
    if key is None:
        return Root(NOWHERE, NOWHERE, _hash((command.key, command.principal, client_key)))
    if not key.content:
        return Root(partition, offset)  # a send runs until it is done, at one place
    return Root(key.partition, key.offset, _hash((command.principal, client_key)))


def content_of(command: Command) -> str:
    """The hash of a call's request."""
    request = (command.key, command.kind, command.method, command.path, command.headers, command.body)
    return _hash(request)


def _hash(what: tuple[object, ...]) -> str:
    return b2a_base64(blake2b(_encode(what), digest_size=_HASH_BYTES).digest(), newline=False).decode()


def take_number(taken: dict[str, int], content: str) -> int:
    """The first number, from 1, that no equal call has; `taken` holds them as bits."""
    bits = taken.get(content, 0)
    n = (~bits & (bits + 1)).bit_length()
    taken[content] = bits | 1 << (n - 1)
    return n


def free_number(taken: dict[str, int], content: str, n: int) -> None:
    """Free the number of a call that ended without an answer: the next equal call takes it again."""
    taken[content] &= ~(1 << (n - 1))


def link(key: str, partition: int, offset: int) -> str:
    """A turn that waits, in the chain of callers: `key@partition:offset`."""
    return f"{key}@{partition}:{offset}"


def key_of_link(waiting: str) -> str:
    """The object key in a link."""
    return waiting.rpartition("@")[0]
