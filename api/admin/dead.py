"""Dead letters as administration shows them, and how one is driven again.

A letter is a record of `{app}.dead`: a record that was not a command, with the reason (docs/kafka.md). Its
id is its place there, `PARTITION:OFFSET`.

Laws [test_dead_letters.py]
- A letter that is driven again is the record as its sender wrote it, in the partition that it was in.
  Without a key of its own it gets one, so it takes effect once within 24 h, however often it is driven.
- Letters stay where they are: the topic is the operator's to trim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perdure.api.admin.views import Query, limit_of
from perdure.schemas.errors import MalformedCommand, NotParked, TooLarge
from perdure.schemas.foreign import is_event
from perdure.schemas.keys import partition_named
from perdure.schemas.seal import HEADER as SEAL
from perdure.streams.log.base import LogRecord, Record, Topic, durable, size_bytes
from perdure.streams.owner.owner import Owner

_ADDED = frozenset(("reason", "command", "time", "message-id", "perdure-size", "perdure-hash"))
_CUT = "perdure-size"  # of a letter that has the beginning of its record only
_KEY = "idempotency-key"


async def dead_letters(owners: Sequence[Owner], query: Query) -> dict[str, Any]:
    """One page of dead letters, partition by partition, the oldest first."""
    limit, cursor = limit_of(query), query.get("cursor")
    first, start = _place(cursor, owners) if cursor else (0, 0)
    rows: list[dict[str, Any]] = []
    for owner in owners[first:]:
        partition, bounds = owner.partition, await owner.log.bounds(Topic.DEAD, owner.partition)
        if max(start, bounds.start) < bounds.end:
            async for chunk in owner.log.read(Topic.DEAD, partition, max(start, bounds.start), bounds.end):
                for record in chunk:
                    if len(rows) == limit:
                        return {"dead": rows, "cursor": f"{partition}:{record.offset}"}
                    rows.append(_summary(partition, record))
        start = 0
    return {"dead": rows, "cursor": None}


async def dead_letter(owners: Sequence[Owner], id_: str) -> dict[str, Any]:
    """One dead letter with its headers and its value. Raises `NotParked`."""
    owner, record = await _letter(owners, id_)
    headers = {name: _shown(value) for name, value in record.headers if name not in _ADDED}
    return {
        **_summary(owner.partition, record),
        "headers": headers,
        "key": _shown(record.key),
        "value": _shown(record.value),
    }


async def redrive_letter(owners: Sequence[Owner], id_: str) -> dict[str, Any]:
    """Append the record of a dead letter to the commands again. Raises `NotParked` or `TooLarge`."""
    owner, record = await _letter(owners, id_)
    named = dict(record.headers)
    if _CUT in named:
        raise TooLarge(
            f"the dead letter {id_} has only the beginning of its record, which was too large: send it again"
        )
    number = named.get("command", b"").partition(b":")[0].decode("ascii", "replace")
    partition = partition_named(number, len(owners))
    headers = tuple(header for header in record.headers if header[0] not in _ADDED)
    kept = dict(headers)
    if _KEY not in kept and SEAL not in kept and not is_event(kept):
        headers += ((_KEY, f"dead:{id_}".encode()),)
    partition = owner.partition if partition is None else partition
    receipt = owner.log.append(Topic.COMMANDS, partition, Record(record.key, record.value, headers))
    await durable(receipt)
    return {"redriven": id_, "command": f"{partition}:{receipt.offset}"}


async def _letter(owners: Sequence[Owner], id_: str) -> tuple[Owner, LogRecord]:
    partition, offset = _place(id_, owners)
    owner = owners[partition]
    bounds = await owner.log.bounds(Topic.DEAD, partition)
    if bounds.start <= offset < bounds.end:
        async for chunk in owner.log.read(Topic.DEAD, partition, offset, offset + 1):
            for record in chunk:
                return owner, record
    raise NotParked(f"there is no dead letter at {id_[:40]}; /admin/dead lists them")


def _place(id_: str, owners: Sequence[Owner]) -> tuple[int, int]:
    number, _, offset = id_.partition(":")
    partition = partition_named(number, len(owners))
    if partition is None or not (offset.isascii() and offset.isdigit() and len(offset) < 19):
        raise MalformedCommand(f"{id_[:40]!r} is not the id of a dead letter, such as 0:17")
    return partition, int(offset)


def _summary(partition: int, record: LogRecord) -> dict[str, Any]:
    named: Mapping[str, bytes] = dict(record.headers)
    time = named.get("time", b"").decode("ascii", "replace")
    return {
        "id": f"{partition}:{record.offset}",
        "object": None if record.key is None else record.key.decode("utf-8", "replace"),
        "reason": named.get("reason", b"").decode("utf-8", "replace"),
        "topic": Topic.COMMANDS.value,
        "command": named.get("command", b"").decode("utf-8", "replace"),
        "time_ms": int(time) if time.isdigit() else record.time_ms,
        "bytes": size_bytes(record),
    }


def _shown(raw: bytes | None) -> Any:
    """Bytes as text, or as `{"$bytes": hexadecimal}` if they are not UTF-8."""
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"$bytes": raw.hex()}
