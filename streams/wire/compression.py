"""Decompression of batches, of `limit` bytes at most.

Producers may compress batches by gzip, snappy, lz4 or zstd. Batches that are fetched are never compressed.
"""

from __future__ import annotations

import zlib
from typing import Any

import cramjam

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
NAMES = {GZIP: "gzip", SNAPPY: "snappy", LZ4: "lz4", ZSTD: "zstd"}
_XERIAL = b"\x82SNAPPY\x00"  # the framing of Java's clients: blocks, each behind its length
_XERIAL_HEADER_BYTES = 16
_PIECE_BYTES = 64 * 1024


class TooMuch(Exception):
    """The decompressed bytes are more than the limit."""


class Undecodable(Exception):
    """The bytes were not made by the codec that they name."""


def decompressed(codec: int, data: bytes, limit: int) -> bytes:
    """The bytes that `data` stands for. Raises `TooMuch` or `Undecodable`."""
    try:
        match codec:
            case 1:
                return _gunzip(data, limit)
            case 2:
                return _unsnap(data, limit)
            case 3:
                return _into(cramjam.lz4, data, limit)
            case 4:
                return _into(cramjam.zstd, data, limit)
    except (zlib.error, cramjam.DecompressionError, OSError, ValueError) as error:
        raise Undecodable(f"{NAMES[codec]}: {error}") from None
    raise Undecodable(f"the codec {codec} is not known")


def _gunzip(data: bytes, limit: int) -> bytes:
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    plain = inflater.decompress(data, limit + 1)
    if len(plain) > limit:
        raise TooMuch
    if not inflater.eof:
        raise Undecodable("gzip: it is incomplete")
    return plain


def _unsnap(data: bytes, limit: int) -> bytes:
    if not data.startswith(_XERIAL):
        return _snappy_block(data, limit)
    out, at = bytearray(), _XERIAL_HEADER_BYTES
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        at += 4
        if size > len(data) - at:
            raise Undecodable("snappy: a block is incomplete")
        out += _snappy_block(data[at : at + size], limit - len(out))
        at += size
    return bytes(out)


def _snappy_block(data: bytes, limit: int) -> bytes:
    if cramjam.snappy.decompress_raw_len(data) > limit:
        raise TooMuch
    return bytes(cramjam.snappy.decompress_raw(data))


def _into(codec: Any, data: bytes, limit: int) -> bytes:
    """Into a buffer that has room for `limit` bytes at most, tried small first."""
    room = min(limit, max(8 * len(data), 4096))
    while True:
        buffer = bytearray(room)
        try:
            size = codec.decompress_into(data, buffer)
        except cramjam.DecompressionError as error:
            if "whole buffer" not in str(error):  # otherwise the buffer was too small
                raise
            if room == limit:
                raise TooMuch from None
            room = min(limit, 16 * room)
            continue
        return bytes(memoryview(buffer)[:size])
