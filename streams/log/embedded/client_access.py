"""What the Kafka listener needs of the embedded log beyond `Log`: batches, topics of clients, and rows beside
records.

Clients of the listener (`streams/wire/`) append batches of records, read bounded pieces of a partition, and
may create ordinary topics of their own, which lie beside perdure's four in the same database. Rows hold what
the
listener must remember (committed offsets, sequence numbers of producers): they are written in the same commit
as the records they belong to.

Laws [tests/unit/test_wire_log.py]
- The records of a batch lie together, in order, and are durable together with its rows or not at all.
- A topic of clients has a number of its own forever, which begins the keys of its records; topics of perdure
  and their offsets are not affected by it.
- A batch of more than `CHUNK` records does not hold up the event loop: its reader gets it in pieces.
- An earlier perdure that opens the log ignores these topics and rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from rocksdict import ReadOptions

from perdure.schemas.errors import LogCorrupt
from perdure.streams.log.base import LogRecord, Receipt, Record, Topic
from perdure.streams.log.embedded.log import LINGER_S, EmbeddedLog
from perdure.streams.log.embedded.records import Trimmed
from perdure.streams.log.embedded.tail import CHUNK, EmbeddedStream
from perdure.streams.log.embedded.wal_check import REMEDY
from perdure.streams.log.embedded.write_batch import CommitBatch, Outcome, RefusedReceipt

_ROW = b"\x00wire/"  # rows of the log itself begin with a zero byte
_TOPICS = b"topic/"
_CLIENTS = b"u"  # the first byte of the keys of their records


class _TopicRow(msgspec.Struct, array_like=True):
    number: int
    partitions: int
    compacted: bool


class ClientTopic(NamedTuple):
    """A topic that a client created. `compacted`: its records are kept forever."""

    streams: list[EmbeddedStream]
    compacted: bool


class BatchPlace(NamedTuple):
    """The place of a batch that was appended, and the receipt that reports when it is durable."""

    first_offset: int
    time_ms: int
    receipt: Receipt


class _BatchReceipt:
    """The receipt of what was put into a batch so far."""

    __slots__ = ("_batch", "_place")
    offset = None

    def __init__(self, batch: CommitBatch) -> None:
        self._batch = batch
        self._place = batch.count

    def when_durable(self, then: Outcome) -> None:
        self._batch.when_over(self._place, then)


class ClientAccess:
    """The access of Kafka's clients to an embedded log that was started."""

    def __init__(self, log: EmbeddedLog) -> None:
        self._log = log
        self.partitions = log.partitions
        self.topics: dict[str, ClientTopic] = {}
        self._next_number = 0
        for key, row in self.rows(_TOPICS):
            try:
                saved = msgspec.msgpack.decode(row, type=_TopicRow)
                name = key[len(_TOPICS) :].decode()
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise LogCorrupt(
                    f"the row {key!r} of a client's topic in the log in {log.path} is unreadable: {error}; {REMEDY}"
                ) from error
            self._open(name, saved)

    def stream(self, topic: Topic, partition: int) -> EmbeddedStream:
        """A partition of one of perdure's topics."""
        return self._log._streams[topic][partition]

    def _open(self, name: str, row: _TopicRow) -> None:
        log, number = self._log, _CLIENTS + row.number.to_bytes(4, "big")
        streams = [EmbeddedStream(log._database, log.path, name, p, number) for p in range(row.partitions)]
        self.topics[name] = ClientTopic(streams, row.compacted)
        self._next_number = max(self._next_number, row.number + 1)

    def create(self, name: str, partitions: int, *, compacted: bool) -> Receipt:
        """Create a topic; it can be used at once, and is there after a crash once the receipt is durable."""
        row = _TopicRow(self._next_number, partitions, compacted)
        receipt = self.put({_TOPICS + name.encode(): msgspec.msgpack.encode(row)})
        if not isinstance(receipt, RefusedReceipt):
            self._open(name, row)
        return receipt

    def append(
        self, stream: EmbeddedStream, records: Sequence[Record], rows: Mapping[bytes, bytes | None]
    ) -> BatchPlace:
        """Append records to a partition, with rows that become durable with them (None removes one)."""
        log = self._log
        if log._refusal is not None:
            return BatchPlace(-1, -1, RefusedReceipt(log._refusal))
        if log._timer is None:
            log._timer = log._loop.call_later(LINGER_S, log._tick)
        batch, first = log._open_batch, stream.next
        self._write(batch, rows)
        if len(records) > CHUNK:
            return self._append_many(stream, batch, records)
        for record in records:
            last = log._place(stream, batch, record, None)
        return BatchPlace(first, last.time_ms, last)

    def _append_many(
        self, stream: EmbeddedStream, batch: CommitBatch, records: Sequence[Record]
    ) -> BatchPlace:
        """Append so many that the event loop would stand still if their reader got them all at once.

        It reads them from the database, a chunk in each pass of the event loop, once they are written.
        """
        first = stream.next
        for tail in stream.live:
            tail.fall_behind()
        self._log._place_unseen(stream, batch, records)
        stream.unwritten, stream.held = [], stream.next
        return BatchPlace(first, stream.last_time_ms, _BatchReceipt(batch))

    def put(self, rows: Mapping[bytes, bytes | None]) -> Receipt:
        """Write rows (None removes one), in one commit."""
        log = self._log
        if log._refusal is not None:
            return RefusedReceipt(log._refusal)
        batch = log._open_batch
        self._write(batch, rows)
        batch.count += 1
        if log._timer is None:
            log._timer = log._loop.call_later(LINGER_S, log._tick)
        return _BatchReceipt(batch)

    @staticmethod
    def _write(batch: CommitBatch, rows: Mapping[bytes, bytes | None]) -> None:
        for key, row in rows.items():
            if row is None:
                batch.write.delete(_ROW + key)
            else:
                batch.write.put(_ROW + key, row)

    def rows(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The rows whose keys begin with `prefix`, in the order of their keys."""
        begin = _ROW + prefix
        bounds = ReadOptions()
        bounds.set_iterate_upper_bound(begin[:-1] + bytes([begin[-1] + 1]))
        rows: Any = self._log._database.items(from_key=begin, read_opt=bounds)
        for key, row in rows:
            yield key[len(_ROW) :], row

    def read(self, stream: EmbeddedStream, start: int, max_bytes: int) -> list[LogRecord]:
        """Durable records from `start` on, about `max_bytes` of them, and at least one if there is any."""
        return stream.scan_bytes(start, stream.durable, max_bytes)

    def first_since(self, stream: EmbeddedStream, time_ms: int) -> LogRecord | None:
        """The first durable record that is not older than `time_ms`; None if all are.

        By a binary search: stamps rise, except where a clock was wrong by more than a minute.
        """
        low, high, match = stream.start, stream.durable, None
        while low < high:
            middle = (low + high) // 2
            record = stream.scan(middle, stream.durable, 1)[0]
            if record.time_ms >= time_ms:
                high, match = middle, record
            else:
                low = middle + 1
        return match

    def trim(self, stream: EmbeddedStream, before: int) -> None:
        """Remove records of a client's topic below `before`."""
        log, before = self._log, min(before, stream.durable)
        if log._refusal is not None or before <= stream.start:
            return
        batch = log._open_batch
        stream.trim(batch.write, stream.start, Trimmed(before, stream.next, stream.last_time_ms))
        batch.count += 1
        stream.start = before
        batch.when_over(batch.count, _ignore)

    def watch(self, streams: Sequence[EmbeddedStream], moved: Callable[[], None]) -> Callable[[], None]:
        """Call `moved` whenever further records of one of these are durable, until what this returns is
        called.
        """
        for stream in streams:
            stream.watchers.add(moved)

        def end() -> None:
            for stream in streams:
                stream.watchers.discard(moved)

        return end


def _ignore(_: BaseException | None) -> None:
    """In place of a receiver of the outcome."""
