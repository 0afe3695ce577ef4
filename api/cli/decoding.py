"""`perdure decode`: journal records that a Kafka client has read, as JSON.

The journal is binary. This command reads from stdin what kcat prints of its records, and writes a line of
JSON for each. It needs neither the app nor a server.
"""

from __future__ import annotations

import sys
from typing import IO, Any

import typer

from perdure.api.cli.options import AlwaysJson

FORMAT = "%p %o %R%s"  # of kcat: partition and offset as text, the length in 4 bytes, the value
_EXAMPLE = (
    "Example: `perdure decode` behind `kcat -b 127.0.0.1:9092 -C -e -q -t shop.journal -f '%p %o %R%s' |`"
)
_NULL = -1


def register(app: typer.Typer) -> None:
    app.command(epilog=_EXAMPLE)(decode)


def decode(as_json: AlwaysJson = True) -> None:
    """Print journal records as JSON, one a line; on stdin is what kcat prints with -f '%p %o %R%s'."""
    import json

    from perdure.schemas.json_preview import json_preview

    source = sys.stdin.buffer
    while (place := _place(source)) is not None:
        shown = {"partition": place[0], "offset": place[1], **_fields(_value(source))}
        print(json.dumps(json_preview(shown), ensure_ascii=False), flush=True)


def _place(source: IO[bytes]) -> tuple[int, int] | None:
    """The partition and the offset of the next record; None at the end."""
    numbers: list[int] = []
    for _ in range(2):
        digits = b""
        while (byte := source.read(1)) not in (b" ", b""):
            digits += byte
        if not digits and not numbers and not byte:
            return None
        if not digits.isdigit() or not byte:
            raise _wrong(f"{digits[:20]!r} is not a number")
        numbers.append(int(digits))
    return numbers[0], numbers[1]


def _value(source: IO[bytes]) -> bytes | None:
    head = source.read(4)
    length = int.from_bytes(head, "big", signed=True)
    value = source.read(max(length, 0))
    if len(head) < 4 or length < _NULL or len(value) < length:
        raise _wrong("it ends within a record")
    return None if length == _NULL else value


def _wrong(why: str) -> Exception:
    from perdure.schemas.errors import ConfigError

    return ConfigError(f"stdin is not what kcat prints with -f '{FORMAT}': {why}")


def _fields(value: bytes | None) -> dict[str, Any]:
    """A record as its kind, and its fields by name; or why it cannot be read."""
    from perdure.schemas.errors import LogCorrupt
    from perdure.schemas.journal import EntryRecord, decode_record

    try:
        record = decode_record(value)
    except LogCorrupt as error:
        return {"error": str(error)}
    kind = type(record).__name__.removesuffix("Record").lower()
    fields = _plain(record)
    if isinstance(record, EntryRecord):
        fields |= fields.pop("entry")
        fields["puts"] = {name: _stored(each) for name, each in record.entry.puts.items()}
    return {"record": kind, **fields}


def _plain(value: Any) -> Any:
    """Structs as dicts, by the names of their fields."""
    import msgspec

    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return _text(value) if isinstance(value, bytes) else value


def _text(value: bytes) -> object:
    """Bytes that are text as that: bodies mostly are."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _stored(value: bytes) -> Any:
    """A value of an object's state."""
    from perdure.schemas.values import decode_value

    try:
        return decode_value(value)
    except Exception:  # noqa: BLE001 - what cannot be read is shown as it is
        return value
