"""Claims as rows: at which journal offsets an owner's claim counts.

An epoch is the journal offset of its owner's claim. These rows say later whether a record of some epoch
counted: output that names its epoch and journal offset is genuine only then.

Rows (p = partition, u16 big endian): `e p offset` a claim that counts, empty.
"""

from __future__ import annotations

from perdure.streams.state.memtables import Memtables


class ClaimRows:
    """The claims of one partition; `number` is the partition as rows have it."""

    def __init__(self, memtables: Memtables, number: bytes) -> None:
        self._memtables = memtables
        self._prefix = b"e" + number

    def fold(self, offset: int) -> None:
        """The claim at journal `offset` counts."""
        self._memtables.set_row(self._row(offset), b"")

    def any_between(self, epoch: int, offset: int) -> bool:
        """True if another claim followed the one at `epoch` before journal `offset`."""
        return next(self._memtables.rows(self._row(epoch + 1), self._row(offset)), None) is not None

    def _row(self, offset: int) -> bytes:
        return self._prefix + offset.to_bytes(8, "big")
