"""The coordinator of a rebuild: gives partitions to worker processes, and ingests the files that they fold.

A node that finds no state, and `perdure state rebuild`, start workers (`worker.py`) if there is enough to
fold; the process that starts them folds the smallest share itself.

Laws
- Workers get partitions of which the store has nothing, and fold only what is on the log at that time: the
  owner folds the rest, as after any restart. [tests/acceptance/test_helpers.py]
- A partition comes from a worker whole or not at all; what no worker delivers, for whatever reason, its owner
  folds. [tests/acceptance/test_helpers.py]
- No worker is left when `close` returns. Files of theirs that cannot be removed then are removed by the next
  start.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from perdure.schemas.config import Config
from perdure.schemas.errors import LogUnreachable, StorageFailed, StoreCorrupt
from perdure.streams.datadir import remove_folder
from perdure.streams.log.base import Log, Progress, Topic
from perdure.streams.opening import new_uuid
from perdure.streams.rebuild.worker import Failed, FoldedSoFar, FoldedWhole, Job, Message
from perdure.streams.state.fold import Folded
from perdure.streams.state.tables import Tables
from perdure.streams.store.rocks import RocksStore
from perdure.streams.worker_process import kill

WORTH_RECORDS = 200_000  # a second of one processor; starting a worker takes a third of one
MOST_HELPERS = 3  # unless the configuration says otherwise: each takes some 100 MB while it works
# -P: what lies in the current directory is the user's
PROGRAM = (sys.executable, "-P", "-m", "perdure.streams.rebuild.worker")
_LINE_BYTES = 1 << 20  # each names some 20 files

_logger = logging.getLogger("perdure")
_decode = msgspec.json.Decoder(Message).decode


def shares(sizes: Mapping[int, int], number: int) -> list[list[int]]:
    """Partitions in `number` shares of about the same size, the smallest share first. [test_shares_are_fair]

    sizes: partition -> records. Greedy, the largest partition first: no share is off by more than one
    partition.
    """
    made: list[list[int]] = [[] for _ in range(number)]
    weights = [0] * number
    for partition in sorted(sizes, key=lambda each: (-sizes[each], each)):
        least = weights.index(min(weights))
        made[least].append(partition)
        weights[least] += sizes[partition]
    return [share for _, share in sorted(zip(weights, made, strict=True), key=lambda each: each[0])]


class Helpers:
    """The worker processes that rebuild one store.

    config: the app's configuration, which names the log.
    store: the store that ingests their files.
    folder: a folder of their own, which may be removed.
    """

    def __init__(self, config: Config, store: RocksStore, folder: Path) -> None:
        self._config = config
        self._store = store
        self._folder = folder
        self._processes: list[Process] = []
        self._readers: list[asyncio.Task[None]] = []
        self._awaited: dict[int, asyncio.Future[FoldedWhole | None]] = {}

    async def start(self, log: Log, tables: Sequence[Tables], progress: Progress) -> None:
        """Start workers for a share of what is to be folded, if that is worth it."""
        await remove_folder(self._folder)  # the remains of a process that was killed
        new = [each.partition for each in tables if each.reader.offset == 0]
        number = min(self._number(), len(new) - 1)  # something is left for this process
        if number <= 0:
            return
        try:
            ends = {partition: (await log.bounds(Topic.JOURNAL, partition)).end for partition in new}
        except LogUnreachable:
            return  # the owner that folds asks again, for as long as necessary
        if sum(ends.values()) < WORTH_RECORDS:
            return
        _, *given = shares(ends, number + 1)  # the smallest is for this process, which has more to do
        for share in given:
            await self._start_worker({each: ends[each] for each in share}, progress)

    def _number(self) -> int:
        configured = self._config.rebuild_helpers
        if configured is not None:
            return configured
        processors = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        return min(processors - 1, MOST_HELPERS)

    async def _start_worker(self, ends: dict[int, int], progress: Progress) -> None:
        config = self._config
        folder = self._folder / new_uuid()  # shared with no other worker, not even one that dies slowly
        data_dir, kafka = str(config.data_dir), dict(config.kafka.revealed())
        job = Job(config.name, config.log, data_dir, config.partitions, str(folder), ends, kafka)
        try:
            process = await asyncio.create_subprocess_exec(
                *PROGRAM, stdin=PIPE, stdout=PIPE, limit=_LINE_BYTES
            )
        except OSError as error:
            _logger.warning("no helper for the rebuild can be started (%s); it goes on without", error)
            return
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(job) + b"\n")
        self._processes.append(process)
        loop = asyncio.get_running_loop()
        self._awaited |= {partition: loop.create_future() for partition in ends}
        self._readers.append(asyncio.create_task(self._listen(process, ends, progress)))

    async def _listen(self, process: Process, ends: Mapping[int, int], progress: Progress) -> None:
        """Receive a worker's messages until it ends; then no partition waits for it any longer."""
        reason = ""
        try:
            reason = await self._receive(process, progress)
            code = await process.wait()
            reason = reason or f"exit status {code}"
        except (
            ValueError,
            KeyError,
            OSError,
            msgspec.MsgspecError,
        ) as error:  # not a line of a worker, or no line at all
            reason = f"it wrote a line that is not part of the protocol: {error!r}"
            kill(process)
        finally:
            missing = [partition for partition in ends if not self._awaited[partition].done()]
            if missing:
                text = "a helper of the rebuild ended (%s); folding partitions %s here"
                _logger.warning(text, reason, ", ".join(map(str, missing)))
            for partition in missing:
                self._awaited[partition].set_result(None)

    async def _receive(self, process: Process, progress: Progress) -> str:
        """Take messages until the worker's stdout ends; returns why it failed, if it reported that."""
        assert process.stdout is not None
        async for line in process.stdout:
            match _decode(line):
                case FoldedSoFar(partition, records, total):
                    progress(partition, records, total)
                case FoldedWhole() as whole:
                    if not self._awaited[whole.partition].done():  # otherwise no partition waits any more
                        self._awaited[whole.partition].set_result(whole)
                case Failed(reason):
                    return reason
        return ""

    def has(self, partition: int) -> bool:
        """True if a worker folds this partition."""
        return partition in self._awaited

    async def ingest(self, tables: Tables) -> Folded | None:
        """Ingest what a worker has folded of this partition, once it is whole. None: fold it here."""
        awaited = self._awaited.get(tables.partition)
        if awaited is None or tables.reader.offset or (whole := await awaited) is None:
            return None
        try:
            self._store.take_in([Path(file) for file in whole.files])
        except (StorageFailed, StoreCorrupt) as error:  # all of them or none: the store is unchanged
            _logger.warning("partition %s is folded once more, here: %s", tables.partition, error)
            return None
        tables.load()
        return Folded(whole.records, whole.entries)

    async def close(self) -> None:
        """End the workers, and cancel those that wait for one."""
        for awaited in self._awaited.values():
            awaited.cancel()
        for process in self._processes:
            kill(process)
        await asyncio.gather(*self._readers, return_exceptions=True)
        await remove_folder(self._folder)
