"""Makes an `AuditRecord` of a record of the log, whichever topic it lies in.

Law: nothing that a record holds raises: one that cannot be decoded is of type `unreadable`. [test_audit.py]
"""

from __future__ import annotations

from typing import Any

from perdure.schemas.commands import parse_admitted
from perdure.schemas.errors import CallerError, LogCorrupt
from perdure.schemas.foreign import NO_RULES, RecordRules
from perdure.schemas.journal import (
    NO_COMMAND,
    Base,
    Claim,
    EntryRecord,
    Header,
    Migration,
    NoOp,
    decode_record,
)
from perdure.schemas.replies import parse_reply
from perdure.streams.audit.records import COMMAND, DEAD, ENTRY, REPLY, UNREADABLE, AuditRecord
from perdure.streams.log.base import LogRecord, Topic

FRAME = "frame"
OTHER = "other"  # of the replies: heartbeats and marks of perdure's own
_TYPES = {Header: "header", Claim: "claim", NoOp: "no-op", Migration: "migration", Base: "base"}


def audit_record(
    topic: Topic, partition: int, record: LogRecord, rules: RecordRules = NO_RULES
) -> AuditRecord:
    """The decoded form of a record of the log; it never raises for what the record holds.

    topic, partition: where it lies.
    record: the record.
    rules: how the app reads records of other systems as commands.
    """
    if topic is Topic.JOURNAL:
        return journal_record(partition, record)
    if topic is Topic.COMMANDS:
        return _command(partition, record, rules)
    return _reply(partition, record) if topic is Topic.REPLIES else _dead(partition, record)


def journal_record(partition: int, record: LogRecord) -> AuditRecord:
    """The decoded form of a record of the journal."""
    try:
        detail = decode_record(record.value)
    except LogCorrupt as error:
        return _unreadable(Topic.JOURNAL, partition, record, error)
    if type(detail) is EntryRecord:
        return entry_record(partition, record.offset, detail)
    return AuditRecord(
        topic="journal",
        partition=partition,
        offset=record.offset,
        time_ms=record.time_ms,
        type=_TYPES[type(detail)],
        epoch=getattr(detail, "epoch", -1),
        seq=getattr(detail, "seq", -1),
        detail=detail,
    )


def entry_record(partition: int, offset: int, record: EntryRecord) -> AuditRecord:
    """The decoded form of an entry at this journal offset."""
    entry = record.entry
    kind, _, rest = entry.summary.partition(" ")
    method, _, path = rest.partition(" ")
    if kind == "dead":  # "dead letter"
        kind = method = ""
    return AuditRecord(
        topic="journal",
        partition=partition,
        offset=offset,
        time_ms=entry.time_ms,
        type=ENTRY,
        object=entry.key,
        kind=kind,
        method=method,
        path=path,
        caller=entry.principal,
        outcome=entry.outcome,
        id=entry.id,
        command=-1 if entry.command == NO_COMMAND else entry.command,
        epoch=record.epoch,
        seq=record.seq,
        detail=record,
    )


def _command(partition: int, record: LogRecord, rules: RecordRules) -> AuditRecord:
    try:
        command = parse_admitted(record.key, record.value, record.headers, rules)
    except CallerError as error:
        return _unreadable(Topic.COMMANDS, partition, record, error)
    return AuditRecord(
        topic="commands",
        partition=partition,
        offset=record.offset,
        time_ms=record.time_ms,
        type=COMMAND,
        object=command.key,
        kind=command.kind,
        method=command.method,
        path=command.path,
        caller=command.principal,
        id=command.id,
        command=record.offset,
        detail=command,
    )


def _reply(partition: int, record: LogRecord) -> AuditRecord:
    kind = dict(record.headers).get("kind", b"").decode("utf-8", "replace")
    common: dict[str, Any] = {
        "topic": "replies",
        "partition": partition,
        "offset": record.offset,
        "time_ms": record.time_ms,
    }
    if kind:
        named = {name: value.decode("utf-8", "replace") for name, value in record.headers}
        type_ = FRAME if kind == "frame" else OTHER
        return AuditRecord(**common, type=type_, kind=kind, object=named.get("object", ""), detail=record)
    try:
        answered = parse_reply(record.value, record.headers)
    except ValueError as error:
        return _unreadable(Topic.REPLIES, partition, record, error)
    key = (record.key or b"").decode("utf-8", "replace")
    _, _, offset = answered.command.partition(":")
    return AuditRecord(
        **common,
        type=REPLY,
        object=key if "/" in key else "",
        outcome=answered.reply.outcome,
        id=answered.correlation_id,
        command=int(offset) if offset.isdigit() else -1,
        detail=answered.reply,
    )


def _dead(partition: int, record: LogRecord) -> AuditRecord:
    named = {name: value.decode("utf-8", "replace") for name, value in record.headers}
    time = named.get("time", "")
    offset = named.get("command", "").partition(":")[2]
    return AuditRecord(
        topic="dead",
        partition=partition,
        offset=record.offset,
        time_ms=int(time) if time.isdigit() else record.time_ms,
        type=DEAD,
        object=(record.key or b"").decode("utf-8", "replace"),
        outcome="rejected",
        id=named.get("id", ""),
        command=int(offset) if offset.isdigit() else -1,
        unreadable=named.get("reason", ""),
        detail=record,
    )


def _unreadable(topic: Topic, partition: int, record: LogRecord, error: Exception) -> AuditRecord:
    return AuditRecord(
        topic=topic.value,
        partition=partition,
        offset=record.offset,
        time_ms=record.time_ms,
        type=UNREADABLE,
        object=(record.key or b"").decode("utf-8", "replace"),
        unreadable=str(error),
        detail=record,
    )
