"""Whoever builds state anew and has helpers for it: who folds what, and how it comes into the store.

Laws
- Helpers are asked where the store has nothing of a partition, and only for what is on the log then: the rest is
  its owner's to fold, as after any restart.
- A partition comes from a helper whole or not at all; what no helper brings, its owner folds.
- No helper is left when `close` returns, nor anything in its folder.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from perdure.schemas.config import Config
from perdure.streams.folding import Folded, Progress
from perdure.streams.helper import Failed, Far, Job, Told, Whole
from perdure.streams.log import Log, Topic
from perdure.streams.opening import new_uuid
from perdure.streams.store import RocksStore
from perdure.streams.tables import Tables

WORTH_RECORDS = 200_000  # a second of one processor; to start a helper takes a third of one
MOST_HELPERS = 3  # unless the configuration says so: each takes some 100 MB while it works
# -P: what lies in the current directory is the user's
PROGRAM = (sys.executable, "-P", "-m", "perdure.streams.helper")
_LINE_BYTES = 1 << 20  # each names some 20 files

_logger = logging.getLogger("perdure")
_decode = msgspec.json.Decoder(Told).decode


def shares(sizes: Mapping[int, int], number: int) -> list[list[int]]:
    """Partitions in so many shares of about the same size, the smallest share first.

    sizes: partition -> records. Greedy, the largest partition first: no share is off by more than one partition.
    """
    made: list[list[int]] = [[] for _ in range(number)]
    weights = [0] * number
    for partition in sorted(sizes, key=lambda each: (-sizes[each], each)):
        least = weights.index(min(weights))
        made[least].append(partition)
        weights[least] += sizes[partition]
    return [share for _, share in sorted(zip(weights, made, strict=True), key=lambda each: each[0])]


class Helpers:
    """The helpers of one store that is built anew. `config` says which log, `folder` is their own and may be removed."""

    def __init__(self, config: Config, store: RocksStore, folder: Path) -> None:
        self._config = config
        self._store = store
        self._folder = folder
        self._processes: list[Process] = []
        self._readers: list[asyncio.Task[None]] = []
        self._awaited: dict[int, asyncio.Future[Whole | None]] = {}

    async def start(self, log: Log, tables: Sequence[Tables], progress: Progress) -> None:
        """Give helpers a share of what is to be folded, if that is worth it."""
        shutil.rmtree(self._folder, ignore_errors=True)  # of a process that was killed
        number = self._number()
        if not number:
            return
        ends = {
            each.partition: (await log.bounds(Topic.JOURNAL, each.partition)).end
            for each in tables
            if each.reader.offset == 0
        }
        if sum(ends.values()) < WORTH_RECORDS:
            return
        _, *given = shares(ends, number + 1)  # the smallest is for this process, which has the more to do
        for share in filter(None, given):
            await self._ask({each: ends[each] for each in share}, progress)

    def _number(self) -> int:
        asked = self._config.rebuild_helpers
        if asked is not None:
            return asked
        processors = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        return min(processors - 1, MOST_HELPERS)

    async def _ask(self, ends: dict[int, int], progress: Progress) -> None:
        config = self._config
        folder = self._folder / new_uuid()  # nobody else's, not even of a helper that dies slowly
        job = Job(config.name, config.log, str(config.data_dir), config.partitions, str(folder), ends)
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
        """Hear what a helper tells until it ends, for whatever reason."""
        assert process.stdout is not None
        reason = ""
        try:
            async for line in process.stdout:
                match _decode(line):
                    case Far(partition, records, total):
                        progress(partition, records, total)
                    case Whole() as whole:
                        self._answer(whole.partition, whole)
                    case Failed(reason):
                        pass
        except (ValueError, msgspec.MsgspecError) as error:  # a line that is too long, or none of those
            reason = f"it says what nobody understands: {error}"
            process.kill()
        code = await process.wait()
        missing = [partition for partition in ends if not self._awaited[partition].done()]
        if missing:
            told = "a helper of the rebuild ended (%s); folding partitions %s here"
            _logger.warning(told, reason or f"exit status {code}", ", ".join(map(str, missing)))
        for partition in missing:
            self._answer(partition, None)

    def _answer(self, partition: int, whole: Whole | None) -> None:
        awaited = self._awaited[partition]
        if not awaited.done():  # else nobody waits any more
            awaited.set_result(whole)

    def have(self, partition: int) -> bool:
        """Is a helper asked for this partition?"""
        return partition in self._awaited

    async def bring(self, tables: Tables) -> Folded | None:
        """Take in what a helper has folded of this partition, when it is whole; None: nothing, fold it here.

        Raises `StorageFailed` or `StoreCorrupt`.
        """
        awaited = self._awaited.get(tables.partition)
        if awaited is None or tables.reader.offset or (whole := await awaited) is None:
            return None
        self._store.take_in([Path(file) for file in whole.files])
        tables.load()
        return Folded(whole.records, whole.entries)

    async def close(self) -> None:
        """End the helpers, and whoever waits for one."""
        for awaited in self._awaited.values():
            awaited.cancel()
        for process in self._processes:
            if process.returncode is None:
                process.kill()
        await asyncio.gather(*self._readers)
        shutil.rmtree(self._folder, ignore_errors=True)
