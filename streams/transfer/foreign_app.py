"""Classes that come from another app: its data, opened and held while they are read (export_objects.py) and written (import_objects.py).

Laws
- It is a copy: what the other app's objects hold stays, and goes when that app deletes the class. While it is read nobody
  writes it: a data directory is locked, and on Kafka the partitions are claimed, so that a node that serves them stops.
- Nothing is claimed before all that is to come is known to be there. What was acknowledged before a claim is read: up to
  where the claim lies, for the end that a broker tells proves nothing.
- No code of either app runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from os import getpid
from pathlib import Path
from socket import gethostname

from perdure.schemas.config import Config
from perdure.schemas.config_model import TransferredClass
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
    """Another app, as it is held: its partitions' tables, folded to their journals' ends, and what was found in them."""

    def __init__(self, log: Log, tables: Sequence[Tables]) -> None:
        self.tables = tables
        self.sources: dict[str, ForeignObjects] = {}  # by the namespace they come to
        self._log = log
        self._ours = log.exclusive  # nobody else writes there

    async def claim(self, name: str) -> None:
        """Whoever serves it stops, and what was acknowledged until then is read. Raises `OutcomeUnknown`."""
        if self._ours:
            return
        me = name, gethostname(), getpid(), None, dict(self._log.topic_ids)
        for each in self.tables:
            claim = Claim(new_uuid(), *me, each.meta.seal, each.meta.sealed_from)
            await _read(self._log, each, await append_one(self._log, each.partition, claim) + 1)
        self._ours = True


class ForeignApps:
    """Where transferred classes come from. Other apps' data are opened when a step needs them, and held until `close`.

    `config` is that of the app they come to; `scratch` a folder of its own that may be removed.
    """

    def __init__(self, config: Config, scratch: Path, partitions: int) -> None:
        self._config = config
        self._scratch = scratch
        self._partitions = partitions
        self._lock = asyncio.Lock()  # partitions begin at once
        self._opened: dict[tuple[str, Path | None], _App | None] = {}
        self._wrong: OperatorError | None = None  # told to each partition, and found out once
        self._held = AsyncExitStack()

    async def check(self, step: Step, namespace: str) -> None:
        """Is there what this step brings? Nothing is claimed for it.

        Raises `ConfigError` if there is no such class, `DataDirError` if its data are in use, `LogUnreachable`.
        """
        asked = self._asked(step, namespace)
        async with self._lock:
            if (app := await self._app(asked)) is not None:
                self._namespace(asked, step, app)

    async def source(self, step: Step, namespace: str) -> ForeignObjects | None:
        """Where `namespace` comes from in this step; None: nobody said where that app's data are. Raises as `check`."""
        asked = self._asked(step, namespace)
        async with self._lock:
            app = await self._app(asked)
            if app is not None and namespace not in app.sources:
                theirs = self._namespace(asked, step, app)
                await app.claim(f"transfer to {self._config.name}")
                source = ForeignObjects(asked.from_script, theirs, namespace, app.tables, self._partitions)
                await source.find()
                app.sources[namespace] = source
            return None if app is None else app.sources[namespace]

    async def close(self) -> None:
        """Let go of the other apps' data."""
        async with self._lock:
            self._opened.clear()
            try:
                await self._held.aclose()
            finally:
                await remove_folder(self._scratch)  # also what a process left that was killed

    def _asked(self, step: Step, namespace: str) -> TransferredClass:
        (migration,) = (each for each in self._config.migrations if each.tag == step.tag)
        return next(each for each in migration.transferred_classes if each.to == namespace)

    def _namespace(self, asked: TransferredClass, step: Step, app: _App) -> str:
        try:
            return _namespace_of(asked, step.tag, app.tables)
        except ConfigError as error:
            self._wrong = error
            raise

    async def _app(self, asked: TransferredClass) -> _App | None:
        if self._wrong is not None:
            raise self._wrong
        place = asked.from_script, asked.data.resolve() if asked.data is not None else None
        if place not in self._opened:
            try:
                self._opened[place] = await self._open(asked)
            except OperatorError as error:
                self._wrong = error
                raise
        return self._opened[place]

    async def _open(self, asked: TransferredClass) -> _App | None:
        """The app, held; what was opened of it is closed again if it cannot be read. None: it is not there."""
        async with AsyncExitStack() as opened:
            log = await (self._embedded(asked, opened) if asked.data is not None else self._shared(asked))
            if log is None:
                return None
            opened.push_async_callback(log.close)
            scratch = self._scratch / str(len(self._opened))  # of a number: names of apps may be anything
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
        return await start_kafka(
            other.model_copy(update={"partitions": partitions}), "transfer", leaving=True
        )


async def _read(log: Log, tables: Tables, end: int) -> None:
    await fold(log, tables, end)
    await write_out(tables)


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
