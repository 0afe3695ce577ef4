"""Runs `worker.py` for one job, and gives what it says of each partition.

Laws
- Each partition of the job has one answer: one that the worker does not name is refused, with the reason why
  the worker ended. [tests/acceptance/test_snapshots.py]
- No worker is left when `run` has returned, raised or was cancelled.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process

import msgspec

from perdure.schemas.errors import StorageFailed
from perdure.streams.snapshots.jobs import JobMessage, SnapshotJob, SnapshotRefused
from perdure.streams.worker_process import kill

# -P: what lies in the current directory is the user's
PROGRAM = (sys.executable, "-P", "-m", "perdure.streams.snapshots.worker")
_decode = msgspec.json.Decoder(JobMessage).decode


async def run(job: SnapshotJob) -> dict[int, JobMessage]:
    """Do a job in a process of its own; returns a message for each partition in it."""
    said: dict[int, JobMessage] = {}
    try:
        process = await asyncio.create_subprocess_exec(*PROGRAM, stdin=PIPE, stdout=PIPE)
    except OSError as error:
        return _refuse(job, said, f"no process can be started: {error}")
    try:
        reason = await _listen(process, job, said)
    finally:
        kill(process)
        await process.wait()
    return _refuse(job, said, reason)


async def _listen(process: Process, job: SnapshotJob, said: dict[int, JobMessage]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.json.encode(job) + b"\n")
    try:
        async for line in process.stdout:
            message = _decode(line)
            said.setdefault(message.partition, message)
    except (msgspec.MsgspecError, ValueError) as error:
        return f"the process wrote a line that is not part of the protocol: {error!r}"
    return f"the process ended with exit status {await process.wait()}"


def _refuse(job: SnapshotJob, said: dict[int, JobMessage], reason: str) -> dict[int, JobMessage]:
    for part in job.parts:
        said.setdefault(part.partition, SnapshotRefused(part.partition, StorageFailed.code, reason))
    return said
