"""Fetch responses without a broker: which records of a batch are seen, and which errors end a reader."""

from __future__ import annotations

import struct
from itertools import accumulate
from types import SimpleNamespace
from typing import Any, NamedTuple

import google_crc32c
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.schemas.errors import ConfigError, LogCorrupt, LogUnreachable
from perdure.streams.log.base import LogRecord
from perdure.streams.log.kafka.fetch import (
    GONE_AFTER_S,
    OUT_OF_RANGE_AFTER_S,
    PASSING,
    Fetched,
    answers,
    fatal,
    request,
    unpack,
)

PLACE = TopicPartition("app.journal", 3)
STAMP_MS = 1_700_000_000_000
NO_PRODUCER = -1
CONTROL_MASK = 0x20
ATTRIBUTES, LAST_DELTA, CHECKED_FROM, CRC = 21, 23, 21, 17  # where these fields of a batch are


class Batch(NamedTuple):
    """What a test puts into the log: values of a producer, or the marker that ends its transaction."""

    producer: int = NO_PRODUCER
    values: tuple[bytes, ...] = ()
    ends: str = ""  # "commit" or "abort": a control batch
    gap: int = 0  # offsets behind it that compaction has emptied


def encoded(batch: Batch, base: int) -> bytes:
    transactional = batch.producer != NO_PRODUCER
    builder = DefaultRecordBatchBuilder(2, 0, int(transactional), batch.producer, 0, 0, 1 << 20)
    if batch.ends:
        builder.append(0, STAMP_MS, struct.pack(">hh", 0, int(batch.ends == "commit")), b"\0\0\0\0\0\0", [])
    for at, value in enumerate(batch.values):
        builder.append(at, STAMP_MS + at, b"key", value, [("name", b"v"), ("none", None)])
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, base)
    struct.pack_into(">i", data, LAST_DELTA, length(batch) - 1)
    if batch.ends:
        (attributes,) = struct.unpack_from(">h", data, ATTRIBUTES)
        struct.pack_into(">h", data, ATTRIBUTES, attributes | CONTROL_MASK)
    struct.pack_into(">I", data, CRC, google_crc32c.value(bytes(data[CHECKED_FROM:])))
    return bytes(data)


def length(batch: Batch) -> int:
    return (1 if batch.ends else len(batch.values)) + batch.gap


def fetched(batches: list[Batch], aborted: list[tuple[int, int]] | None = None) -> Fetched:
    bases = [0, *accumulate(length(batch) for batch in batches)]
    data = b"".join(encoded(batch, base) for batch, base in zip(batches, bases, strict=False))
    return Fetched(PLACE, 0, bases[-1], bases[-1], aborted or [], data)


def seen(records: list[LogRecord]) -> list[tuple[int, bytes | None]]:
    return [(each.offset, each.value) for each in records]


def fields(record: LogRecord) -> tuple[object, ...]:
    return record.offset, record.time_ms, record.key, record.value, record.headers


def test_a_record_has_its_offset_stamp_key_and_headers() -> None:
    """A header without a value has an empty one."""
    (record,), after = unpack(fetched([Batch(values=(b"x",))]), 0)
    expected = LogRecord(0, STAMP_MS, b"key", b"x", (("name", b"v"), ("none", b"")))
    assert fields(record) == fields(expected)
    assert after == 1


def test_an_aborted_transaction_is_passed_over_and_the_next_one_of_its_producer_is_seen() -> None:
    """Control records are not seen either; the position is behind all of them."""
    log = [
        Batch(7, (b"undone", b"undone")),
        Batch(8, (b"done",)),
        Batch(7, ends="abort"),
        Batch(8, ends="commit"),
        Batch(7, (b"later",)),
        Batch(7, ends="commit"),
    ]
    records, after = unpack(fetched(log, [(7, 0)]), 0)
    assert seen(records) == [(2, b"done"), (5, b"later")]
    assert after == 7


def test_what_lies_before_the_position_is_not_delivered_again() -> None:
    """The broker sends a batch whole, also for an offset in its middle."""
    records, after = unpack(fetched([Batch(values=(b"0", b"1", b"2")), Batch(values=(b"3",))]), 2)
    assert seen(records) == [(2, b"2"), (3, b"3")]
    assert after == 4


def test_offsets_that_compaction_has_emptied_are_passed_over() -> None:
    """Also where nothing of a batch is left behind the position."""
    records, after = unpack(fetched([Batch(values=(b"0",), gap=5)]), 3)
    assert (records, after) == ([], 6)


@pytest.mark.parametrize("data", [b"", b"\0" * 8, encoded(Batch(values=(b"x",)), 0)[:-1]], ids=len)
def test_bytes_without_a_whole_batch_are_corrupt(data: bytes) -> None:
    """They would be asked for again without end."""
    with pytest.raises(LogCorrupt, match=r"journal partition 3 .*offset 9"):
        unpack(Fetched(PLACE, 0, 9, 9, [], data), 9)


def test_any_flipped_byte_behind_the_head_of_a_batch_is_corrupt() -> None:
    """Its checksum covers them; the bytes before it are the broker's."""
    data = encoded(Batch(values=(b"value",)), 0)
    for at in range(CRC, len(data)):
        damaged = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        with pytest.raises(LogCorrupt, match="cannot be read"):
            unpack(Fetched(PLACE, 0, 1, 1, [], damaged), 0)


class Model:
    """A log of producers whose transactions overlap, and what of it is to be seen."""

    def __init__(self, steps: list[tuple[int, int, bool]]) -> None:
        self.batches: list[Batch] = []
        self.end = 0
        self.aborted: list[tuple[int, int]] = []
        self.visible: dict[int, bytes] = {}
        self._open: dict[int, dict[int, bytes]] = {}
        for producer, count, commits in steps:
            if count:
                self._write(producer or NO_PRODUCER, count)
            elif producer in self._open:
                self._end(producer, commits=commits)
        for producer in tuple(self._open):
            self._end(producer, commits=producer % 2 == 0)

    def _append(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.end += length(batch)

    def _write(self, producer: int, count: int) -> None:
        values = {offset: b"%d" % offset for offset in range(self.end, self.end + count)}
        if producer == NO_PRODUCER:
            self.visible |= values
        else:
            self._open.setdefault(producer, {}).update(values)
        self._append(Batch(producer, tuple(values.values()), gap=count % 2))

    def _end(self, producer: int, *, commits: bool) -> None:
        values = self._open.pop(producer)
        if commits:
            self.visible |= values
        else:
            self.aborted.append((producer, min(values)))
        self._append(Batch(producer, ends="commit" if commits else "abort"))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), min_size=1), st.data())
def test_exactly_what_is_committed_is_seen_from_any_position(
    steps: list[tuple[int, int, bool]], data: st.DataObject
) -> None:
    """Transactions overlap as they like, and a fetch begins in any batch of them."""
    model = Model(steps)
    if not model.batches:
        return
    first = data.draw(st.integers(0, len(model.batches) - 1))
    bases = [0, *accumulate(length(batch) for batch in model.batches)]
    position = data.draw(st.integers(bases[first], bases[first + 1] - 1))
    sent = b"".join(
        encoded(batch, base) for batch, base in list(zip(model.batches, bases, strict=False))[first:]
    )
    ends = [
        (base, batch.producer)
        for batch, base in zip(model.batches, bases, strict=False)
        if batch.ends == "abort"
    ]
    # as a broker does: the aborted transactions that reach into what is sent
    reach = [
        (producer, began)
        for producer, began in model.aborted
        if min(at for at, its in ends if its == producer and at > began) >= bases[first]
    ]
    records, after = unpack(Fetched(PLACE, 0, model.end, model.end, reach, sent), position)
    assert seen(records) == sorted(each for each in model.visible.items() if each[0] >= position)
    assert after == model.end


@pytest.mark.parametrize(
    ("version", "rest"),
    [(4, ([(7, 1)], b"data")), (5, (0, [(7, 1)], b"data")), (11, (0, [(7, 1)], -1, b"data"))],
)
def test_the_parts_of_a_response_are_read_in_each_version(version: int, rest: tuple[Any, ...]) -> None:
    """What was added to the protocol stands between the fields that are read."""
    response = SimpleNamespace(API_VERSION=version, topics=[(PLACE.topic, [(3, 0, 20, 18, *rest)])])
    assert answers(response) == [Fetched(PLACE, 0, 20, 18, [(7, 1)], b"data")]


def test_a_part_without_records_has_empty_bytes() -> None:
    """A broker sends null for none."""
    response = SimpleNamespace(API_VERSION=11, topics=[(PLACE.topic, [(3, 1, -1, -1, 0, None, -1, None)])])
    assert answers(response) == [Fetched(PLACE, 1, -1, -1, (), b"")]


def test_a_request_groups_its_places_by_topic() -> None:
    """Each with its offset and the most bytes that it takes."""
    wanted = [(PLACE, 5), (TopicPartition("app.commands", 0), 7), (TopicPartition(PLACE.topic, 1), 9)]
    assert request(wanted, 100).topics == [
        (PLACE.topic, [(3, 5, 100), (1, 9, 100)]),
        ("app.commands", [(0, 7, 100)]),
    ]


@pytest.mark.parametrize(
    ("code", "gone_s", "error"),
    [
        (0, 0, None),
        (1, 0, None),
        (1, OUT_OF_RANGE_AFTER_S, LogCorrupt),
        (2, 0, LogCorrupt),
        (3, GONE_AFTER_S - 1, None),
        (3, GONE_AFTER_S, LogCorrupt),
        (29, 0, ConfigError),
        (-1, 0, LogUnreachable),
        (87, 0, LogUnreachable),
        *((code, 0, None) for code in sorted(PASSING - {1, 3})),
    ],
)
def test_an_error_ends_the_reader_or_passes(code: int, gone_s: float, error: type[Exception] | None) -> None:
    """An offset, a topic or a batch that is gone does not come back; a leader does."""
    found = fatal(PLACE, code, 42, gone_s)
    assert type(found) is (error or type(None))
    assert error is None or "app.journal" in str(found)
