"""Processes that a node starts beside itself, to fold partitions or to take and read snapshots.

The node writes a job to a worker's stdin, as a line of JSON, and reads its messages from the worker's stdout.

Law: a worker ends with the process that started it: when its stdin ends, whatever it is doing.
[tests/acceptance/test_helpers.py]
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
from asyncio.subprocess import Process
from collections.abc import Callable
from typing import TypeVar

import msgspec

from perdure.streams.state.fold import GC_THRESHOLD

JobType = TypeVar("JobType")


def begin_work(job_type: type[JobType]) -> tuple[JobType, Callable[[msgspec.Struct], None]]:
    """Make this process a worker; returns its job, read from stdin, and what writes a message to the node."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the node, which ends its workers
    # Lines are for the node alone: other output to stdout goes to stderr.
    lines = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def emit(message: msgspec.Struct) -> None:
        lines.write(msgspec.json.encode(message) + b"\n")
        lines.flush()

    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=job_type)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    return job, emit


def _end_with_stdin() -> None:
    while os.read(0, 1024):  # not by `sys.stdin`, whose lock would keep the process from its own end
        pass
    os._exit(1)


def kill(process: Process) -> None:
    """End a worker; called by the node."""
    with contextlib.suppress(ProcessLookupError):  # it may have ended, and its exit is not noticed yet
        process.kill()
