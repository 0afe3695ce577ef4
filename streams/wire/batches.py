"""Record batches as Kafka's clients write and read them (magic 2).

A client's batch becomes the records that the log appends; records of the log become a batch that a client
fetches. The code is our own: kio reads and writes batches in Python too, with a datetime for each record, at
a fifth of the speed.

Laws [tests/unit/test_wire_batches.py]
- A batch whose checksum, lengths or offsets do not agree is refused as a whole.
- What a batch becomes in memory is bounded: `MAX_BYTES` after decompression, `MAX_PARTS` records and headers.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import google_crc32c

from perdure.streams.log.base import Headers, LogRecord, Record
from perdure.streams.wire.compression import TooMuch, Undecodable, decompressed
from perdure.streams.wire.errors import Code, RequestRefused

MAX_BYTES = 16 * 1024 * 1024
MAX_PARTS = 250_000
HEAD = struct.Struct(">qiibIhiqqqhii")  # base offset … record count
CRC_FROM = 21  # the checksum covers what follows it
_LENGTH_FROM = 12
_CODEC, _TRANSACTIONAL, _CONTROL = 0x07, 0x10, 0x20
_MAGIC = 2
_ZIGZAG = [
    bytes([n]) if n < 0x80 else bytes([n & 0x7F | 0x80, n >> 7]) for n in range(0x4000)
]  # of one or two bytes, by the number in zigzag


class ProducedBatch(NamedTuple):
    """A batch that a client sent."""

    producer_id: int
    producer_epoch: int
    first_sequence: int
    records: list[Record]


def read_batch(data: bytes) -> ProducedBatch:
    """The one batch in `data`, checked. Raises `RequestRefused`."""
    if len(data) < HEAD.size:
        raise RequestRefused(Code.CORRUPT_MESSAGE, f"a batch of {len(data)} bytes has no whole head")
    (_, length, _, magic, crc, attributes, last, _, _, producer_id, epoch, sequence, count) = (
        HEAD.unpack_from(data)
    )
    if magic != _MAGIC:
        raise RequestRefused(
            Code.UNSUPPORTED_FOR_MESSAGE_FORMAT, f"record format {magic}: only format 2 is read"
        )
    if length != len(data) - _LENGTH_FROM:
        raise RequestRefused(Code.INVALID_RECORD, "a partition's records are exactly one batch")
    if google_crc32c.value(data[CRC_FROM:]) != crc:
        raise RequestRefused(Code.CORRUPT_MESSAGE, "the checksum of the batch does not fit")
    if attributes & (_TRANSACTIONAL | _CONTROL):
        raise RequestRefused(Code.INVALID_RECORD, "transactions are not supported by the embedded log")
    if count < 1 or last != count - 1:
        raise RequestRefused(
            Code.INVALID_RECORD, f"the batch claims {count} records and a last offset of {last}"
        )
    body = data[HEAD.size :]
    if codec := attributes & _CODEC:
        try:
            body = decompressed(codec, body, MAX_BYTES)
        except TooMuch:
            raise RequestRefused(
                Code.MESSAGE_TOO_LARGE, f"a batch has more than {MAX_BYTES} bytes, decompressed"
            ) from None
        except Undecodable as error:
            raise RequestRefused(Code.CORRUPT_MESSAGE, str(error)) from None
    if count > MAX_PARTS or count > len(body):
        raise RequestRefused(Code.MESSAGE_TOO_LARGE, f"a batch of {count} records: at most {MAX_PARTS} fit")
    try:
        return ProducedBatch(producer_id, epoch, sequence, _records(body, count))
    except (IndexError, ValueError) as error:
        raise RequestRefused(
            Code.INVALID_RECORD, f"the records of the batch do not agree with their lengths: {error}"
        ) from None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in zigzag and the place after it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
        if shift > 63:
            raise ValueError(f"a number at byte {at} has more than ten bytes")


def _records(data: bytes, count: int) -> list[Record]:
    """`count` records. Raises IndexError or ValueError."""
    # every command of a Kafka client passes here: the usual case of numbers of one byte is written out
    at, end, records, parts = 0, len(data), [], MAX_PARTS - count
    for index in range(count):
        size, at = _varint(data, at)
        stop = at + size
        if size < 6 or stop > end:
            raise ValueError(f"record {index} has {size} bytes")
        _, at = _varint(data, at + 1)  # its time: the log has a clock of its own
        if (byte := data[at]) < 0x80:
            at += 1
            offset = (byte >> 1) ^ -(byte & 1)
        else:
            offset, at = _varint(data, at)
        if offset != index:
            raise ValueError(f"record {index} is numbered {offset}")
        key, at = _blob(data, at, stop)
        value, at = _blob(data, at, stop)
        if data[at] == 0:
            at += 1
            headers: Headers = ()
        else:
            number, at = _varint(data, at)
            parts -= number
            if number < 0 or parts < 0:
                raise ValueError(f"record {index} has {number} headers")
            headers, at = _headers(data, at, stop, number)
        if at != stop:
            raise ValueError(f"record {index} ends at byte {at} in place of {stop}")
        records.append(Record(key, value, headers))
    if at != end:
        raise ValueError(f"{end - at} bytes follow the last record")
    return records


def _blob(data: bytes, at: int, stop: int) -> tuple[bytes | None, int]:
    if (byte := data[at]) < 0x80:
        at += 1
        size = (byte >> 1) ^ -(byte & 1)
    else:
        size, at = _varint(data, at)
    if size < 0:
        return None, at
    end = at + size
    if end > stop:
        raise ValueError(f"a field of {size} bytes at byte {at} passes the end of its record")
    return data[at:end], end


def _headers(data: bytes, at: int, stop: int, number: int) -> tuple[Headers, int]:
    headers = []
    for _ in range(number):
        name, at = _blob(data, at, stop)
        value, at = _blob(data, at, stop)
        if name is None:
            raise ValueError("a header has no name")
        headers.append((name.decode(), value or b""))
    return tuple(headers), at


def _number(value: int) -> bytes:
    """A number as a varint in zigzag."""
    value = value << 1 if value >= 0 else (-value << 1) - 1
    if value < 0x4000:
        return _ZIGZAG[value]
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_batch(records: Sequence[LogRecord]) -> bytes:
    """Consecutive records of one partition as a batch that is not compressed."""
    first, last = records[0], records[-1]
    base_offset, base_ms = first.offset, first.time_ms
    out = bytearray(HEAD.size)
    latest_ms = base_ms
    for record in records:
        key, value, time_ms = record.key, record.value, record.time_ms
        latest_ms = max(latest_ms, time_ms)
        parts = [
            b"\x00",
            _number(time_ms - base_ms),
            _number(record.offset - base_offset),
            b"\x01" if key is None else _number(len(key)) + key,
            b"\x01" if value is None else _number(len(value)) + value,
            _number(len(record.headers)),
        ]
        for name, text in record.headers:
            encoded = name.encode()
            parts += (_number(len(encoded)), encoded, _number(len(text)), text)
        body = b"".join(parts)
        out += _number(len(body))
        out += body
    count = len(records)
    fields = (base_ms, latest_ms, -1, -1, -1, count)
    HEAD.pack_into(
        out, 0, base_offset, len(out) - _LENGTH_FROM, 0, _MAGIC, 0, 0, last.offset - base_offset, *fields
    )
    struct.pack_into(">I", out, CRC_FROM - 4, google_crc32c.value(bytes(memoryview(out)[CRC_FROM:])))
    return bytes(out)
