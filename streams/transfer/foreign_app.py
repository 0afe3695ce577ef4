"""Foreign apps: the data of another app, opened and held while its objects are exported and imported here.

A transfer step of a migration names a class of another app. Its data directory, or its topics on the same
Kafka, are opened when the step needs them (`export_objects.py` reads them, `import_objects.py` writes here).

Laws
- A transfer copies: the other app keeps its objects until it deletes the class. While they are read no
  process writes them: a data directory is locked, and on Kafka the partitions are claimed, so that a node
  that serves them stops.
- Nothing is claimed before everything that is to be copied is known to be there. What was acknowledged before
  the claim is read: up to the claim itself, since the end that a broker reports proves nothing.
- No code of either app runs. [tests/integration/test_migrations.py]
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from os import getpid
from pathlib import Path
from socket import gethostname

from perdure.schemas.config import Config
from perdure.schemas.config_migrations import TransferredClass
from perdure.schemas.errors import ConfigError, OperatorError
from perdure.schemas.journal import Claim
from perdure.schemas.migrations import Step
from perdure.streams.datadir import app_in, remove_folder
from perdure.streams.journal.bootstrap import append_one
from perdure.streams.log.base import Log, Topic
from perdure.streams.opening import kafka_partitions, new_uuid, open_data, start_embedded, start_kafka
from perdure.streams.state.fold import fold, write_out
from perdure.streams.state.object_scan import namespaces_of
from perdure.streams.state.tables import Tables
from perdure.streams.store.rocks import RocksStore
from perdure.streams.transfer.export_objects import ForeignObjects


class _App:
    """Another app whose data are held: its partitions' tables, folded to their journals' ends."""

    def __init__(self, log: Log, tables: Sequence[Tables]) -> None:
        self.tables = tables
        self.sources: dict[str, ForeignObjects] = {}  # by the namespace in this app
        self._log = log
        self._ours = log.exclusive  # no other process writes there

    async def claim(self, name: str) -> None:
        """Stop the nodes that serve it, and read what was acknowledged until then.

        Raises `OutcomeUnknown`.
        """
        if self._ours:
            return
        me = name, gethostname(), getpid(), None, dict(self._log.topic_ids)
        for each in self.tables:
            claim = Claim(new_uuid(), *me, each.meta.seal, each.meta.sealed_from)
            await _read(self._log, each, await append_one(self._log, each.partition, claim) + 1)
        self._ours = True


class ForeignApps:
    """The other apps from which classes are transferred, each opened when needed and held until `close`.

    config: the configuration of this app.
    scratch: a folder of its own, which may be removed.
    partitions: how many this app has.
    """

    def __init__(self, config: Config, scratch: Path, partitions: int) -> None:
        self._config = config
        self._scratch = scratch
        self._partitions = partitions
        self._lock = asyncio.Lock()  # partitions begin concurrently
        self._opened: dict[tuple[str, Path | None], _App | None] = {}
        self._wrong: OperatorError | None = None  # raised in each partition, and looked for once
        self._held = AsyncExitStack()

    async def check(self, step: Step, namespace: str) -> None:
        """Check that the class which this step transfers is there. Nothing is claimed.

        Raises `ConfigError` if there is no such class, `DataDirError` if its data are in use,
        `LogUnreachable`.
        """
        wanted = self._wanted(step, namespace)
        async with self._lock:
            if (app := await self._app(wanted)) is not None:
                self._namespace(wanted, step, app)

    async def source(self, step: Step, namespace: str) -> ForeignObjects | None:
        """The objects that become `namespace` in this step. None: the app is not there. Raises as `check`."""
        wanted = self._wanted(step, namespace)
        async with self._lock:
            app = await self._app(wanted)
            if app is not None and namespace not in app.sources:
                theirs = self._namespace(wanted, step, app)
                await app.claim(f"transfer to {self._config.name}")
                source = ForeignObjects(wanted.from_script, theirs, namespace, app.tables, self._partitions)
                await source.find()
                app.sources[namespace] = source
            return None if app is None else app.sources[namespace]

    async def close(self) -> None:
        """Close the other apps' data."""
        async with self._lock:
            self._opened.clear()
            try:
                await self._held.aclose()
            finally:
                await remove_folder(self._scratch)  # also the remains of a process that was killed

    def _wanted(self, step: Step, namespace: str) -> TransferredClass:
        (migration,) = (each for each in self._config.migrations if each.tag == step.tag)
        return next(each for each in migration.transferred_classes if each.to == namespace)

    def _namespace(self, wanted: TransferredClass, step: Step, app: _App) -> str:
        try:
            return _namespace_of(wanted, step.tag, app.tables)
        except ConfigError as error:
            self._wrong = error
            raise

    async def _app(self, wanted: TransferredClass) -> _App | None:
        if self._wrong is not None:
            raise self._wrong
        place = wanted.from_script, wanted.data.resolve() if wanted.data is not None else None
        if place not in self._opened:
            try:
                self._opened[place] = await self._open(wanted)
            except OperatorError as error:
                self._wrong = error
                raise
        return self._opened[place]

    async def _open(self, wanted: TransferredClass) -> _App | None:
        """Open and hold the app; close it again if it cannot be read. None: it is not there."""
        async with AsyncExitStack() as opened:
            log = await (self._embedded(wanted, opened) if wanted.data is not None else self._shared(wanted))
            if log is None:
                return None
            opened.push_async_callback(log.close)
            scratch = self._scratch / str(len(self._opened))  # a number: names of apps may contain anything
            await remove_folder(scratch)
            opened.push_async_callback(remove_folder, scratch)
            store = RocksStore(scratch)
            opened.callback(store.close)
            tables = [
                Tables(store, partition, exclusive=log.exclusive) for partition in range(log.partitions)
            ]
            for each in tables:
                await _read(log, each, (await log.bounds(Topic.JOURNAL, each.partition)).end)
            self._held.push_async_callback(opened.pop_all().aclose)
            return _App(log, tables)

    async def _embedded(self, wanted: TransferredClass, opened: AsyncExitStack) -> Log:
        path = wanted.data
        assert path is not None
        changes = {"name": wanted.from_script, "data_dir": path, "partitions": app_in(path).partitions}
        data = open_data(other := self._config.model_copy(update=changes))
        opened.callback(data.close)
        if not data.has_log:
            raise ConfigError(
                f"{path} has no log: the app {wanted.from_script} was not run on the embedded log there"
            )
        return await start_embedded(other, data)

    async def _shared(self, wanted: TransferredClass) -> Log | None:
        other = self._config.model_copy(update={"name": wanted.from_script})
        partitions = await kafka_partitions(other) if other.kafka_brokers else 0
        if not partitions:
            return None
        return await start_kafka(
            other.model_copy(update={"partitions": partitions}), "transfer", leaving=True
        )


async def _read(log: Log, tables: Tables, end: int) -> None:
    await fold(log, tables, end)
    await write_out(tables)


def _namespace_of(wanted: TransferredClass, tag: str, tables: Sequence[Tables]) -> str:
    """The namespace of the class in the other app. Raises `ConfigError`."""
    if not tables[0].steps:  # no migrations: each class is a namespace of its own name
        living = {name: name for each in tables for name in namespaces_of(each)}
    else:
        living = {}
        for step in tables[0].steps:
            living |= {each[0]: each[1] for each in (*step.created, *step.renamed, *step.transferred)}
            living = {namespace: name for namespace, name in living.items() if namespace not in step.deleted}
    for namespace, name in living.items():
        if name == wanted.source:
            return namespace
    known = ", ".join(sorted(set(living.values()))) or "none"
    what = "class" if tables[0].steps else "object of a class"
    raise ConfigError(
        f'migration "{tag}": the app "{wanted.from_script}" has no {what} {wanted.source}; it has: {known}. '
        f"If {wanted.to} is to begin empty, put it into new_classes instead"
    )
