"""The tables that a question may name: their columns, and the rows of records and of a fold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from perdure.schemas.json_preview import json_preview
from perdure.schemas.keys import name_of, namespace_of
from perdure.streams.audit.records import COMMAND, ENTRY, AuditRecord, shown_values
from perdure.streams.state.object_scan import namespaces_of, objects_of
from perdure.streams.state.tables import Tables

_TIME = pa.timestamp("ms", tz="UTC")
_TEXT = pa.string()
_PLACE = [("partition", pa.int32()), ("pos", pa.int64()), ("time", _TIME)]
_OBJECT = [("object", _TEXT), ("namespace", _TEXT), ("name", _TEXT)]
_REQUEST = [("kind", _TEXT), ("method", _TEXT), ("path", _TEXT), ("caller", _TEXT), ("id", _TEXT)]

ENTRIES, COMMANDS = "entries", "commands"
STATE, ALARMS, SOCKETS, PARKED, PARTITIONS = "state", "alarms", "sockets", "parked", "partitions"
SCHEMAS: dict[str, pa.Schema] = {
    ENTRIES: pa.schema(
        [
            *_PLACE,
            *_OBJECT,
            *_REQUEST,
            ("command", pa.int64()),
            ("outcome", _TEXT),
            ("puts", _TEXT),
            ("deletes", pa.list_(_TEXT)),
            ("cleared", pa.bool_()),
            ("status", pa.int32()),
            ("result", _TEXT),
            ("error", _TEXT),
            ("epoch", pa.int64()),
            ("seq", pa.int64()),
        ]
    ),
    COMMANDS: pa.schema([*_PLACE, *_OBJECT, *_REQUEST, ("args", _TEXT), ("kwargs", _TEXT)]),
    STATE: pa.schema(
        [*_OBJECT, ("key", _TEXT), ("value", _TEXT), ("bytes", pa.int32()), ("partition", pa.int32())]
    ),
    ALARMS: pa.schema(
        [
            *_OBJECT,
            ("alarm", _TEXT),
            ("due", _TIME),
            ("attempt", pa.int32()),
            ("cron", _TEXT),
            ("zone", _TEXT),
            ("parked", pa.bool_()),
            ("partition", pa.int32()),
        ]
    ),
    SOCKETS: pa.schema(
        [*_OBJECT, ("id", _TEXT), ("gateway", _TEXT), ("tags", pa.list_(_TEXT)), ("partition", pa.int32())]
    ),
    PARKED: pa.schema(
        [
            *_OBJECT,
            ("place", _TEXT),
            ("alarm", _TEXT),
            ("time", _TIME),
            ("request", _TEXT),
            ("error", _TEXT),
            ("message", _TEXT),
            ("partition", pa.int32()),
        ]
    ),
    PARTITIONS: pa.schema(
        [
            ("partition", pa.int32()),
            ("journal_start", pa.int64()),
            ("journal_end", pa.int64()),
            ("commands_start", pa.int64()),
            ("commands_end", pa.int64()),
            ("epoch", pa.int64()),
            ("applied", pa.int64()),
            ("watermark", pa.int64()),
        ]
    ),
}
FOLDED = frozenset((STATE, ALARMS, SOCKETS, PARKED, PARTITIONS))  # of a fold, not record by record
_json = msgspec.json.Encoder().encode


def text_of(value: Any) -> str:
    """A value as JSON text, as administration shows it."""
    return _json(json_preview(value)).decode()


def _request(record: AuditRecord) -> tuple[Any, ...]:
    """The columns that entries and commands share: `_PLACE`, `_OBJECT` and `_REQUEST`."""
    namespace, _, name = record.object.partition("/")
    place = (record.partition, record.offset, record.time_ms, record.object, namespace, name)
    return (*place, record.kind, record.method, record.path, record.caller, record.id)


def _entry(record: AuditRecord) -> tuple[Any, ...] | None:
    if record.type != ENTRY or record.void:
        return None
    entry = record.entry
    assert entry is not None
    reply = entry.reply
    return (
        *_request(record),
        record.command if record.command >= 0 else None,
        record.outcome,
        text_of(shown_values(entry.puts)),
        record.deletes,
        entry.clear,
        reply.status or None,
        text_of(record.result) if reply.body else None,
        None if reply.error is None else reply.error.code,
        record.epoch,
        record.seq,
    )


def _command(record: AuditRecord) -> tuple[Any, ...] | None:
    if record.type != COMMAND:
        return None
    args = record.args
    return (
        *_request(record),
        None if args is None else text_of(args),
        None if args is None else text_of(record.kwargs),
    )


ROWS: dict[str, Callable[[AuditRecord], tuple[Any, ...] | None]] = {ENTRIES: _entry, COMMANDS: _command}


def arrow_of(table: str, rows: Iterable[Sequence[Any]]) -> pa.Table:
    """Rows as an Arrow table."""
    schema = SCHEMAS[table]
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)


def folded_rows(table: str, tables: Tables) -> Iterator[tuple[Any, ...]]:
    """The rows that a partition's fold has of one of `FOLDED`, but for `PARTITIONS`."""
    if table == PARKED:
        yield from _parked(tables)
        return
    if table == SOCKETS:
        for key, id_, row in tables.sockets.all():
            yield (*_named(key), id_, row.gateway, row.tags, tables.partition)
        return
    for namespace in sorted(set(namespaces_of(tables))):
        for key in objects_of(tables, namespace, "", None):
            if table == STATE:
                yield from _state(tables, key)
            else:
                for name, alarm in tables.alarms.of(key).items():
                    if not name.startswith("\0"):  # perdure's own
                        place = (alarm.cron, alarm.zone, alarm.parked, tables.partition)
                        yield (*_named(key), name, alarm.due_ms, alarm.attempt, *place)


def _state(tables: Tables, key: str) -> Iterator[tuple[Any, ...]]:
    named = _named(key)
    for name, encoded in tables.values.scan(key, "", None):
        for shown, value in shown_values({name: encoded}).items():  # without perdure's own
            yield (*named, shown, text_of(value), len(encoded), tables.partition)


def _parked(tables: Tables) -> Iterator[tuple[Any, ...]]:
    from perdure.schemas.admin import OF_ALARM, Place

    for place, item in tables.admin.all_parked(Place(OF_ALARM, 0)):
        at = f"{tables.partition}:{place}"
        what = (item.alarm, item.time_ms, item.summary, item.code, item.message)
        yield (*_named(item.key), at, *what, tables.partition)


def _named(key: str) -> tuple[str, str, str]:
    return key, namespace_of(key), name_of(key)
