"""Columns of records, for tables: CSV, Parquet and whatever else reads records by the hundred thousand.

The same as the properties of `AuditRecord`, made faster: JSON that can hold no secret is copied, not parsed.

Laws [tests/integration/test_log_commands.py]
- A column is what the property of its name gives, as JSON where it is not a number or a text.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from perdure.schemas.commands import CALL, Command
from perdure.schemas.json_preview import json_preview
from perdure.schemas.masking import TELLING
from perdure.schemas.values import decode_value
from perdure.streams.audit.records import AuditRecord

# the columns; those behind `cleared` are JSON
COLUMNS = (
    *("topic", "partition", "offset", "time_ms", "type", "object", "kind", "method", "path", "caller"),
    *("outcome", "id", "command", "epoch", "seq"),
    *("status", "cleared", "args", "kwargs", "puts", "deletes", "result", "error"),
)
INTEGERS = frozenset(("partition", "offset", "time_ms", "command", "epoch", "seq", "status"))
Row = tuple[Any, ...]
_encode = msgspec.json.Encoder().encode
_NUMBERS = frozenset((int, float, bool, type(None)))
_PLAIN = _NUMBERS | {str}
_FINITE = 1e300


class _Call(msgspec.Struct, gc=False):
    args: msgspec.Raw = msgspec.Raw(b"[]")
    kwargs: msgspec.Raw = msgspec.Raw(b"{}")


class _Returned(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    result: msgspec.Raw


_call = msgspec.json.Decoder(_Call).decode
_returned = msgspec.json.Decoder(_Returned).decode
_telling = lru_cache(4096)(lambda name: TELLING.search(name) is not None or name.startswith("\0"))


def row_of(record: AuditRecord) -> Row:
    """The columns of a record."""
    args, kwargs = _arguments(record)
    entry = record.entry
    reply = record.reply
    return (
        record.topic,
        record.partition,
        record.offset,
        record.time_ms,
        record.type,
        record.object,
        record.kind,
        record.method,
        record.shown_path,
        record.caller,
        record.outcome,
        record.id,
        record.command,
        record.epoch,
        record.seq,
        0 if reply is None else reply.status,
        False if entry is None else entry.clear,
        args,
        kwargs,
        _puts(record, entry),
        None if entry is None or not entry.deletes else json_text(record.deletes or None),
        None if reply is None or not reply.body else _result(record, reply.body),
        None
        if reply is not None and reply.error is None and not record.unreadable
        else json_text(record.error),
    )


def _arguments(record: AuditRecord) -> tuple[str | None, str | None]:
    if record.kind != CALL or not (body := record.body):
        return None, None
    detail = record.detail
    if type(detail) is not Command:  # an entry's was checked when it ran
        try:
            call = _call(body)
        except msgspec.DecodeError:
            return None, None
        args, kwargs = bytes(call.args), bytes(call.kwargs)
        if b'"' not in args and kwargs == b"{}":
            return args.decode(), None
    return json_text(record.args), json_text(record.kwargs or None)


def _puts(record: AuditRecord, entry: Any) -> str | None:
    if entry is None or not entry.puts:
        return None
    numbers: dict[str, Any] = {}
    for name, encoded in entry.puts.items():
        # a small number is one byte, or a tag and up to eight: no text or extension begins so
        if _telling(name) or len(encoded) > 9 or not (encoded[0] < 0x80 or 0xC0 <= encoded[0] <= 0xD3):
            return json_text(record.values or None)
        try:
            value = decode_value(encoded)
        except Exception:  # noqa: BLE001 - of bytes that any version may have written
            return json_text(record.values or None)
        if type(value) not in _NUMBERS or (type(value) is float and not abs(value) < _FINITE):
            return json_text(record.values or None)
        numbers[name] = value
    return _encode(numbers).decode()


def _result(record: AuditRecord, body: bytes) -> str | None:
    if record.kind == CALL:
        try:
            result = bytes(_returned(body).result)
        except msgspec.DecodeError:
            return json_text(record.result)
        if b'"' not in result:
            return result.decode() if result != b"null" else None
    return json_text(record.result)


def json_text(value: Any) -> str | None:
    """A value as JSON; None for None."""
    if value is None:
        return None
    plain = (
        all(type(each) in _PLAIN for each in value.values()) if type(value) is dict else type(value) in _PLAIN
    )
    return _encode(value if plain else json_preview(value)).decode()
