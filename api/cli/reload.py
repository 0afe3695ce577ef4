"""The supervisor of `perdure dev`: runs `perdure serve` as a child, and replaces it when files change.

The new child loads the app while the old one still serves; only then the old one finishes its requests and
ends, and the new one opens the data. `watchfiles` reports the changes; its `run_process` would stop the old
server first, so that an app with a syntax error would serve nothing. The two-phase hand-over is what these
300 lines are for.

Laws
- One child at a time has the data directory. If the app cannot be loaded, the error is printed and the
  previous code stays in service until it is corrected. If the new child needs something that is taken while
  it loads (a port, a lock), the old one ends first.
- The socket belongs to this process: a client that connects between two children waits for the next one.
  While no child will come before the code changes, this process answers with 503 (placeholder.py), so that no
  request hangs.
- A child that ends with an error in the app (exit code 2) is started again after the next change, not
  earlier. One that a signal ended is started again at once, as a server in production is; after `FALLS` in a
  row, after the next change. If the first child ends in another way (a port in use, a full disk), this
  process ends too; once a child has served, this process stays.
- Ctrl-C and SIGTERM end the child, then this process, with exit code 0.

[test_dev.py]
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path

from watchfiles import Change, DefaultFilter, awatch

from perdure.api.cli.output import EXIT_CONFIG, EXIT_TAKEN, print_error
from perdure.api.cli.placeholder import placeholder
from perdure.api.server import bind
from perdure.schemas.config import Config
from perdure.schemas.errors import ConfigError, PerdureError

FALLS = 5  # more than it takes until a command that kills its server is parked
STOP_S = 10.0  # for requests in flight; then the child is killed: what it acknowledged is durable
_SUFFIXES = (".py", ".toml", ".dev.vars")
_TESTS = ("test_", "conftest.")
_BACKLOG = 1024


class CodeFilter(DefaultFilter):
    """A filter for changes of code, configuration and secrets, without tests, data or tools' folders."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(ignore_paths=[data_dir])

    def __call__(self, change: Change, path: str) -> bool:
        of_code = path.endswith(_SUFFIXES) and not os.path.basename(path).startswith(_TESTS)
        return of_code and super().__call__(change, path)


class _Door:
    """The listening socket that the children take over; `read` returns the current configuration."""

    def __init__(self, read: Callable[[], Config]) -> None:
        self._read = read
        self._address: tuple[str, int] | None = None
        self._listener: socket.socket | None = None

    def open(self) -> socket.socket:
        """Listen at the configured address and return the socket. Raises what `bind` raises."""
        config: Config | None = None
        with contextlib.suppress(ConfigError):  # the child prints it
            config = self._read()
        if config is not None and (config.host, config.port) != self._address:
            listener = bind(config)
            self.close()
            self._listener, self._address = listener, (config.host, config.port)
            self._listener.listen(_BACKLOG)
        return self.listener

    @property
    def listener(self) -> socket.socket:
        """The socket that was opened last."""
        assert self._listener is not None
        return self._listener

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()


class _Child:
    """A server process. `ended` becomes its exit code, negative if a signal ended it."""

    def __init__(self, process: Process, line: socket.socket) -> None:
        self.ended: asyncio.Future[int] = asyncio.ensure_future(process.wait())
        self._process = process
        self._line = line  # our end of the lifeline: the child ends when it closes
        self._ready: asyncio.Future[bool] | None = None

    @classmethod
    async def start(cls, arguments: list[str], listener: int) -> _Child:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "perdure.api.cli", "serve", *arguments),
                *("--lifeline-fd", str(theirs.fileno()), "--listen-fd", str(listener)),
                pass_fds=(theirs.fileno(), listener),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, ours)

    def says(self) -> asyncio.Future[bool]:
        """True once the child reports its next step: first that it has loaded the app, then that it serves.

        A child that fails to get there ends, but a process that it left behind may hold the line open, so
        wait for `ended`, too.
        """
        return asyncio.ensure_future(self._received())

    async def _received(self) -> bool:
        with contextlib.suppress(ConnectionError):
            return bool(await asyncio.get_running_loop().sock_recv(self._line, 1))
        return False

    def go_on(self) -> None:
        """Let the child open the data and serve."""
        with contextlib.suppress(OSError):  # the child has ended
            self._line.send(b"\n")
        self._ready = self.says()

    @property
    def has_served(self) -> bool:
        return self._ready is not None and self._ready.done() and self._ready.result()

    async def end(self) -> int:
        """Stop the child if it still runs, and return its exit code."""
        if not self.ended.done():
            self._signal(signal.SIGTERM)
            await asyncio.wait((self.ended,), timeout=STOP_S)
            if not self.ended.done():
                self._signal(signal.SIGKILL)
        code = await self.ended
        if self._ready is not None and not self._ready.done():
            self._ready.cancel()
            self._ready = None
        self._line.close()
        return code

    def _signal(self, sig: signal.Signals) -> None:
        # not by `terminate`: it looks first whether the process has ended, and `wait` loses its exit code
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            os.kill(self._process.pid, sig)


class _Supervisor:
    """The loop that starts, watches and replaces children. Takes the arguments of `supervise`."""

    def __init__(
        self, arguments: list[str], folder: Path, data_dir: Path, read: Callable[[], Config]
    ) -> None:
        self._arguments = arguments
        self._folder = folder
        self._door = _Door(read)
        self._stop = asyncio.Event()
        # watchfiles reports its own readiness only by its first change: an app edited in the first
        # milliseconds of
        # `dev` is read by the child anyway, which starts after the watch does.
        self._changes = awatch(
            folder, watch_filter=CodeFilter(data_dir), stop_event=self._stop, raise_interrupt=False
        )
        self._watch = self._next_change()
        self._child: _Child | None = None  # the one that has the data
        self._has_served = False  # True if a child that has ended had served
        self._falls = 0  # children in a row that signals ended

    def _next_change(self) -> asyncio.Future[set[tuple[Change, str]] | None]:
        return asyncio.ensure_future(anext(self._changes, None))

    async def run(self) -> int:
        """Run until a signal, and return the exit code."""
        for sig in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(sig, self._stop.set)
        code: int | None = None
        try:
            while code is None:
                code = await self._start_child()
                if code is None:
                    code = await self._watch_child()
        finally:
            self._stop.set()
            try:
                await self._end()
            finally:
                self._door.close()
                with contextlib.suppress(StopAsyncIteration):
                    await self._watch
        return code

    async def _start_child(self) -> int | None:
        """Start a child in place of the one that serves, if it can load the app.

        The exit code if this process must end.
        """
        try:
            child = await _Child.start(self._arguments, self._door.open().fileno())
        except PerdureError as error:
            if not self._served:
                raise
            print_error(error)  # the newly configured address is taken
            return None
        loaded = await self._loaded(child)
        if not loaded:
            code = await child.end()
            if loaded is None:  # the code has changed again
                return None
            if self._child is None:
                return self._final(code)
            if code == EXIT_TAKEN:
                _say("what is taken may belong to the previous server: stopping it and trying once more")
                await self._end()
                return await self._start_child()
            _say("the previous code is served until this is corrected")
            return None
        if self._child is not None:
            _say("code changed: restarting once requests in flight have ended")
            await self._end()
        self._child = child
        child.go_on()
        return None

    async def _loaded(self, child: _Child) -> bool | None:
        """True if the child has loaded the app; None if the code changed first or a signal arrived."""
        says = child.says()
        try:
            while not child.ended.done() and not self._watch.done():
                serving = () if self._child is None else (self._child.ended,)
                awaited = (says, child.ended, self._watch, *serving)
                await asyncio.wait(
                    {each for each in awaited if not each.done()}, return_when=asyncio.FIRST_COMPLETED
                )
                if says.done() and says.result():
                    return True
                if self._child is not None and self._child.ended.done():
                    await self._end()  # it ended meanwhile: nothing serves now
        finally:
            says.cancel()
        return False if child.ended.done() else None

    async def _watch_child(self) -> int | None:
        """Wait until a child must be started; the exit code if this process must end."""
        if self._child is not None:
            await asyncio.wait((self._watch, self._child.ended), return_when=asyncio.FIRST_COMPLETED)
            if not self._child.ended.done():
                return self._take_change()
            code = await self._end()
            if code < 0 and self._falls < FALLS and not self._stop.is_set():
                self._falls += 1
                _say(f"{_named(-code)} has ended the server: starting it again")
                return None
            if (final := self._final(code)) is not None:
                return final
        if not self._watch.done() and not self._stop.is_set():
            _say(f"waiting for a change in {self._folder}")
            async with placeholder(self._door.listener, self._folder):
                await asyncio.wait((self._watch,))
            if not self._stop.is_set():
                _say("code changed: restarting")
        return self._take_change()

    async def _end(self) -> int:
        """End the child that has the data, if there is one; returns its exit code."""
        if self._child is None:
            return 0
        child, self._child = self._child, None
        code = await child.end()
        self._has_served = self._has_served or child.has_served
        return code

    @property
    def _served(self) -> bool:
        return self._has_served or (self._child is not None and self._child.has_served)

    def _final(self, code: int) -> int | None:
        return code if code > 0 and code not in (EXIT_CONFIG, EXIT_TAKEN) and not self._served else None

    def _take_change(self) -> int | None:
        self._falls = 0
        if self._stop.is_set() or self._watch.result() is None:
            return 0
        self._watch = self._next_change()
        return None


def _named(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _say(text: str) -> None:
    print(f"perdure: {text}", file=sys.stderr, flush=True)


async def supervise(arguments: list[str], folder: Path, data_dir: Path, read: Callable[[], Config]) -> int:
    """Run and replace servers until a signal; returns the exit code.

    arguments: those of `perdure serve`.
    folder: where changes of the app's files are watched.
    data_dir: the data directory, whose changes are ignored.
    read: returns the current configuration, or raises `ConfigError`.

    Raises what `bind` raises if the first address cannot be had.
    """
    return await _Supervisor(arguments, folder, data_dir, read).run()
