"""Messages of the Kafka protocol: from bytes to a dict, and from a dict to bytes, by a table of fields.

Each request file declares the fields of its request and of its response, with the versions that have them.
The reader is our own because frames come from outside: it trusts no length. (kio's reader, which the tests
use on our responses, allocates whatever an array's length claims.)

Laws [tests/unit/test_wire_codec.py]
- A message that ends before its last field is an `UnreadableFrame`. Bytes behind that field are ignored, as a
  broker does: librdkafka's Metadata request for all topics has three of them.
- An array is never longer than the bytes that are left, and a request has at most `MAX_ELEMENTS` elements in
  all.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

MAX_ELEMENTS = 50_000
EVER = 99
Message = dict[str, Any]


class UnreadableFrame(Exception):
    """A frame is not a request that this listener can read: the connection is closed."""


class Array(NamedTuple):
    """An array of a primitive type or of structures; null means empty, unless it is nullable."""

    of: str | Struct
    nullable: bool = False


class Field(NamedTuple):
    """A field and the versions that have it; in others its value is `default`."""

    name: str
    kind: str | Array
    since: int = 0
    until: int = EVER
    default: Any = None


class Struct(NamedTuple):
    """A structure, by its fields in order."""

    fields: tuple[Field, ...]


def structure(*fields: Field) -> Struct:
    return Struct(fields)


def array(*fields: Field, nullable: bool = False) -> Array:
    """An array of structures with these fields."""
    return Array(Struct(fields), nullable)


_INTEGERS = {
    "int8": struct.Struct(">b"),
    "int16": struct.Struct(">h"),
    "int32": struct.Struct(">i"),
    "int64": struct.Struct(">q"),
}


class FrameReader:
    """A frame that is read from `at` on."""

    __slots__ = ("_elements", "at", "data")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at
        self._elements = MAX_ELEMENTS

    def integer(self, kind: str) -> int:
        packed = _INTEGERS[kind]
        at = self.at
        self.at = at + packed.size
        if self.at > len(self.data):
            raise UnreadableFrame(f"it ends at byte {len(self.data)}, within a field")
        return int(packed.unpack_from(self.data, at)[0])

    def boolean(self) -> bool:
        return self.integer("int8") != 0

    def varint(self) -> int:
        """An unsigned varint of at most 5 bytes."""
        value = 0
        for shift in range(0, 35, 7):
            if self.at >= len(self.data):
                raise UnreadableFrame(f"it ends at byte {len(self.data)}, within a length")
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise UnreadableFrame("a length has more than 5 bytes")

    def take(self, size: int) -> bytes:
        if size < 0 or size > len(self.data) - self.at:
            raise UnreadableFrame(f"a length of {size} where {len(self.data) - self.at} bytes are left")
        at, self.at = self.at, self.at + size
        return self.data[at : self.at]

    def blob(self, *, compact: bool, short: bool = False) -> bytes | None:
        size = self.varint() - 1 if compact else self.integer("int16" if short else "int32")
        return None if size == -1 else self.take(size)

    def text(self, *, compact: bool) -> str | None:
        raw = self.blob(compact=compact, short=True)
        try:
            return None if raw is None else raw.decode()
        except UnicodeDecodeError:
            raise UnreadableFrame("a string is not UTF-8") from None

    def length(self, *, compact: bool) -> int | None:
        """The length of an array; None if it is null."""
        count = self.varint() - 1 if compact else self.integer("int32")
        if count == -1:
            return None
        self._elements -= count
        if count < 0 or count > len(self.data) - self.at or self._elements < 0:
            raise UnreadableFrame(
                f"an array of {count} elements where {len(self.data) - self.at} bytes are left"
            )
        return count

    def skip_tags(self) -> None:
        """Skip the tagged fields; this listener needs none of them."""
        for _ in range(self.varint()):
            self.varint()
            self.take(self.varint())


_Read = Callable[[FrameReader], Any]
_Write = Callable[[bytearray, Any], None]


def _required(reading: _Read) -> _Read:
    def read(reader: FrameReader) -> Any:
        value = reading(reader)
        if value is None:
            raise UnreadableFrame("a field is null that must not be")
        return value

    return read


def _read_kind(kind: str | Array | Struct, version: int, compact: bool) -> _Read:
    if isinstance(kind, Struct):
        return _read_struct(kind, version, compact)
    if isinstance(kind, Array):
        element = _read_kind(kind.of, version, compact)

        def read_array(reader: FrameReader) -> list[Any] | None:
            count = reader.length(compact=compact)
            if count is None:
                return None if kind.nullable else []
            return [element(reader) for _ in range(count)]

        return read_array
    match kind:
        case "bool":
            return FrameReader.boolean
        case "string" | "nullable string":
            read: _Read = lambda reader: reader.text(compact=compact)
        case "bytes" | "nullable bytes":
            read = lambda reader: reader.blob(compact=compact)
        case _:
            return lambda reader: reader.integer(kind)
    return read if kind.startswith("nullable") else _required(read)


@cache
def _read_struct(shape: Struct, version: int, compact: bool) -> Callable[[FrameReader], Message]:
    present = [
        (field.name, _read_kind(field.kind, version, compact))
        for field in shape.fields
        if field.since <= version <= field.until
    ]
    absent = {
        field.name: field.default for field in shape.fields if not field.since <= version <= field.until
    }

    def read(reader: FrameReader) -> Message:
        message = dict(absent)
        for name, field in present:
            message[name] = field(reader)
        if compact:
            reader.skip_tags()
        return message

    return read


def read(shape: Struct, version: int, compact: bool, reader: FrameReader) -> Message:
    """The message at the reader's place. Raises `UnreadableFrame`."""
    return _read_struct(shape, version, compact)(reader)


def _put_varint(out: bytearray, value: int) -> None:
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _write_kind(kind: str | Array | Struct, version: int, compact: bool) -> _Write:
    if isinstance(kind, Struct):
        return _write_struct(kind, version, compact)
    if isinstance(kind, Array):
        element = _write_kind(kind.of, version, compact)

        def write_array(out: bytearray, values: Any) -> None:
            count = -1 if values is None else len(values)
            if compact:
                _put_varint(out, count + 1)
            else:
                out += count.to_bytes(4, "big", signed=True)
            for value in values or ():
                element(out, value)

        return write_array
    if kind == "bool":
        return lambda out, value: out.append(1 if value else 0)
    if kind in _INTEGERS:
        pack = _INTEGERS[kind].pack
        return lambda out, value: out.extend(pack(value))
    prefix = 2 if kind.endswith("string") else 4

    def write_blob(out: bytearray, value: Any) -> None:
        raw = value.encode() if isinstance(value, str) else value
        size = -1 if raw is None else len(raw)
        if compact:
            _put_varint(out, size + 1)
        else:
            out += size.to_bytes(prefix, "big", signed=True)
        if raw is not None:
            out += raw

    return write_blob


@cache
def _write_struct(
    shape: Struct, version: int, compact: bool
) -> Callable[[bytearray, Mapping[str, Any]], None]:
    present = [
        (field.name, _default_of(field), _write_kind(field.kind, version, compact))
        for field in shape.fields
        if field.since <= version <= field.until
    ]

    def write(out: bytearray, message: Mapping[str, Any]) -> None:
        for name, default, field in present:
            field(out, message.get(name, default))
        if compact:
            out.append(0)  # no tagged fields

    return write


def _default_of(field: Field) -> Any:
    if field.default is not None or (isinstance(field.kind, str) and field.kind.startswith("nullable")):
        return field.default
    if isinstance(field.kind, Array):
        return ()
    return {"bool": False, "string": "", "bytes": b""}.get(field.kind, 0)


def write(shape: Struct, version: int, compact: bool, out: bytearray, message: Mapping[str, Any]) -> None:
    """Append a message to `out`; what it does not name has the field's default, or is 0, empty or null."""
    _write_struct(shape, version, compact)(out, message)
