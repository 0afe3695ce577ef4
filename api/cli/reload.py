"""Runs `perdure serve` as a child, stops it gently when the app's files change, and starts it again.

Laws
- One child at a time: the next one starts after the last one has ended, for they share the data directory. The socket
  is this process's, so that whoever connects meanwhile waits for the next one and is not refused.
- Code that cannot even be parsed is told and not started: the code of before is served until it is mended.
- A child that ends by itself for an error in the app (exit code 2) is started again after the next change, not before;
  what no change of code can mend (a port in use, a full disk) ends this process too. One that is ended by a signal is
  started again at once, as a server in production is; after `FALLS` of them in a row, after the next change.
- Ctrl-C and SIGTERM end the child, then this process, with exit code 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import traceback
from asyncio.subprocess import Process
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from watchfiles import Change, DefaultFilter, awatch

from perdure.api.cli.output import EXIT_CONFIG
from perdure.api.server import bind
from perdure.schemas.config import Config
from perdure.schemas.errors import ConfigError

FALLS = 5  # more than it takes until a command that kills its server is parked
STOP_S = 10.0  # for requests in flight; then it is killed: what it acknowledged is durable
_SUFFIXES = (".py", ".toml", ".dev.vars")
_TESTS = ("test_", "conftest.")
_BACKLOG = 1024


class CodeFilter(DefaultFilter):
    """Changes of Python and TOML files and of secrets, outside of tests, the data directory and folders of tools."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(ignore_paths=[data_dir])

    def __call__(self, change: Change, path: str) -> bool:
        of_code = path.endswith(_SUFFIXES) and not os.path.basename(path).startswith(_TESTS)
        return of_code and super().__call__(change, path)


class _Door:
    """The socket that the children take over. `read` gives the configuration as it stands now."""

    def __init__(self, read: Callable[[], Config]) -> None:
        self._read = read
        self._address: tuple[str, int] | None = None
        self._listener: socket.socket | None = None

    def fileno(self) -> int:
        """Listening at the configured address. Raises as `bind` does."""
        config: Config | None = None
        with contextlib.suppress(ConfigError):  # the child tells it
            config = self._read()
        if config is not None and (config.host, config.port) != self._address:
            self.close()
            self._listener, self._address = bind(config), (config.host, config.port)
            self._listener.listen(_BACKLOG)
        assert self._listener is not None
        return self._listener.fileno()

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()


class _Unparsed:
    """The files that no Python can read as they stand."""

    def __init__(self) -> None:
        self._wrong: set[str] = set()

    def look_at(self, changed: Iterable[tuple[Change, str]]) -> bool:
        """Tell of each that is wrong, those of before too; True if there is one."""
        files = sorted(self._wrong | {path for _, path in changed if path.endswith(".py")})
        self._wrong = {file for file in files if not _parses(file)}
        return bool(self._wrong)


def _parses(file: str) -> bool:
    try:
        compile(Path(file).read_bytes(), file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        _say(f"config-error: {file} cannot be read as Python; the code of before is served until it can")
        print("".join(traceback.format_exception_only(error)), end="", file=sys.stderr, flush=True)
        return False
    except OSError:
        pass  # it is gone: whoever imports it will say so
    return True


def _say(text: str) -> None:
    print(f"perdure: {text}", file=sys.stderr, flush=True)


async def supervise(arguments: list[str], folder: Path, data_dir: Path, read: Callable[[], Config]) -> int:
    """Serve with these arguments of `perdure serve` until a signal; returns the exit code. Raises as `bind` does."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, stop.set)
    # watchfiles reports its own readiness only by its first change: an app edited in the first milliseconds of
    # `dev` is read by the child anyway, which starts after the watch does.
    changes = awatch(folder, watch_filter=CodeFilter(data_dir), stop_event=stop, raise_interrupt=False)
    unparsed, door = _Unparsed(), _Door(read)
    watch = asyncio.ensure_future(anext(changes, None))
    falls = 0
    try:
        while not stop.is_set():
            child, lifeline = await _start(arguments, door.fileno())
            try:
                while await _first(watch, child) and (changed := watch.result()) is not None:
                    watch = asyncio.ensure_future(anext(changes, None))
                    if not unparsed.look_at(changed):
                        _say("code changed: starting anew once requests in flight have ended")
                        falls = 0
                        break
                else:
                    changed = None
            finally:
                await _end(child, lifeline)
            if changed is None and not stop.is_set():  # it ended by itself
                code = child.returncode or 0
                if code > 0 and code != EXIT_CONFIG:
                    return code
                if code < 0 and falls < FALLS:
                    falls += 1
                    _say(f"{signal.Signals(-code).name} has ended the server: starting it again")
                    continue
                falls = 0
                _say(f"waiting for a change in {folder}")
                if await watch is None:
                    break
                watch = asyncio.ensure_future(anext(changes, None))
                _say("code changed: starting anew")
    finally:
        stop.set()
        door.close()
        with contextlib.suppress(StopAsyncIteration):
            await watch
    return 0


async def _start(arguments: list[str], listener: int) -> tuple[Process, int]:
    """The child, and our end of the pipe whose closing tells it to go."""
    theirs, ours = os.pipe()
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "perdure.api.cli", "serve", *arguments),
            *("--lifeline-fd", str(theirs), "--listen-fd", str(listener)),
            pass_fds=(theirs, listener),
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return child, ours


async def _first(watch: asyncio.Future[set[tuple[Change, str]] | None], child: Process) -> bool:
    """Until the code changes or a signal ends the watch: True. Or until the child ends."""
    ended = asyncio.ensure_future(child.wait())
    try:
        either: set[asyncio.Future[Any]] = {watch, ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended.cancel()
    return watch.done()


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
