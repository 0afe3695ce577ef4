"""Classes that come from another app, with what their objects hold: read from its journal, written into ours.

Laws
- It is a copy: what the other app's objects hold stays, and goes when that app deletes the class. While it is read nobody
  writes it: a data directory is locked, and on Kafka the partitions are claimed, so that a node that serves them stops.
- Values come, also those that expire, and alarms, also parked ones. WebSockets, spent keys and pauses do not.
- An object comes as entries of no command, the first of which empties it. So a copy that was cut short is made once more
  of all that is there then, until the migration's step is in the journal behind it.
- No code of either app runs.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from perdure.schemas.commands import NOBODY
from perdure.schemas.config import Config
from perdure.schemas.config_model import TransferredClass
from perdure.schemas.effects import AlarmChange
from perdure.schemas.errors import ConfigError
from perdure.schemas.journal import NO_COMMAND, Claim, Entry, encode_entry, encode_raw_entry
from perdure.schemas.keys import name_of, object_key, partition_of
from perdure.schemas.migrations import Step
from perdure.schemas.replies import OK, Reply
from perdure.streams import failpoints
from perdure.streams.datadir import app_in
from perdure.streams.founding import append_one
from perdure.streams.log import Log, Record, Topic
from perdure.streams.looking import objects_of
from perdure.streams.migrating import append_alone
from perdure.streams.opening import kafka_partitions, new_uuid, open_data, start_embedded, start_kafka
from perdure.streams.reader import Position
from perdure.streams.store import RocksStore
from perdure.streams.tables import Tables
from perdure.streams.verify import fold

if TYPE_CHECKING:  # it stands on this file
    from perdure.streams.owner import Owner

_logger = logging.getLogger("perdure")
ENTRY_BYTES = 1 << 20  # of values in one entry, or one value
BATCH_BYTES = 4 << 20
_MOVED = Reply(OK, 204)


class Source(NamedTuple):
    """A class of another app: its namespace there, and the app's tables, folded to their journals' ends."""

    script: str
    namespace: str
    tables: Sequence[Tables]

    def entries(self, namespace: str, partition: int, partitions: int) -> Iterator[Entry]:
        """What makes its objects those of our `namespace`, as far as they belong into `partition`."""
        for tables in self.tables:
            for key in objects_of(tables, self.namespace, "", None):
                ours = object_key(namespace, name_of(key))
                if partition_of(ours, partitions) == partition:
                    yield from _entries(tables, key, ours, f"moved from {self.script}")


def _entries(tables: Tables, key: str, ours: str, summary: str) -> Iterator[Entry]:
    time_ms, first = tables.meta.clock_ms, True
    puts: dict[str, bytes] = {}
    size = 0

    def entry(alarms: tuple[AlarmChange, ...] = ()) -> Entry:
        return Entry(
            NO_COMMAND,
            ours,
            time_ms,
            OK,
            _MOVED,
            puts,
            (),
            first,
            reply_to=NOBODY,
            summary=summary,
            alarms=alarms,
        )

    for name, value in tables.scan(key, "", None):
        if puts and size + len(value) > ENTRY_BYTES:
            yield entry()
            puts, size, first = {}, 0, False
        puts[name] = value
        size += len(value) + len(name.encode()) + 16
    rows = tables.alarms(key).items()
    yield entry(
        tuple(
            AlarmChange(name, row.due_ms, row.attempt, row.cron, row.zone, row.parked) for name, row in rows
        )
    )


class Transfers:
    """Where transferred classes come from. Other apps' data are opened when a step needs them, and held until `close`.

    `config` is that of the app they come to; `scratch` a folder of its own that may be removed.
    """

    def __init__(self, config: Config, scratch: Path) -> None:
        self._config = config
        self._scratch = scratch
        self._lock = asyncio.Lock()  # partitions begin at once
        self._opened: dict[tuple[str, Path | None], Sequence[Tables]] = {}
        self._held = AsyncExitStack()

    async def source(self, step: Step, namespace: str) -> Source | None:
        """Where `namespace` comes from in this step; None: nobody said where that app's data are.

        Raises `ConfigError` if there is no such class, `DataDirError` if its data are in use, `LogUnreachable`.
        """
        asked = self._asked(step, namespace)
        async with self._lock:
            place = asked.from_script, asked.data
            tables = self._opened.get(place)
            if tables is None:
                tables = self._opened[place] = await self._open(asked)
        if not tables:
            return None
        return Source(asked.from_script, _namespace_of(asked, step.tag, tables[0]), tables)

    async def close(self) -> None:
        """Let go of the other apps' data."""
        async with self._lock:
            self._opened.clear()
            await self._held.aclose()

    def _asked(self, step: Step, namespace: str) -> TransferredClass:
        (migration,) = (each for each in self._config.migrations if each.tag == step.tag)
        return next(each for each in migration.transferred_classes if each.to == namespace)

    async def _open(self, asked: TransferredClass) -> Sequence[Tables]:
        log = await (self._embedded(asked, asked.data) if asked.data is not None else self._shared(asked))
        if log is None:
            return ()
        self._held.push_async_callback(log.close)
        scratch = self._scratch / str(len(self._opened))  # of a number: names of apps may be anything
        shutil.rmtree(scratch, ignore_errors=True)
        self._held.callback(shutil.rmtree, scratch, ignore_errors=True)
        store = RocksStore(scratch)
        self._held.callback(store.close)
        return [await _folded(log, store, partition) for partition in range(log.partitions)]

    async def _embedded(self, asked: TransferredClass, path: Path) -> Log:
        told = {"name": asked.from_script, "data_dir": path, "partitions": app_in(path).partitions}
        data = open_data(other := self._config.model_copy(update=told))
        self._held.callback(data.close)
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
        log = await start_kafka(other.model_copy(update={"partitions": partitions}), "transfer")
        for partition in range(partitions):
            await append_one(log, partition, Claim(new_uuid(), f"transfer to {self._config.name}"))
        return log


async def _folded(log: Log, store: RocksStore, partition: int) -> Tables:
    tables = Tables(store, partition, exclusive=log.exclusive)
    await fold(log, tables, (await log.bounds(Topic.JOURNAL, partition)).end)
    tables.write_all()
    return tables


def _namespace_of(asked: TransferredClass, tag: str, tables: Tables) -> str:
    """The namespace that the class has over there. Raises `ConfigError`."""
    living: dict[str, str] = {}
    for step in tables.steps:
        living |= {each[0]: each[1] for each in (*step.created, *step.renamed, *step.transferred)}
        living = {namespace: name for namespace, name in living.items() if namespace not in step.deleted}
    found = [namespace for namespace, name in living.items() if name == asked.source]
    if not tables.steps:  # it has no migrations: each class is a namespace of its own name
        return asked.source
    if not found:
        raise ConfigError(
            f'migration "{tag}": the app "{asked.from_script}" has no class {asked.source}; it has: '
            f"{', '.join(sorted(living.values())) or 'none'}"
        )
    return found[0]


async def move_in(owner: Owner, step: Step, namespace: str) -> int | None:
    """Append to the owner's journal what its partition gets of a transferred class; the offset behind it.

    None: it begins empty, as nobody said where the data are. Raises as `Transfers.source`, and `OutcomeUnknown`.
    """
    transfers, position = owner.ports.transfers, owner.tables.reader.position
    source = None if transfers is None else await transfers.source(step, namespace)
    if source is None:
        return None
    batch: list[Record] = []
    size = objects = 0
    for entry in source.entries(namespace, owner.partition, owner.log.partitions):
        encoded = encode_entry(entry)
        if batch and size + len(encoded) > BATCH_BYTES:
            position = await _append(owner, position, batch)
            batch, size = [], 0
        value, chain = encode_raw_entry(position.epoch, position.seq, encoded, position.chain)
        position = position._replace(seq=position.seq + 1, chain=chain)
        batch.append(Record(entry.key.encode(), value))
        size += len(value)
        objects += entry.clear
    if batch:
        position = await _append(owner, position, batch)
    told = {"partition": owner.partition, "namespace": namespace, "objects": objects, "from": source.script}
    _logger.info("objects have moved in", extra=told)
    return position.offset


async def _append(owner: Owner, position: Position, batch: Sequence[Record]) -> Position:
    name = owner.tables.reader.name
    offset = await append_alone(owner.journal, name, position.offset, batch)
    failpoints.hit("owner.moved_in")
    return position._replace(offset=offset + len(batch))
