"""The process beside a node that takes snapshots, reads them back, and compares them with a replay.

    python -m perdure.streams.snapshots.worker    reads its job on stdin, writes messages to stdout, as JSON

The node's event loop does none of this: hashing and packing a million rows takes seconds of a processor.

Laws
- It changes nothing of the node's: the store is opened for reading only, beside the node, and so is the log.
- It has the lowest priority while it takes or compares; nothing waits for that.
- It ends with the process that started it: when its stdin ends, whatever it is doing.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from perdure.schemas.errors import OperatorError, PerdureError, StorageFailed
from perdure.streams.snapshots.accept import load
from perdure.streams.snapshots.jobs import (
    JobMessage,
    SnapshotJob,
    SnapshotPart,
    SnapshotRefused,
    SnapshotRestored,
    Took,
)
from perdure.streams.snapshots.places import SnapshotPlace, place_at
from perdure.streams.snapshots.restore import write_files
from perdure.streams.snapshots.take import take
from perdure.streams.store.rocks import RocksReading, write_rows
from perdure.streams.worker_process import begin_work

OPEN_TRIES = 20  # the node may remove files while the store is being opened
OPEN_AGAIN_S = 0.1

Emit = Callable[[JobMessage], None]


def work(job: SnapshotJob, emit: Emit) -> None:
    """Do the job, partition by partition, and write the result of each."""
    place = place_at(job.to, job.endpoint)
    if job.work == "take":
        with closing(_state_of(job)) as rows:
            _each(job, emit, lambda part: _take(job, place, rows, part))
    elif job.work == "restore":
        _each(job, emit, lambda part: _restore(job, place, part))
    else:
        from perdure.streams.snapshots.compare import compare_with_replay

        _each(job, emit, lambda part: asyncio.run(compare_with_replay(job, place, part.partition, part.name)))


def _each(job: SnapshotJob, emit: Emit, one: Callable[[SnapshotPart], JobMessage]) -> None:
    for part in job.parts:
        try:
            emit(one(part))
        except PerdureError as error:
            emit(SnapshotRefused(part.partition, error.code, str(error)))


def _state_of(job: SnapshotJob) -> RocksReading:
    for _ in range(OPEN_TRIES):
        try:
            return RocksReading(Path(job.state))
        except OperatorError as error:
            last = error
            time.sleep(OPEN_AGAIN_S)
    raise StorageFailed(f"the state in {job.state} could not be opened for a snapshot: {last}")


def _take(job: SnapshotJob, place: SnapshotPlace, rows: RocksReading, part: SnapshotPart) -> JobMessage:
    began_s = time.monotonic()
    taken = take(
        rows,
        part.partition,
        place,
        job.identity,
        now_ms=int(time.time() * 1000),
        version=version("perdure"),
    )
    if taken is None:
        return Took(part.partition, "")
    manifest = taken.stored.manifest
    return Took(
        part.partition,
        taken.stored.name,
        manifest.offset,
        manifest.rows,
        manifest.size_bytes,
        len(manifest.files),
        taken.files_sent,
        taken.bytes_sent,
        manifest.time_ms,
        round(time.monotonic() - began_s, 3),
    )


def _restore(job: SnapshotJob, place: SnapshotPlace, part: SnapshotPart) -> JobMessage:
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    stored = load(place, job.app, part.partition, part.name)
    return SnapshotRestored(part.partition, write_files(place, stored, part.partition, folder, write_rows))


def main() -> None:
    job, emit = begin_work(SnapshotJob)
    if job.work != "restore":
        os.nice(19)
    try:
        work(job, emit)
    except PerdureError as error:
        for part in job.parts:  # of those that were done already the first message counts
            emit(SnapshotRefused(part.partition, error.code, str(error)))


if __name__ == "__main__":
    main()
