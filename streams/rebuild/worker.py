"""The worker of a rebuild: a process that folds some partitions into files, which the node ingests.

    python -m perdure.streams.rebuild.worker     reads its job on stdin and writes messages to stdout, as JSON

Laws
- It only reads the log. Its files are in a folder of its own.
- A partition is reported complete once all its files are written. Any failure ends the worker; the node then
  folds the missing partitions itself and meets the fault there. [tests/acceptance/test_helpers.py]
- It ends with the process that started it: when its stdin ends, whatever it is doing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from perdure.schemas.config import Config
from perdure.schemas.errors import PerdureError
from perdure.schemas.kafka import Kafka
from perdure.streams.opening import open_reading
from perdure.streams.state.fold import fold
from perdure.streams.state.rows import ranges_of
from perdure.streams.state.tables import Tables
from perdure.streams.store.rocks import RocksStore
from perdure.streams.worker_process import begin_work


class Job(msgspec.Struct):
    """The job of a worker: fold each of these partitions of a log up to its end, in `folder`."""

    name: str
    log: str
    data_dir: str
    partitions: int
    folder: str
    ends: dict[int, int]
    kafka: dict[str, Any] = {}  # as `Kafka.revealed` has it: stdin is a pipe that no other process reads

    @property
    def config(self) -> Config:
        """The part of the app's configuration that names the log."""
        kafka, data_dir = Kafka.from_revealed(self.kafka), Path(self.data_dir)
        return Config(
            name=self.name, log=self.log, kafka=kafka, data_dir=data_dir, partitions=self.partitions
        )


class FoldedSoFar(msgspec.Struct, tag=True):
    """Progress: how many records of a partition are folded, of how many."""

    partition: int
    records: int
    total: int


class FoldedWhole(msgspec.Struct, tag=True):
    """The report that all of a partition is folded, and its rows are in `files`."""

    partition: int
    records: int
    entries: int
    files: list[str]


class Failed(msgspec.Struct, tag=True):
    """The report that the worker ends, and why."""

    reason: str


Message = FoldedSoFar | FoldedWhole | Failed


async def work(job: Job, emit: Callable[[Message], None]) -> None:
    """Do the job and emit messages about it. Raises as `open_reading` and `fold` do."""
    folder = Path(job.folder)
    async with AsyncExitStack() as opened:
        log = await open_reading(job.config)
        opened.push_async_callback(log.close)
        store = RocksStore(folder / "store")
        opened.callback(store.close)
        for partition, end in job.ends.items():
            tables = Tables(store, partition, exclusive=log.exclusive)
            folded = await fold(log, tables, end, lambda *far: emit(FoldedSoFar(*far)))
            tables.write_all()
            emit(FoldedWhole(partition, *folded, _export(store, partition, folder)))


def _export(store: RocksStore, partition: int, folder: Path) -> list[str]:
    files = []
    for start, end in ranges_of(partition):
        file = folder / f"{partition}-{start[:1].decode()}"
        if store.export(start, end, file):
            files.append(str(file))
    return files


def main() -> None:
    job, emit = begin_work(Job)
    Path(job.folder).mkdir(parents=True)
    try:
        asyncio.run(work(job, emit))
    except PerdureError as error:
        emit(Failed(str(error)))


if __name__ == "__main__":
    main()
