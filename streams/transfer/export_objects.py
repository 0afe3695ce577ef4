"""Export: the objects of a class of another app, as the journal entries that import them.

Laws
- Values are exported, also those that expire, and alarms, also parked ones. WebSockets, spent keys and pauses
  are not. [tests/integration/test_migrations.py]
- No entry is larger than `ENTRY_BYTES`, except one whose only value is.
  [test_no_entry_is_larger_than_its_bound]
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterator, Sequence

from perdure.schemas.commands import NOBODY
from perdure.schemas.effects import AlarmChange
from perdure.schemas.journal import NO_COMMAND, Entry
from perdure.schemas.keys import name_of, object_key, partition_of
from perdure.schemas.replies import OK, Reply
from perdure.streams.state.object_scan import objects_of
from perdure.streams.state.tables import Tables

ENTRY_BYTES = 1 << 20  # of values and alarms in one entry, or one value
YIELD_EVERY = 64  # objects
_MOVED = Reply(OK, 204)
_ALARM_BYTES = 64  # of one alarm in an entry, without its texts
_VALUE_BYTES = 16


class ForeignObjects:
    """The objects of a class of the app `script`, by the partition of this app that each belongs to.

    theirs, ours: the class's namespace in that app and in this one.
    tables: the partitions of that app.
    partitions: how many this app has.
    """

    def __init__(
        self, script: str, theirs: str, ours: str, tables: Sequence[Tables], partitions: int
    ) -> None:
        self.script = script
        self._theirs = theirs
        self._ours = ours
        self._tables = tables
        # [partition here][partition there]: names only, since there may be millions
        self._names: list[list[list[str]]] = [[[] for _ in tables] for _ in range(partitions)]

    async def find(self) -> None:
        """Collect the names of the objects, once for all partitions: a namespace is scanned key by key."""
        count = 0
        for there, tables in enumerate(self._tables):
            for key in objects_of(tables, self._theirs, "", None):
                name = name_of(key)
                self._names[partition_of(object_key(self._ours, name), len(self._names))][there].append(name)
                count += 1
                if count % YIELD_EVERY == 0:
                    await asyncio.sleep(0)

    def count(self, partition: int) -> int:
        """How many objects belong to `partition`."""
        return sum(map(len, self._names[partition]))

    def entries(self, partition: int, but_for: Container[str] = ()) -> Iterator[Entry]:
        """The entries that import the objects of `partition`, without those whose keys are in `but_for`."""
        for tables, names in zip(self._tables, self._names[partition], strict=True):
            for name in names:
                ours = object_key(self._ours, name)
                if ours not in but_for:
                    yield from _entries(
                        tables, object_key(self._theirs, name), ours, f"moved from {self.script}"
                    )


def moved(
    key: str,
    time_ms: int,
    puts: dict[str, bytes] | None = None,
    alarms: Sequence[AlarmChange] = (),
    *,
    clear: bool = False,
    summary: str = "",
) -> Entry:
    """An entry without a command that gives an object these values and alarms.

    `clear`: it first loses all others.
    """
    return Entry(
        NO_COMMAND,
        key,
        time_ms,
        OK,
        _MOVED,
        puts or {},
        (),
        clear,
        reply_to=NOBODY,
        summary=summary,
        alarms=tuple(alarms),
    )


def _entries(tables: Tables, theirs: str, ours: str, summary: str) -> Iterator[Entry]:
    time_ms, size = tables.meta.clock_ms, 0
    puts: dict[str, bytes] = {}
    alarms: list[AlarmChange] = []
    for name, holding, more in _holdings(tables, theirs):
        if size and size + more > ENTRY_BYTES:
            yield moved(ours, time_ms, puts, alarms, summary=summary)
            puts, alarms, size = {}, [], 0
        if isinstance(holding, AlarmChange):
            alarms.append(holding)
        else:
            puts[name] = holding
        size += more
    yield moved(ours, time_ms, puts, alarms, summary=summary)


def _holdings(tables: Tables, key: str) -> Iterator[tuple[str, bytes | AlarmChange, int]]:
    """The values of an object, then its alarms.

    Each with its name and about the bytes it takes in an entry.
    """
    for name, value in tables.values.scan(key, "", None):
        yield name, value, len(name.encode()) + len(value) + _VALUE_BYTES
    for name, row in tables.alarms.of(key).items():
        alarm = AlarmChange(name, row.due_ms, row.attempt, row.cron, row.zone, row.parked)
        yield name, alarm, sum(len(text.encode()) for text in (name, row.cron, row.zone)) + _ALARM_BYTES
