"""The last turns of one object, found in its partition's journal, the newest first.

Laws
- Turns that changed nothing leave no entry, unless they failed, were refused, or had a client key: those are not there.
- One look goes over at most `SCAN` records and keeps none of them; another goes on where it ended (`below`).
- Nothing is told before it is proved that this node still owns the partition; only what is folded, so durable, is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from perdure.schemas.journal import Entry, EntryRecord, decode_record
from perdure.streams.log.base import Topic
from perdure.streams.owner.command_status import confirm_ownership
from perdure.streams.owner.owner import Owner

WINDOW = 1_000
SCAN = 20_000
_Shown = TypeVar("_Shown")


class RecentTurns(NamedTuple, Generic[_Shown]):
    """`turns` as they are shown; `below`: the journal offset below which to look on, None at the journal's start."""

    turns: list[_Shown]
    below: int | None


async def recent_turns(
    owner: Owner, key: str, below: int | None, limit: int, shown: Callable[[int, Entry], _Shown]
) -> RecentTurns[_Shown]:
    """At most `limit` turns of object `key`, from below a journal offset (None: its end) down. Raises `Unavailable`.

    `shown(offset, entry)` makes of each what is kept of it.
    """
    await confirm_ownership(owner)
    start, _ = await owner.log.bounds(Topic.JOURNAL, owner.partition)
    folded = owner.tables.reader.offset
    at = folded if below is None else min(below, folded)
    least = max(start, at - SCAN)
    found: list[_Shown] = []
    while at > least:
        first = max(least, at - WINDOW)
        for offset, turn in reversed(await _in(owner, key, first, at, shown)):
            if len(found) == limit:
                return RecentTurns(found, offset + 1)
            found.append(turn)
        at = first
    return RecentTurns(found, at if at > start else None)


async def _in(
    owner: Owner, key: str, first: int, end: int, shown: Callable[[int, Entry], _Shown]
) -> list[tuple[int, _Shown]]:
    found: list[tuple[int, _Shown]] = []
    async for chunk in owner.log.read(Topic.JOURNAL, owner.partition, first, end):
        for record in chunk:
            told = decode_record(record.value)
            if (
                isinstance(told, EntryRecord)
                and told.entry.key == key
                and owner.tables.counts(told.epoch, record.offset)
            ):
                found.append((record.offset, shown(record.offset, told.entry)))
    return found
