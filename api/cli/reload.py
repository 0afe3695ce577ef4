"""Runs `perdure serve` as a child, stops it gently when the app's files change, and starts it again.

Laws
- One child at a time: the next one starts after the last one has ended, for they share the data directory.
- A child that ends by itself for an error in the app (exit code 2, or a signal) is started again after the
  next change, not before; what no change of code can mend (a port in use, a full disk) ends this process too.
- Ctrl-C and SIGTERM end the child, then this process, with exit code 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process
from pathlib import Path
from typing import Any

from watchfiles import Change, DefaultFilter, awatch

from perdure.api.cli.output import EXIT_CONFIG

STOP_S = 10.0  # then it is killed: what it acknowledged is durable
_SUFFIXES = (".py", ".toml", ".dev.vars")


class CodeFilter(DefaultFilter):
    """Changes of Python and TOML files and of secrets, outside of the data directory and of folders of tools."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(ignore_paths=[data_dir])

    def __call__(self, change: Change, path: str) -> bool:
        return path.endswith(_SUFFIXES) and super().__call__(change, path)


async def supervise(arguments: list[str], folder: Path, data_dir: Path) -> int:
    """Serve with these arguments of `perdure serve` until a signal; returns the exit code."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, stop.set)
    # watchfiles reports its own readiness only by its first change: an app edited in the first milliseconds of
    # `dev` is read by the child anyway, which starts after the watch does.
    changes = awatch(folder, watch_filter=CodeFilter(data_dir), stop_event=stop, raise_interrupt=False)
    watch = asyncio.ensure_future(anext(changes, None))
    try:
        while not stop.is_set():
            child, lifeline = await _start(arguments)
            try:
                await _first(watch, child)
            finally:
                await _end(child, lifeline)
            if not watch.done():
                if child.returncode not in (None, EXIT_CONFIG) and child.returncode >= 0:
                    return child.returncode
                print("perdure: waiting for a change in", folder, file=sys.stderr, flush=True)
            if await watch is None:
                break
            print("perdure: code changed, starting anew", file=sys.stderr, flush=True)
            watch = asyncio.ensure_future(anext(changes, None))
    finally:
        stop.set()
        with contextlib.suppress(StopAsyncIteration):
            await watch
    return 0


async def _start(arguments: list[str]) -> tuple[Process, int]:
    """The child, and our end of the pipe whose closing tells it to go."""
    theirs, ours = os.pipe()
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "perdure.api.cli", "serve", *arguments, "--lifeline-fd", str(theirs)),
            pass_fds=(theirs,),
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return child, ours


async def _first(watch: asyncio.Future[set[tuple[Change, str]] | None], child: Process) -> None:
    """Until the code changes, a signal ends the watch, or the child ends."""
    ended = asyncio.ensure_future(child.wait())
    try:
        either: set[asyncio.Future[Any]] = {watch, ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended.cancel()


async def _end(child: Process, lifeline: int) -> None:
    os.close(lifeline)
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            child.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()
