"""The views of administration: a node and its objects, as types of JSON.

Each function reads the tables and activations of an owner on this node, and returns the content of one
response of `page.py`, or of one partition's part of it. `partition_views.py` finds the node that can.

Laws [test_admin.py]
- Facts about an object are durable, and this node has just verified that it still owns the partition.
- A page is bounded: `PAGE_MAX` items at most, and about `PAGE_BYTES` of values. Its `cursor` leads to the
  next one.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from perdure.objects.listing import bounds, cursor_behind
from perdure.schemas.admin import OF_ALARM, OF_COMMAND, ParkedItem, Place, place_of
from perdure.schemas.config import Config
from perdure.schemas.errors import MalformedCommand
from perdure.schemas.expiry import expiry_of
from perdure.schemas.journal import NO_COMMAND, Entry
from perdure.schemas.json_preview import json_preview
from perdure.schemas.keys import name_of, partition_named
from perdure.schemas.sockets import SETTINGS
from perdure.schemas.values import decode_value
from perdure.streams.log.base import Topic
from perdure.streams.owner.command_status import confirm_ownership
from perdure.streams.owner.owner import Owner
from perdure.streams.owner.recent_turns import recent_turns
from perdure.streams.owner.whereabouts import seat_facts
from perdure.streams.state.object_scan import is_there, objects_of
from perdure.streams.turns.activation import Hold, Turn
from perdure.streams.turns.eviction import half_of_memory, process_bytes
from perdure.streams.turns.ports import OwnerState

PAGE, PAGE_MAX = 100, 1000
PAGE_BYTES = 1 << 20
_AT_ONCE = 50  # objects that are listed before other tasks may run
_WAITING_SHOWN = 20
_NAMES_SHOWN, _NAME_SHOWN = 20, 100  # of the values that a turn changed; characters of each name
Query = Mapping[str, str]


# Queries


def limit_of(query: Query) -> int:
    """The number of items that a query asks for. Raises `MalformedCommand`."""
    text = query.get("limit", str(PAGE))
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text)):
        raise MalformedCommand(f"limit={text[:20]} is not a number of items")
    return min(int(text), PAGE_MAX)


def _range(query: Query) -> tuple[str, str | None]:
    try:
        return bounds(query.get("prefix", ""), None, None, None, query.get("cursor"), reverse=False)
    except ValueError as error:
        raise MalformedCommand("the cursor is not one that a previous page returned") from error


# Objects


async def names(owner: Owner, namespace: str, query: Query) -> list[str]:
    """The names of a partition's objects of a namespace: one page, and one name more if there are more."""
    limit, (low, high) = limit_of(query), _range(query)
    await confirm_ownership(owner)
    page: list[str] = []
    for key in objects_of(owner.tables, namespace, low, high):
        if len(page) > limit:
            break
        page.append(name_of(key))
        if len(page) % _AT_ONCE == 0:
            await asyncio.sleep(0)
    return page


def merged_names(pages: Iterable[Sequence[str]], query: Query) -> dict[str, Any]:
    """One page of the objects of a namespace, of the pages of all partitions."""
    limit = limit_of(query)
    page = list(islice(heapq.merge(*pages, key=str.encode), limit + 1))
    more = len(page) > limit
    return {"objects": page[:limit], "cursor": cursor_behind(page[limit - 1]) if more else None}


async def summary(owner: Owner, key: str) -> dict[str, Any]:
    await confirm_ownership(owner)
    tables, activation = owner.tables, owner.turns.activations.get(key)
    paused = tables.admin.paused.get(key)
    content: dict[str, Any] = {
        "object": key,
        "partition": owner.partition,
        "there": is_there(tables, key),
        "resident": activation is not None and activation.instance is not None,
        "running": None,
        "waiting": 0,
        "next": [],
        "paused": None
        if paused is None
        else {"since_ms": paused.since_ms, "by": paused.principal, "command": paused.command},
        "alarms": len(_alarms(owner, key)),
        "sockets": len(_sockets(owner, key)),
    }
    if activation is not None:
        if (running := activation.running) is not None and type(running) is not Hold:
            content["running"] = running.offset
        mailbox, hold = activation.mailbox or (), activation.hold
        content["waiting"] = len(mailbox) - (hold is not None and hold is not activation.running)
        waiting = islice((each for each in mailbox if each is not hold), _WAITING_SHOWN)
        content["next"] = [each.offset if isinstance(each, Turn) else each for each in waiting]
    return content


async def state(owner: Owner, key: str, query: Query) -> dict[str, Any]:
    """One page of an object's values."""
    limit, (low, high) = limit_of(query), _range(query)
    await confirm_ownership(owner)
    now_ms, size = owner.ports.transport.clock_ms(), 0
    values: dict[str, Any] = {}
    expires: dict[str, int] = {}
    last = ""
    for name, encoded in owner.tables.values.scan(key, low, high):
        expires_ms = expiry_of(encoded)
        if expires_ms is not None and expires_ms <= now_ms:
            continue
        size += len(name) + len(encoded)
        if values and (len(values) == limit or size > PAGE_BYTES):
            return {"values": values, "expires_ms": expires, "cursor": cursor_behind(last)}
        values[name] = json_preview(decode_value(encoded))
        if expires_ms is not None:
            expires[name] = expires_ms
        last = name
    return {"values": values, "expires_ms": expires, "cursor": None}


async def alarms(owner: Owner, key: str) -> dict[str, Any]:
    await confirm_ownership(owner)
    return {"alarms": _alarms(owner, key)}


def _alarms(owner: Owner, key: str) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "due_ms": row.due_ms,
            "attempt": row.attempt,
            "cron": row.cron or None,
            "zone": row.zone or None,
            "parked": f"{owner.partition}:{Place(OF_ALARM, row.set_at)}" if row.parked else None,
        }
        for name, row in owner.tables.alarms.of(key).items()
        if not name.startswith("\0")  # perdure's own
    ]


async def sockets(owner: Owner, key: str) -> dict[str, Any]:
    await confirm_ownership(owner)
    return {"sockets": _sockets(owner, key)}


def _sockets(owner: Owner, key: str) -> list[dict[str, Any]]:
    return [
        {
            "id": id_,
            "gateway": row.gateway,
            "tags": list(row.tags),
            "attachment": json_preview(decode_value(row.attachment)) if row.attachment else None,
        }
        for id_, row in owner.tables.sockets.of(key).items()
        if id_ != SETTINGS
    ]


async def turns(owner: Owner, key: str, query: Query) -> dict[str, Any]:
    """One page of an object's last turns, the newest first."""
    limit, below = limit_of(query), query.get("cursor")
    if below and not (below.isascii() and below.isdigit() and len(below) < 19):
        raise MalformedCommand("the cursor is not one that a previous page returned")

    def turn(offset: int, entry: Entry) -> dict[str, Any]:
        return _turn(owner.partition, offset, entry)

    recent = await recent_turns(owner, key, int(below) if below else None, limit, turn)
    return {"turns": recent.turns, "cursor": None if recent.below is None else str(recent.below)}


def _turn(partition: int, offset: int, entry: Entry) -> dict[str, Any]:
    reply = entry.reply
    return {
        "command": None if entry.command == NO_COMMAND else f"{partition}:{entry.command}",
        "journal": offset,
        "id": entry.id or None,
        "time_ms": entry.time_ms,
        "summary": entry.summary,
        "principal": entry.principal or None,
        "outcome": entry.outcome,
        "status": reply.status,
        "code": None if reply.error is None else reply.error.code,
        "message": None if reply.error is None else reply.error.message,
        "cleared": entry.clear,
        "put": _some(entry.puts),
        "deleted": _some(entry.deletes),
        "alarms": _some(each.name for each in entry.alarms),
        "sockets": len(entry.sockets),
        "sent": len(entry.outbox),
    }


def _some(names: Iterable[str]) -> list[str]:
    """The first names, without perdure's own."""
    return list(islice((name[:_NAME_SHOWN] for name in names if not name.startswith("\0")), _NAMES_SHOWN))


# Parked commands and alarms


def parked_at(text: str, partitions: int) -> tuple[int, Place]:
    """The partition and the place that the id of something parked names. Raises `MalformedCommand`."""
    number, _, place = text.partition(":")
    partition = partition_named(number, partitions)
    if partition is None:
        raise MalformedCommand(
            f"{text[:40]!r} is not the id of a parked command or alarm, such as 0:17 or 0:a17"
        )
    return partition, place_of(place)


async def parked(owner: Owner, query: Query) -> dict[str, Any]:
    """One page of a partition's parked commands and alarms. `from` in the query: the place it begins with."""
    limit, start = limit_of(query), query.get("from")
    await confirm_ownership(owner)
    rows: list[dict[str, Any]] = []
    for place, row in owner.tables.admin.all_parked(place_of(start) if start else Place(OF_ALARM, 0)):
        id_ = f"{owner.partition}:{place}"
        if len(rows) == limit:
            return {"parked": rows, "cursor": id_}
        rows.append(_parked(id_, place, row))
    return {"parked": rows, "cursor": None}


async def parked_key(owner: Owner, place: str) -> str | None:
    """The object of which something is parked at this place; None if nothing is."""
    await confirm_ownership(owner)
    row = owner.tables.admin.parked(place_of(place))
    return None if row is None else row.key


def _parked(id_: str, place: Place, row: ParkedItem) -> dict[str, Any]:
    return {
        "id": id_,
        "object": row.key,
        "what": "command" if place.kind == OF_COMMAND else "alarm",
        "alarm": row.alarm or None,
        "summary": row.summary,
        "time_ms": row.time_ms,
        "code": row.code,
        "message": row.message,
    }


# The node


async def partition(owner: Owner) -> dict[str, Any]:
    """The state of a partition on this node, and its owner where nodes share the app."""
    end = (await owner.log.bounds(Topic.COMMANDS, owner.partition)).end
    serving = owner.state is OwnerState.SERVING
    placed = owner.whereabouts.placed
    return {
        "partition": owner.partition,
        "state": owner.state.value,
        "reason": None if serving or owner.error is None else str(owner.error),
        **progress(owner, end),
        **({"owner": seat_facts(owner.whereabouts.seat)} if placed else {}),
    }


def progress(owner: Owner, end: int) -> dict[str, Any]:
    """How far this node's store has a partition whose commands end there."""
    info = owner.tables.info
    return {
        "epoch": owner.tables.reader.position.epoch,
        "watermark": info.watermark,
        "applied": info.offset,
        "undone": owner.backlog,
        "lag": max(end - info.watermark, 0),
        "paused": len(owner.tables.admin.paused),
    }


def memory(owners: Sequence[Owner], config: Config) -> dict[str, Any]:
    """An estimate of the memory in use; above `limit_bytes` objects are evicted."""
    return {
        "process_bytes": process_bytes(),
        "limit_bytes": config.limits.memory_bytes or half_of_memory(),
        "partitions": [
            {
                "partition": owner.partition,
                "objects": len(owner.turns.activations),
                "object_bytes": owner.turns.resident_bytes,
                "evictions": owner.counts.evictions,
                "oversized": owner.counts.oversized,
                "unwritten_records": owner.tables.info.unwritten,
            }
            for owner in owners
        ],
    }
