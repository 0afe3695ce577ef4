"""Classes that come from another app, with what their objects hold: read from its journal, for moving.py to write.

Laws
- It is a copy: what the other app's objects hold stays, and goes when that app deletes the class. While it is read nobody
  writes it: a data directory is locked, and on Kafka the partitions are claimed, so that a node that serves them stops.
  Nothing is claimed before the class is known to be there.
- Values come, also those that expire, and alarms, also parked ones. WebSockets, spent keys and pauses do not.
- No code of either app runs.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from perdure.schemas.commands import NOBODY
from perdure.schemas.config import Config
from perdure.schemas.config_model import TransferredClass
from perdure.schemas.effects import AlarmChange
from perdure.schemas.errors import ConfigError
from perdure.schemas.journal import NO_COMMAND, Claim, Entry
from perdure.schemas.keys import name_of, object_key, partition_of
from perdure.schemas.migrations import Step
from perdure.schemas.replies import OK, Reply
from perdure.streams.datadir import app_in
from perdure.streams.founding import append_one
from perdure.streams.log import Log, Topic
from perdure.streams.looking import namespaces_of, objects_of
from perdure.streams.opening import kafka_partitions, new_uuid, open_data, start_embedded, start_kafka
from perdure.streams.store import RocksStore
from perdure.streams.tables import Tables
from perdure.streams.verify import fold

ENTRY_BYTES = 1 << 20  # of values and alarms in one entry, or one value
YIELD_EVERY = 64  # objects
_MOVED = Reply(OK, 204)
_ALARM_BYTES = 64  # of one in an entry, beside its texts
_VALUE_BYTES = 16


class Source:
    """The objects of a class of the app `script`, by the partition of ours that each belongs to.

    Their namespace is `theirs` there, and `ours` here.
    """

    def __init__(self, script: str, theirs: str, ours: str, partitions: int) -> None:
        self.script = script
        self._theirs = theirs
        self._ours = ours
        self._places: list[list[tuple[Tables, str]]] = [[] for _ in range(partitions)]

    async def find(self, tables: Sequence[Tables]) -> None:
        """Look for its objects, once for all partitions: a namespace is sought through key by key."""
        found = 0
        for each in tables:
            for key in objects_of(each, self._theirs, "", None):
                place = partition_of(object_key(self._ours, name_of(key)), len(self._places))
                self._places[place].append((each, name_of(key)))
                found += 1
                if found % YIELD_EVERY == 0:
                    await asyncio.sleep(0)

    def count(self, partition: int) -> int:
        """How many objects `partition` gets."""
        return len(self._places[partition])

    def entries(self, partition: int) -> Iterator[Entry]:
        """What makes its objects ours, as far as they belong into `partition`."""
        for tables, name in self._places[partition]:
            theirs, ours = object_key(self._theirs, name), object_key(self._ours, name)
            yield from _entries(tables, theirs, ours, f"moved from {self.script}")


def moved(
    key: str,
    time_ms: int,
    puts: dict[str, bytes] | None = None,
    alarms: Sequence[AlarmChange] = (),
    *,
    clear: bool = False,
    summary: str = "",
) -> Entry:
    """An entry of no command that gives an object these. `clear`: it loses what it had."""
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
    changes: Iterator[tuple[str, bytes | AlarmChange]] = _holdings(tables, theirs)
    for name, change in changes:
        if isinstance(change, AlarmChange):
            more = len(name.encode()) + len(change.cron.encode()) + len(change.zone.encode()) + _ALARM_BYTES
        else:
            more = len(name.encode()) + len(change) + _VALUE_BYTES
        if size and size + more > ENTRY_BYTES:
            yield moved(ours, time_ms, puts, alarms, summary=summary)
            puts, alarms, size = {}, [], 0
        if isinstance(change, AlarmChange):
            alarms.append(change)
        else:
            puts[name] = change
        size += more
    yield moved(ours, time_ms, puts, alarms, summary=summary)


def _holdings(tables: Tables, key: str) -> Iterator[tuple[str, bytes | AlarmChange]]:
    yield from tables.scan(key, "", None)
    for name, row in tables.alarms(key).items():
        yield name, AlarmChange(name, row.due_ms, row.attempt, row.cron, row.zone, row.parked)


class _App(NamedTuple):
    """Another app, as it is held: its partitions' tables, folded to their journals' ends, and what was found in them."""

    tables: Sequence[Tables]
    sources: dict[str, Source]  # by the namespace they come to


class Transfers:
    """Where transferred classes come from. Other apps' data are opened when a step needs them, and held until `close`.

    `config` is that of the app they come to; `scratch` a folder of its own that may be removed.
    """

    def __init__(self, config: Config, scratch: Path, partitions: int) -> None:
        self._config = config
        self._scratch = scratch
        self._partitions = partitions
        self._lock = asyncio.Lock()  # partitions begin at once
        self._opened: dict[tuple[str, Path | None], _App | None] = {}
        self._held = AsyncExitStack()

    async def source(self, step: Step, namespace: str) -> Source | None:
        """Where `namespace` comes from in this step; None: nobody said where that app's data are.

        Raises `ConfigError` if there is no such class, `DataDirError` if its data are in use, `LogUnreachable`.
        """
        asked = self._asked(step, namespace)
        place = asked.from_script, asked.data
        async with self._lock:
            if place not in self._opened:
                self._opened[place] = await self._open(asked, step.tag)
            app = self._opened[place]
            if app is None:
                return None
            if namespace not in app.sources:
                theirs = _namespace_of(asked, step.tag, app.tables)
                source = Source(asked.from_script, theirs, namespace, self._partitions)
                await source.find(app.tables)
                app.sources[namespace] = source
            return app.sources[namespace]

    async def close(self) -> None:
        """Let go of the other apps' data."""
        async with self._lock:
            self._opened.clear()
            await self._held.aclose()

    def _asked(self, step: Step, namespace: str) -> TransferredClass:
        (migration,) = (each for each in self._config.migrations if each.tag == step.tag)
        return next(each for each in migration.transferred_classes if each.to == namespace)

    async def _open(self, asked: TransferredClass, tag: str) -> _App | None:
        """The app, held; what was opened of it is closed again if it cannot be read. None: it is not there."""
        async with AsyncExitStack() as opened:
            log = await (self._embedded(asked, opened) if asked.data is not None else self._shared(asked))
            if log is None:
                return None
            opened.push_async_callback(log.close)
            scratch = self._scratch / str(len(self._opened))  # of a number: names of apps may be anything
            shutil.rmtree(scratch, ignore_errors=True)
            opened.callback(shutil.rmtree, scratch, ignore_errors=True)
            store = RocksStore(scratch)
            opened.callback(store.close)
            tables = [
                Tables(store, partition, exclusive=log.exclusive) for partition in range(log.partitions)
            ]
            await _fold_all(log, tables)
            _namespace_of(asked, tag, tables)
            if not log.exclusive:
                claim = f"transfer to {self._config.name}"
                for partition in range(log.partitions):
                    await append_one(log, partition, Claim(new_uuid(), claim))
                await _fold_all(log, tables)
            self._held.push_async_callback(opened.pop_all().aclose)
            return _App(tables, {})

    async def _embedded(self, asked: TransferredClass, opened: AsyncExitStack) -> Log:
        path = asked.data
        assert path is not None
        told = {"name": asked.from_script, "data_dir": path, "partitions": app_in(path).partitions}
        data = open_data(other := self._config.model_copy(update=told))
        opened.callback(data.close)
        if not data.has_log:
            raise ConfigError(
                f"{path} has no log: the app {asked.from_script} was not run on the embedded log there"
            )
        return await start_embedded(other, data)

    async def _shared(self, asked: TransferredClass) -> Log | None:
        other = self._config.model_copy(update={"name": asked.from_script})
        partitions = await kafka_partitions(other) if other.kafka_brokers else 0
        if not partitions:
            return None
        return await start_kafka(other.model_copy(update={"partitions": partitions}), "transfer")


async def _fold_all(log: Log, tables: Sequence[Tables]) -> None:
    for each in tables:
        await fold(log, each, (await log.bounds(Topic.JOURNAL, each.partition)).end)
        each.write_all()


def _namespace_of(asked: TransferredClass, tag: str, tables: Sequence[Tables]) -> str:
    """The namespace that the class has over there. Raises `ConfigError`."""
    if not tables[0].steps:  # it has no migrations: each class is a namespace of its own name
        living = {name: name for each in tables for name in namespaces_of(each)}
    else:
        living = {}
        for step in tables[0].steps:
            living |= {each[0]: each[1] for each in (*step.created, *step.renamed, *step.transferred)}
            living = {namespace: name for namespace, name in living.items() if namespace not in step.deleted}
    for namespace, name in living.items():
        if name == asked.source:
            return namespace
    known = ", ".join(sorted(set(living.values()))) or "none"
    what = "class" if tables[0].steps else "object of a class"
    raise ConfigError(
        f'migration "{tag}": the app "{asked.from_script}" has no {what} {asked.source}; it has: {known}. '
        f"If {asked.to} is to begin empty, put it into new_classes instead"
    )
