"""States of the past: what an object, or all of a namespace or the app, held at a place of the journal.

A time means the journal as far as it was written then: `offset_at` finds the place in each partition. The
state of one object is undone from its present one along its links; that of many objects is folded from the
nearest snapshot, or from the journal's beginning.

Laws [test_states.py]
- A state at an offset is the fold of the records below it, and nothing else.
- What cannot be known, since the journal was trimmed and no snapshot lies before, is refused, never made up.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any, NamedTuple

from perdure.objects.listing import bounds as range_of
from perdure.schemas.errors import MalformedCommand
from perdure.schemas.journal import Entry, EntryRecord, Migration, decode_record, in_history
from perdure.schemas.keys import namespace_of
from perdure.streams.audit.history import LinkedEntry, OlderValues, changed_names
from perdure.streams.audit.reader import AuditLog
from perdure.streams.audit.records import shown_values
from perdure.streams.audit.voids import Voids
from perdure.streams.log.base import Progress, Topic, silent
from perdure.streams.state.fold import fold
from perdure.streams.state.object_scan import objects_of
from perdure.streams.state.tables import Tables
from perdure.streams.store.base import Store

Values = dict[str, bytes]


class ObjectState(NamedTuple):
    """The values of an object, as stored, at a journal offset of its partition.

    `newest`: the object's newest entry below it; None: it had none.
    """

    key: str
    partition: int
    offset: int
    values: Values
    newest: LinkedEntry | None

    def as_json(self) -> dict[str, Any]:
        """The state as types of JSON; secrets are masked."""
        from perdure.schemas.json_preview import json_preview

        newest = self.newest
        return {
            "object": self.key,
            "at": f"{self.partition}:{self.offset}",
            "changed": None if newest is None else f"{self.partition}:{newest.offset}",
            "changed_ms": None if newest is None else newest.record.entry.time_ms,
            "values": json_preview(shown_values(self.values)),
        }


async def offset_at(log: AuditLog, partition: int, time_ms: int) -> int:
    """The journal offset behind the last record that was written by `time_ms`, by a binary search."""
    low, high = await log.bounds(Topic.JOURNAL, partition)
    if not log.log.exclusive:
        stamped = await log.log.since(Topic.JOURNAL, partition, time_ms + 1) if low < high else None
        return high if stamped is None else min(max(stamped.offset, low), high)
    while low < high:
        middle = (low + high) // 2
        async for chunk in log.log.read(Topic.JOURNAL, partition, middle, middle + 1):
            if chunk[0].time_ms > time_ms:
                high = middle
            else:
                low = middle + 1
    return low


async def object_state(log: AuditLog, key: str, at: int | None = None) -> ObjectState:
    """The state of object `key` at journal offset `at` of its partition; None: its durable end.

    Raises `MalformedCommand` where the journal was trimmed and does not say.
    """
    partition = log.partition_of(key)
    start, end = await log.bounds(Topic.JOURNAL, partition)
    at = end if at is None else min(at, end)
    if at < start:
        raise _trimmed(partition, start)
    tables = log.tables(partition)
    if tables is None or log.was_deleted(key, tables):
        return await _scanned(log, key, partition, start, at)
    values, older = dict(_present(tables, key)), OlderValues()
    applied = tables.reader.offset
    walk = log.walk(key)
    newest: LinkedEntry | None = None
    ahead: list[Entry] = []  # between the state and `at`
    async for entry in walk.entries():
        if entry.offset >= at:
            if entry.offset < applied:
                _take_back(values, entry.record.entry)
                older.look_below(entry.record.entry)
            continue
        newest = newest or entry
        if entry.offset >= applied:
            ahead.append(entry.record.entry)
            continue
        if not older.open:
            break
        older.see(entry.record.entry)
    else:
        if older.open and walk.trimmed_below is not None:
            raise _trimmed(partition, walk.trimmed_below)
    values.update({name: value for name, value in older.values.items() if value is not None})
    for each in reversed(ahead):
        _apply(values, each)
    return ObjectState(key, partition, at, values, newest)


async def _scanned(log: AuditLog, key: str, partition: int, start: int, at: int) -> ObjectState:
    """The state of an object, by reading the journal below `at`: where no state has links for it."""
    if start > 0:
        raise _trimmed(partition, start)
    values: Values = {}
    newest: LinkedEntry | None = None
    raw, voids = key.encode(), Voids()
    async for chunk in log.log.read(Topic.JOURNAL, partition, start, at):
        for each in chunk:
            if each.key not in (raw, None):
                continue
            record = decode_record(each.value)
            if not log.log.exclusive and voids.is_void(each.offset, record):
                continue
            if isinstance(record, Migration) and namespace_of(key) in record.step.deleted:
                values.clear()
            elif isinstance(record, EntryRecord) and record.entry.key == key and in_history(record.entry):
                _apply(values, record.entry)
                newest = LinkedEntry(each.offset, record, each.time_ms)
    return ObjectState(key, partition, at, values, newest)


def _trimmed(partition: int, start: int) -> MalformedCommand:
    return MalformedCommand(
        f"the journal of partition {partition} was trimmed and begins at offset {start}: what lay before is not "
        "known. Ask for a later time, or restore a snapshot"
    )


def _present(tables: Tables, key: str) -> Iterator[tuple[str, bytes]]:
    low, high = range_of("", None, None, None, None, reverse=False)
    return tables.values.scan(key, low, high)


def _apply(values: Values, entry: Entry) -> None:
    if entry.clear:
        values.clear()
    for name in entry.deletes:
        values.pop(name, None)
    values.update({name: value for name, value in entry.puts.items() if not name.startswith("\0")})


def _take_back(values: Values, entry: Entry) -> None:
    """Remove what an entry put; what was there before, older entries say."""
    for name in changed_names(entry):
        values.pop(name, None)
    if entry.clear:
        values.clear()


# Many objects


async def fold_to(
    log: AuditLog, partition: int, at: int, store: Store, progress: Progress = silent
) -> Tables:
    """The tables of a partition as they were at a journal offset, folded into `store`.

    log: what is read.
    partition: its number.
    at: the journal offset; what lies below is folded.
    store: holds nothing of the partition, or the rows of an earlier snapshot of it.
    progress: of the fold.

    Raises `MalformedCommand` where the journal was trimmed and the store begins before.
    """
    tables = Tables(store, partition, exclusive=log.log.exclusive)
    start, end = await log.bounds(Topic.JOURNAL, partition)
    if tables.reader.offset < start:
        raise _trimmed(partition, start)
    await fold(log.log, tables, max(min(at, end), tables.reader.offset), progress)
    return tables


def objects_in(tables: Tables, namespace: str, prefix: str = "") -> Iterator[tuple[str, Values]]:
    """The objects of a namespace in a partition, with their values, in order."""
    low, high = range_of(prefix, None, None, None, None, reverse=False)
    for key in objects_of(tables, namespace, low, high):
        yield key, dict(_present(tables, key))


class ObjectDiff(NamedTuple):
    """The difference of one object between two places: its values then and later, where they differ."""

    key: str
    before: Values
    after: Values

    def as_json(self) -> dict[str, Any]:
        """The difference as types of JSON; secrets are masked."""
        from perdure.schemas.json_preview import json_preview

        before, after = json_preview(shown_values(self.before)), json_preview(shown_values(self.after))
        changes = {
            name: {
                **({"before": before[name]} if name in before else {}),
                **({"after": after[name]} if name in after else {}),
            }
            for name in sorted({*before, *after})
        }
        return {"object": self.key, "changes": changes}


async def diff(
    log: AuditLog, partition: int, start: int, end: int, namespace: str = "", key: str = ""
) -> AsyncGenerator[ObjectDiff, None]:
    """What differs between two journal offsets of a partition, object by object.

    log: what is read.
    partition: its number.
    start, end: the two offsets, the earlier one first.
    namespace: only objects of it; empty: all.
    key: only this object; empty: all.
    """
    touched: dict[str, None] = {}
    if key:
        touched[key] = None
    else:
        voids = Voids()
        async for chunk in log.log.read(Topic.JOURNAL, partition, start, end):
            for each in chunk:
                record = decode_record(each.value)
                void = not log.log.exclusive and voids.is_void(each.offset, record)
                if void or not isinstance(record, EntryRecord) or not (mine := record.entry.key):
                    continue
                if namespace in ("", namespace_of(mine)):
                    touched[mine] = None
    for each_key in touched:
        before = (await object_state(log, each_key, start)).values
        after = (await object_state(log, each_key, end)).values
        changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
        if changed:
            yield ObjectDiff(
                each_key,
                {name: value for name, value in before.items() if name in changed},
                {name: value for name, value in after.items() if name in changed},
            )
