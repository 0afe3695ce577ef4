"""The offsets that groups have committed: a row of the log for each partition, written over by the next
commit.

Laws [tests/unit/test_wire_groups.py]
- A commit that was answered is durable: it shares an fsync with whatever else is under way.
- At most `MAX_OFFSETS` are kept; those of a group that has committed nothing for `KEEP_MS` are removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

ROWS = b"offset/"
MAX_OFFSETS = 50_000
KEEP_MS = 7 * 24 * 3600 * 1000


class Committed(msgspec.Struct, array_like=True, frozen=True):
    """A committed offset, with the time of the commit."""

    offset: int
    leader_epoch: int
    metadata: str
    time_ms: int


TopicPartition = tuple[str, int]
_Key = tuple[str, str, int]
_decode_key = msgspec.msgpack.Decoder(_Key).decode
_decode_row = msgspec.msgpack.Decoder(Committed).decode
_encode = msgspec.msgpack.Encoder().encode


class Offsets:
    """The committed offsets of all groups. `rows`: those that were on the log when it was opened."""

    def __init__(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        self.groups: dict[str, dict[TopicPartition, Committed]] = {}
        self.count = 0
        for key, row in rows:
            group, topic, partition = _decode_key(key[len(ROWS) :])
            self.keep(group, {(topic, partition): _decode_row(row)})

    def of(self, group: str) -> Mapping[TopicPartition, Committed]:
        return self.groups.get(group, {})

    def room_for(self, count: int) -> bool:
        return self.count + count <= MAX_OFFSETS

    @staticmethod
    def rows(group: str, commits: Mapping[TopicPartition, Committed]) -> dict[bytes, bytes | None]:
        """The rows to write for a commit."""
        return {ROWS + _encode((group, *place)): _encode(each) for place, each in commits.items()}

    def keep(self, group: str, commits: Mapping[TopicPartition, Committed]) -> None:
        """Remember a commit that is durable."""
        known = self.groups.setdefault(group, {})
        self.count += len(commits.keys() - known.keys())
        known.update(commits)

    def forget_old(self, now_ms: int, used: Iterable[str]) -> dict[bytes, bytes | None]:
        """Forget groups that are not `used` and have been silent for long; returns the rows to remove."""
        removed: dict[bytes, bytes | None] = {}
        for group in self.groups.keys() - set(used):
            commits = self.groups[group]
            if max(each.time_ms for each in commits.values()) < now_ms - KEEP_MS:
                removed |= dict.fromkeys(self.rows(group, commits))
                self.count -= len(commits)
                del self.groups[group]
        return removed
