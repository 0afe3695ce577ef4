"""Fetch requests to Kafka, and their responses: records, or the error that ends the reader.

Tails (`tails.py`) and bounded reads (`reads.py`) build their requests and unpack the batches here.

Laws
- `read_committed`: records of open or aborted transactions are not seen, nor are control records.
- A position only moves over what was delivered, or over offsets that the broker says hold no record.
- An offset that does not exist, a topic that is gone, a damaged batch: `LogCorrupt`
  naming topic, partition and offset.

The requests are our own because aiokafka's consumer keeps a buffer per partition (records left in it for 100
ms stop the next fetch), forgets all buffers and positions when the assignment changes, and builds every
record twice; it is also silent about a topic that is gone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from aiokafka.errors import CorruptRecordException, for_code
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from perdure.schemas.errors import ConfigError, LogCorrupt, LogUnreachable
from perdure.streams.log.base import LogRecord
from perdure.streams.log.kafka.clients import named
from perdure.streams.log.kafka.wire import Fetch

READ_COMMITTED = 1
POLL_S = 0.1  # a tail that is opened or resumed waits for the poll under way
TAIL_BYTES = 256 * 1024  # per partition and fetch, so that one busy partition cannot hold the loop for long
READ_BYTES = 1024 * 1024
FETCH_BYTES = 64 * 1024 * 1024  # per fetch in all; the broker always sends one whole batch
RETRY_S = (0.05, 1.0)  # first and longest pause before another request after an error
GONE_AFTER_S = 10.0  # "unknown topic" may be a broker that has just started; for longer it is the truth
OUT_OF_RANGE_AFTER_S = 3.0  # "no such offset" may be a broker that does not know yet that another one leads
READ_TIMEOUT_S = 30.0  # without progress

OFFSET_OUT_OF_RANGE, CORRUPT_MESSAGE, UNKNOWN_TOPIC, TOPIC_DENIED = 1, 2, 3, 29
# No leader, not the leader, time-outs, replica away, disk off-line, leader epoch on the move: they pass.
PASSING = frozenset({UNKNOWN_TOPIC, OFFSET_OUT_OF_RANGE, 5, 6, 7, 8, 9, 13, 56, 74, 75})


class Fetched(NamedTuple):
    """The part of a fetch response that concerns one partition."""

    place: TopicPartition
    error_code: int
    high: int  # after the last record that all replicas in sync have
    end: int  # after the last stable record: at `high`, or where the first transaction begins that is still open
    aborted: Sequence[tuple[int, int]]
    data: bytes


def request(
    wanted: Iterable[tuple[TopicPartition, int]], max_bytes: int, wait_ms: int = int(POLL_S * 1000)
) -> Any:
    """A fetch request for `(place, offset)` pairs; the broker waits for `wait_ms` if there is nothing."""
    topics: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for place, offset in wanted:
        topics[place.topic].append((place.partition, offset, max_bytes))
    return Fetch(wait_ms, 1, FETCH_BYTES, READ_COMMITTED, list(topics.items()))


def answers(response: Any) -> list[Fetched]:
    """The parts of a fetch response (versions 4 to 11 put the same fields first and last)."""
    parts = []
    for topic, partitions in response.topics:
        for partition, error_code, high, end, *rest in partitions:
            aborted = rest[1] if response.API_VERSION >= 5 else rest[0]
            parts.append(
                Fetched(
                    TopicPartition(topic, partition), error_code, high, end, aborted or (), rest[-1] or b""
                )
            )
    return parts


def unpack(fetched: Fetched, position: int) -> tuple[list[LogRecord], int]:
    """The records from `position` on, and the position after them. Raises `LogCorrupt`."""
    records: list[LogRecord] = []
    pending = sorted(fetched.aborted, key=lambda transaction: transaction[1])
    aborted: set[int] = set()
    try:
        batches = MemoryRecords(fetched.data)
        if not batches.has_next():
            raise CorruptRecordException(f"{len(fetched.data)} bytes hold no whole batch")
        while batches.has_next():
            batch = batches.next_batch()
            delivered = batch.next_offset <= position  # what its producer has read from the acknowledgement
            if not delivered and not batch.validate_crc():
                raise CorruptRecordException("its checksum is wrong")
            while pending and pending[0][1] <= batch.base_offset:
                aborted.add(pending.pop(0)[0])
            if batch.is_control_batch:
                if ControlRecord.parse(next(batch).key) == ABORT_MARKER:
                    aborted.discard(batch.producer_id)
            elif not delivered and not (batch.is_transactional and batch.producer_id in aborted):
                for item in batch:
                    if item.offset >= position:  # a batch is sent whole, also from its middle
                        headers = tuple([(name, value or b"") for name, value in item.headers])
                        records.append(LogRecord(item.offset, item.timestamp, item.key, item.value, headers))
            position = max(position, batch.next_offset)
    except (CorruptRecordException, ValueError) as error:  # ValueError: lengths or text that make no sense
        raise LogCorrupt(
            f"{named(fetched.place)}: the batch at offset {position} or after it cannot be "
            f"read: {error!r}. Restore the topic from a replica or a backup."
        ) from error
    return records, position


def fatal(place: TopicPartition, error_code: int, position: int, lasted_s: float) -> Exception | None:
    """The error that ends a reader at once, or None if asking again may help.

    `lasted_s`: for how long brokers have said nothing else.
    """
    where = named(place)
    if error_code == OFFSET_OUT_OF_RANGE and lasted_s >= OUT_OF_RANGE_AFTER_S:
        return LogCorrupt(
            f"{where}: offset {position} does not exist. It was trimmed, or the topic was truncated or deleted and "
            f"created again; nothing was skipped. Restore the topic from a backup, then start again."
        )
    if error_code == UNKNOWN_TOPIC and lasted_s >= GONE_AFTER_S:
        return LogCorrupt(f"{where} is gone (next offset was {position}). Restore the topic.")
    if error_code == CORRUPT_MESSAGE:
        return LogCorrupt(
            f"{where}: the broker cannot read its own log at offset {position}. Restore a replica."
        )
    if error_code == TOPIC_DENIED:
        return ConfigError(
            f"{where}: reading is not allowed. Grant READ and DESCRIBE on the topic to this user."
        )
    if error_code and error_code not in PASSING:
        name = for_code(error_code).__name__
        return LogUnreachable(
            f"{where}: reading at offset {position} fails with {name}. See the broker's log."
        )
    return None
