"""The last turns of one object, read from its partition's journal, the newest first.

Laws
- Turns that changed nothing leave no entry, unless they failed, were refused, or had a client key: those are
  missing.
- One call reads at most `SCAN` records and keeps none of them; the next call continues where it ended
  (`below`).
- Nothing is reported before this node has confirmed that it still owns the partition, and only folded, so
  durable, state is reported. [test_a_look_proves_that_the_partition_is_still_ours_where_others_may_write]
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
    """A page of turns. `below`: the journal offset from which to continue, None at the journal's start."""

    turns: list[_Shown]
    below: int | None


async def recent_turns(
    owner: Owner, key: str, below: int | None, limit: int, shown: Callable[[int, Entry], _Shown]
) -> RecentTurns[_Shown]:
    """The last turns of an object that have entries, the newest first. Raises `Unavailable`.

    Args:
        owner: the owner of its partition, which must serve.
        key: the object, as NAMESPACE/NAME.
        below: the journal offset below which they lie; None for the journal's end.
        limit: the most that are returned.
        shown: `shown(offset, entry)` converts each entry to the form that is returned.
    """
    await confirm_ownership(owner)
    start, _ = await owner.log.bounds(Topic.JOURNAL, owner.partition)
    folded = owner.tables.reader.offset
    at = folded if below is None else min(below, folded)
    least = max(start, at - SCAN)
    turns: list[_Shown] = []
    while at > least:
        first = max(least, at - WINDOW)
        for offset, turn in reversed(await _in(owner, key, first, at, shown)):
            if len(turns) == limit:
                return RecentTurns(turns, offset + 1)
            turns.append(turn)
        at = first
    return RecentTurns(turns, at if at > start else None)


async def _in(
    owner: Owner, key: str, first: int, end: int, shown: Callable[[int, Entry], _Shown]
) -> list[tuple[int, _Shown]]:
    turns: list[tuple[int, _Shown]] = []
    async for chunk in owner.log.read(Topic.JOURNAL, owner.partition, first, end):
        for record in chunk:
            decoded = decode_record(record.value)
            if (
                isinstance(decoded, EntryRecord)
                and decoded.entry.key == key
                and owner.tables.counts(decoded.epoch, record.offset)
            ):
                turns.append((record.offset, shown(record.offset, decoded.entry)))
    return turns
