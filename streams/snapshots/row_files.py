"""Row files: the ordered rows of a partition, cut into files by their content.

A file holds thousands of rows that follow one another, as a packed list of keys and values, and is named by
the hash of its bytes. Where a file ends depends on the keys around, not on what came before, so rows that did
not change lie in files that did not change, and those are not sent again.

Laws [test_row_files.py]
- The same rows give the same files, whatever was there before; one row more or less changes the files around
  it only.
- A file is at most `MOST_BYTES` large before it is packed, but for one row that is larger.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import NamedTuple

import msgspec

from perdure.schemas.errors import SnapshotDamaged

LEAST_BYTES, MOST_BYTES = 1 << 20, 8 << 20  # before packing
CUT_BITS = 0x3FF  # at about one of 1,024 keys a file may end
LEVEL = 1  # the fastest: the files are read rarely
_ROW_BYTES = 8  # about what a row costs beside its key and value

StoredRow = tuple[bytes, bytes]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[bytes]).decode


class RowFile(NamedTuple):
    """A file that was made: the hash of its bytes, the number of its rows, and the bytes."""

    sha256: str
    rows: int
    data: bytes


def packed(rows: Iterable[StoredRow]) -> Iterator[RowFile]:
    """The rows as files, in their order."""
    flat: list[bytes] = []
    size = 0
    crc = zlib.crc32
    for key, value in rows:
        row_bytes = len(key) + len(value) + _ROW_BYTES
        if size and ((size >= LEAST_BYTES and crc(key) & CUT_BITS == 0) or size + row_bytes > MOST_BYTES):
            yield _file(flat)
            flat, size = [], 0
        flat += (key, value)
        size += row_bytes
    if flat:
        yield _file(flat)


def _file(flat: list[bytes]) -> RowFile:
    data = zlib.compress(_encode(flat), LEVEL)
    return RowFile(sha256(data).hexdigest(), len(flat) // 2, data)


def unpacked(data: bytes, name: str, hash_: str, rows: int) -> Iterator[StoredRow]:
    """The rows in the file `name`, whose hash and number of rows the manifest has. Raises
    `SnapshotDamaged`.
    """
    if sha256(data).hexdigest() != hash_:
        raise SnapshotDamaged(f"{name} ({len(data)} bytes) does not have the SHA-256 of its manifest")
    try:
        flat = _decode(zlib.decompress(data))
    except (zlib.error, msgspec.DecodeError) as error:
        raise SnapshotDamaged(f"{name} has the right SHA-256, and cannot be unpacked: {error}") from error
    if len(flat) != 2 * rows:
        raise SnapshotDamaged(f"{name} has {len(flat) / 2:g} rows, its manifest says {rows}")
    return zip(flat[::2], flat[1::2], strict=True)
