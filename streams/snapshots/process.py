"""Runs `worker.py` for one job, and returns its result for each partition.

Laws
- Each partition of the job has one answer: one that the worker does not name is refused, with the reason why
  the worker ended. [tests/acceptance/test_snapshots.py]
- No worker is left when `run` has returned, raised or was cancelled.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable

import msgspec

from perdure.schemas.errors import StorageFailed
from perdure.streams.snapshots.jobs import JobMessage, SnapshotJob, SnapshotRefused
from perdure.streams.worker_process import kill

# -P: what lies in the current directory is the user's
PROGRAM = (sys.executable, "-P", "-m", "perdure.streams.snapshots.worker")
_LINE_BYTES = 1 << 20  # each names some files
_decode = msgspec.json.Decoder(JobMessage).decode
OnMessage = Callable[[JobMessage], Awaitable[None]]


async def ignored(message: JobMessage) -> None:
    """The messages are of interest at the end only."""


async def run(job: SnapshotJob, on_message: OnMessage = ignored) -> dict[int, JobMessage]:
    """Do a job in a process of its own; returns a message for each partition in it.

    `on_message` is awaited with each of them as it arrives.
    """
    said: dict[int, JobMessage] = {}
    try:
        process = await asyncio.create_subprocess_exec(*PROGRAM, stdin=PIPE, stdout=PIPE, limit=_LINE_BYTES)
    except OSError as error:
        return await _refuse(job, said, f"no process can be started: {error}", on_message)
    try:
        reason = await _listen(process, job, said, on_message)
    finally:
        kill(process)
        await process.wait()
    return await _refuse(job, said, reason, on_message)


async def _listen(
    process: Process, job: SnapshotJob, said: dict[int, JobMessage], on_message: OnMessage
) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.json.encode(job) + b"\n")
    try:
        async for line in process.stdout:
            message = _decode(line)
            if message.partition not in said:
                said[message.partition] = message
                await on_message(message)
    except (msgspec.MsgspecError, ValueError) as error:
        return f"the process wrote a line that is not part of the protocol: {error!r}"
    return f"the process ended with exit status {await process.wait()}"


async def _refuse(
    job: SnapshotJob, said: dict[int, JobMessage], reason: str, on_message: OnMessage
) -> dict[int, JobMessage]:
    for part in job.parts:
        if part.partition not in said:
            refused = said[part.partition] = SnapshotRefused(part.partition, StorageFailed.code, reason)
            await on_message(refused)
    return said
