"""Heartbeats of nodes: what a node says of itself, as a record in partition 0 of `{app}.replies`.

A heartbeat is whole: it says all that the node serves, follows and has stopped, so the newest one of a member
replaces those before it. It bears the app's seal. Readers of replies know it by its key, and ignore it.
"""

from __future__ import annotations

import msgspec

from perdure.schemas.seal import Seal
from perdure.streams.log.base import LogRecord, Record
from perdure.streams.turns.pending_calls import LongWait

PLACE = 0  # the partition of `replies`; gateways have their addresses in the others
KEY = b"nodes"
KIND = ("kind", b"node")
CONTENT = "node"  # a header: the value is empty, as readers of replies may take each for JSON


class Served(msgspec.Struct, frozen=True, array_like=True):
    """A partition that a node serves: its epoch and the end of its journal, both -1 while it claims it.

    `stopped`: why the partition has stopped there; empty if it has not.
    """

    epoch: int = -1
    end: int = -1
    stopped: str = ""


class Beat(msgspec.Struct, frozen=True, array_like=True):
    """One heartbeat.

    `member` names this membership of a node: a node that was taken for gone joins under another name. `node`
    is the name in its claims; `home` is the same for two processes only if they use the same data directory,
    so the later one shows that the earlier has ended. `tick` counts the seconds since it joined. `warm`: the
    partitions that it follows, with the journal offset up to which its store has them. `waits`: calls
    of its objects that have waited for a while.
    """

    member: str
    node: str
    host: str
    pid: int
    home: str
    tick: int
    serving: dict[int, Served] = {}
    warm: dict[int, int] = {}
    leaving: bool = False
    left: bool = False
    waits: list[LongWait] = []

    @property
    def who(self) -> str:
        """The node as texts name it."""
        return f"node {self.node} on {self.host} (pid {self.pid})"


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Beat).decode


def beat_record(beat: Beat, seal: Seal) -> Record:
    """The record of a heartbeat."""
    return Record(KEY, b"", seal.sealed(KEY, b"", (KIND, (CONTENT, _encode(beat)))))


def is_beat(record: LogRecord) -> bool:
    """True if a record of `replies` says that it is a heartbeat."""
    return record.key == KEY and bool(record.headers) and record.headers[0] == KIND


def parse_beat(record: LogRecord) -> Beat | None:
    """The heartbeat in a record, whichever node sealed it; None if it cannot be read."""
    try:
        return _decode(dict(record.headers)[CONTENT])
    except (KeyError, msgspec.MsgspecError):
        return None
