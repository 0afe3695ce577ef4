"""Idempotent producers: which of their batches were appended, so that one that is sent again is not appended
twice.

Laws [tests/unit/test_wire_requests.py, tests/integration/test_wire_clients.py]
- A batch that has the numbers of one of the last five of its producer in its partition is that one: it gets
  the same offset and is not appended again, also after a crash: what is known is written in the commit of the
  batch.
- One that does not follow the last one is refused: something before it was lost.
- At most `MAX_KNOWN` producers are remembered, by partition; the one that has been silent longest is
  forgotten.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from perdure.streams.log.base import Receipt
from perdure.streams.wire.errors import Code, RequestRefused

MAX_KNOWN = 5_000
REMEMBERED = 5  # batches: as many as a client has in flight
SEQUENCES = 2**31
ROWS = b"producer/"
_FEW = 2**20


class SentBatch(msgspec.Struct, array_like=True):
    """A batch that was appended: its first and last number, and its offset."""

    first: int
    last: int
    offset: int


class _Known(msgspec.Struct, array_like=True):
    epoch: int
    batches: list[SentBatch]


class Producers:
    """The producers of all partitions. `rows`: what was remembered when the log was opened."""

    def __init__(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._receipts: dict[bytes, tuple[int, Receipt]] = {}
        for key, row in rows:
            self._known[key[len(ROWS) :]] = msgspec.msgpack.decode(row, type=_Known)

    def new_id(self) -> int:
        """A new producer id, drawn at random so that none is given out again after a restart."""
        return int.from_bytes(os.urandom(8), "big") >> 1

    def repeated(
        self, prefix: bytes, producer: int, epoch: int, first: int, count: int
    ) -> tuple[int, Receipt | None] | None:
        """Where a batch was appended before (its receipt, unless it is durable for certain); None: it is new.

        `prefix` names the partition. Raises `RequestRefused` for a batch that does not follow.
        """
        key = _key(prefix, producer)
        known = self._known.get(key)
        if known is None:
            return None
        if epoch < known.epoch:
            raise RequestRefused(
                Code.INVALID_PRODUCER_EPOCH, f"the producer has epoch {known.epoch}, this is of {epoch}"
            )
        if epoch > known.epoch:
            if first != 0:
                raise RequestRefused(
                    Code.OUT_OF_ORDER_SEQUENCE_NUMBER, f"a new epoch begins with 0, not with {first}"
                )
            return None
        last = (first + count - 1) % SEQUENCES
        for batch in known.batches:
            if batch.first == first and batch.last == last:
                place, receipt = self._receipts.get(key, (-1, None))
                return batch.offset, receipt if batch.offset <= place else None
        due = (known.batches[-1].last + 1) % SEQUENCES
        if first == due:
            return None
        if 0 < (due - first) % SEQUENCES < _FEW:
            raise RequestRefused(
                Code.DUPLICATE_SEQUENCE_NUMBER, f"batch {first} was appended long ago: {due} is due"
            )
        raise RequestRefused(Code.OUT_OF_ORDER_SEQUENCE_NUMBER, f"batch {first} was sent, {due} is due")

    def appended(
        self, prefix: bytes, producer: int, epoch: int, first: int, count: int, offset: int
    ) -> dict[bytes, bytes | None]:
        """Remember a batch that will lie at `offset`; returns the rows to write with it."""
        key = _key(prefix, producer)
        known = self._known.get(key)
        if known is None or known.epoch != epoch:
            known = self._known[key] = _Known(epoch, [])
        self._known.move_to_end(key)
        known.batches.append(SentBatch(first, (first + count - 1) % SEQUENCES, offset))
        del known.batches[:-REMEMBERED]
        rows: dict[bytes, bytes | None] = {ROWS + key: msgspec.msgpack.encode(known)}
        if len(self._known) > MAX_KNOWN:
            forgotten, _ = self._known.popitem(last=False)
            self._receipts.pop(forgotten, None)
            rows[ROWS + forgotten] = None
        return rows

    def under_way(self, prefix: bytes, producer: int, offset: int, receipt: Receipt) -> None:
        """Keep the receipt of the newest batch of a producer until it is durable; an older one is so no
        later.
        """
        key = _key(prefix, producer)
        self._receipts[key] = kept = offset, receipt

        def durable(_: BaseException | None) -> None:
            if self._receipts.get(key) is kept:
                del self._receipts[key]

        receipt.when_durable(durable)


def _key(prefix: bytes, producer: int) -> bytes:
    return prefix + producer.to_bytes(8, "big", signed=True)
