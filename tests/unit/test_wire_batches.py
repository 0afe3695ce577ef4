"""Record batches: those that another implementation (aiokafka's) writes are read, and it reads ours."""

from __future__ import annotations

import gzip
from random import Random

import cramjam
import google_crc32c
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.streams.log.base import Headers, LogRecord
from perdure.streams.wire import batches
from perdure.streams.wire.batches import CRC_FROM, HEAD, read_batch, write_batch
from perdure.streams.wire.compression import NAMES, TooMuch, decompressed
from perdure.streams.wire.errors import Code, RequestRefused

Plain = tuple[bytes | None, bytes | None, Headers]
texts = st.none() | st.binary(max_size=300)
records = st.lists(
    st.tuples(
        texts,
        texts,
        st.lists(st.tuples(st.text(max_size=80), st.binary(max_size=200)), max_size=3).map(tuple),
    ),
    min_size=1,
    max_size=20,
)


def theirs(wanted: list[Plain], codec: int = 0, producer: int = -1) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=0,
        producer_id=producer,
        producer_epoch=3 if producer >= 0 else -1,
        base_sequence=9 if producer >= 0 else -1,
        batch_size=1 << 24,
    )
    for offset, (key, value, headers) in enumerate(wanted):
        builder.append(offset, 5_000 + offset * 100, key, value, list(headers))
    return bytes(builder.build())


@settings(max_examples=60, deadline=None)
@given(wanted=records, codec=st.integers(0, 4), producer=st.sampled_from([-1, 77]))
def test_what_others_write_is_read(wanted: list[Plain], codec: int, producer: int) -> None:
    """What others write is read."""
    batch = read_batch(theirs(wanted, codec, producer))
    assert [(record.key, record.value, record.headers) for record in batch.records] == wanted
    assert batch[:3] == ((77, 3, 9) if producer == 77 else (-1, -1, -1))


@settings(max_examples=60, deadline=None)
@given(
    wanted=records,
    base=st.integers(0, 2**40),
    steps=st.lists(st.integers(-(2**33), 2**33), min_size=20, max_size=20),
)
def test_others_read_what_we_write(wanted: list[Plain], base: int, steps: list[int]) -> None:
    """Others read what we write."""
    kept = [
        LogRecord(base + at, 2**40 + step, *each)
        for at, (each, step) in enumerate(zip(wanted, steps, strict=False))
    ]
    read = MemoryRecords(write_batch(kept))
    batch = read.next_batch()
    assert batch.validate_crc()
    assert not read.has_next()
    assert [(each.offset, each.timestamp, each.key, each.value, tuple(each.headers)) for each in batch] == [
        (each.offset, each.time_ms, each.key, each.value, each.headers) for each in kept
    ]
    assert batch.next_offset == base + len(kept)
    assert batch.max_timestamp == max(each.time_ms for each in kept)


def test_every_changed_byte_is_noticed() -> None:
    """By the checksum behind it; before it by the lengths and the format. The epoch of the leader may be
    anything.
    """
    data = theirs([(b"k", b"v" * 20, ())] * 3)
    free = {*range(8), *range(12, 16)}  # the base offset and the leader's epoch, which brokers write
    for at in set(range(len(data))) - free:
        changed = bytearray(data)
        changed[at] ^= 0x11
        with pytest.raises(RequestRefused):
            read_batch(bytes(changed))


def checked(data: bytearray) -> bytes:
    """The batch with the checksum and the length that it should have."""
    data[8:12] = (len(data) - 12).to_bytes(4, "big")
    data[CRC_FROM - 4 : CRC_FROM] = google_crc32c.value(bytes(data[CRC_FROM:])).to_bytes(4, "big")
    return bytes(data)


def test_lengths_that_lie_are_refused_behind_a_valid_checksum() -> None:
    """Lengths that lie are refused behind a valid checksum."""
    random, data = Random(5), theirs([(b"key", b"v" * 20, (("a", b"b"),))] * 5)
    refused = 0
    for _ in range(3_000):
        changed = bytearray(data)
        for _ in range(random.randrange(1, 4)):
            changed[random.randrange(CRC_FROM, len(changed))] = random.choice((0, 1, 2, 0x7F, 0x80, 0xFF))
        try:
            read_batch(checked(changed))
        except RequestRefused:
            refused += 1
    assert refused > 1_000


@pytest.mark.parametrize("codec", NAMES)
def test_little_that_becomes_much_is_refused(codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little that becomes much is refused."""
    plain = bytes(4_000_000)
    packed = {
        1: gzip.compress,
        2: lambda data: bytes(cramjam.snappy.compress_raw(data)),
        3: lambda data: bytes(cramjam.lz4.compress(data)),
        4: lambda data: bytes(cramjam.zstd.compress(data)),
    }[codec](plain)
    assert decompressed(codec, packed, len(plain)) == plain
    with pytest.raises(TooMuch):
        decompressed(codec, packed, len(plain) - 1)
    monkeypatch.setattr(batches, "MAX_BYTES", 1_000_000)
    data = bytearray(HEAD.size) + packed
    HEAD.pack_into(data, 0, 0, 0, 0, 2, 0, codec, 0, 0, 0, -1, -1, -1, 1)
    with pytest.raises(RequestRefused) as caught:
        read_batch(checked(data))
    assert caught.value.code == Code.MESSAGE_TOO_LARGE


def test_a_batch_of_too_many_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of too many parts is refused."""
    monkeypatch.setattr(batches, "MAX_PARTS", 10)
    assert len(read_batch(theirs([(None, None, ())] * 10)).records) == 10
    with pytest.raises(RequestRefused):
        read_batch(theirs([(None, None, ())] * 11))
    with pytest.raises(RequestRefused):
        read_batch(theirs([(None, None, (("a", b""),) * 10)]))


@pytest.mark.parametrize("attributes", [0x10, 0x20])
def test_transactions_and_control_batches_are_refused(attributes: int) -> None:
    """Transactions and control batches are refused."""
    data = bytearray(theirs([(b"k", b"v", ())]))
    data[CRC_FROM + 1] = attributes
    with pytest.raises(RequestRefused, match="transactions"):
        read_batch(checked(data))
