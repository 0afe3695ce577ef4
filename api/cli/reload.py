"""Runs `perdure serve` as a child, starts a new one when the app's files change, and stops the old one gently.

Laws
- One child at a time has the data directory: the new one loads the app, and says so; then the old one ends its requests
  and goes, and the new one goes on. What cannot be loaded is told, and the code of before is served until it is mended.
  If something is taken that it wants while it loads (a port, a lock), the old one has to go first.
- The socket is this process's: who connects between two children waits for the next one. While there is none to come
  before the code changes, this process answers everybody with 503 (standin.py), so that nobody hangs.
- A child that ends by itself for an error in the app (exit code 2) is started again after the next change, not before.
  One that is ended by a signal is started again at once, as a server in production is; after `FALLS` of them in a row,
  after the next change. What ends the first one in another way (a port in use, a full disk) ends this process too; once
  a child has served, this process stays.
- Ctrl-C and SIGTERM end the child, then this process, with exit code 0.
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

from perdure.api.cli.output import EXIT_CONFIG, EXIT_TAKEN, tell
from perdure.api.cli.standin import standing_in
from perdure.api.server import bind
from perdure.schemas.config import Config
from perdure.schemas.errors import ConfigError, PerdureError

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

    def open(self) -> socket.socket:
        """Listening at the configured address. Raises as `bind` does."""
        config: Config | None = None
        with contextlib.suppress(ConfigError):  # the child tells it
            config = self._read()
        if config is not None and (config.host, config.port) != self._address:
            listener = bind(config)
            self.close()
            self._listener, self._address = listener, (config.host, config.port)
            self._listener.listen(_BACKLOG)
        return self.listener

    @property
    def listener(self) -> socket.socket:
        """As it was opened last."""
        assert self._listener is not None
        return self._listener

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()


class _Child:
    """A server that was started. `ended`: its exit code, once it has ended; negative if a signal has ended it."""

    def __init__(self, process: Process, line: socket.socket) -> None:
        self.ended: asyncio.Future[int] = asyncio.ensure_future(process.wait())
        self._process = process
        self._line = line  # our end of what its life hangs on: when that closes, it goes
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
        """That it is so far: that it has loaded the app, then that it serves.

        If it does not get there it ends; whatever it has left behind may hold the line open.
        """
        return asyncio.ensure_future(self._heard())

    async def _heard(self) -> bool:
        with contextlib.suppress(ConnectionError):
            return bool(await asyncio.get_running_loop().sock_recv(self._line, 1))
        return False

    def go_on(self) -> None:
        """It may open the data, and serve."""
        with contextlib.suppress(OSError):  # it has ended
            self._line.send(b"\n")
        self._ready = self.says()

    @property
    def has_served(self) -> bool:
        return self._ready is not None and self._ready.done() and self._ready.result()

    async def end(self) -> int:
        """Stop it, if it goes on; its exit code."""
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
        # not by `terminate`: that looks first whether it has ended, and then its exit code is lost to `wait`
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            os.kill(self._process.pid, sig)


class _Supervisor:
    """Attends to the child that serves, and to the next one. Takes the arguments of `supervise`."""

    def __init__(
        self, arguments: list[str], folder: Path, data_dir: Path, read: Callable[[], Config]
    ) -> None:
        self._arguments = arguments
        self._folder = folder
        self._door = _Door(read)
        self._stop = asyncio.Event()
        # watchfiles reports its own readiness only by its first change: an app edited in the first milliseconds of
        # `dev` is read by the child anyway, which starts after the watch does.
        self._changes = awatch(
            folder, watch_filter=CodeFilter(data_dir), stop_event=self._stop, raise_interrupt=False
        )
        self._watch = self._next_change()
        self._child: _Child | None = None  # it has the data
        self._has_served = False  # a child that has ended
        self._falls = 0  # of children that signals ended, in a row

    def _next_change(self) -> asyncio.Future[set[tuple[Change, str]] | None]:
        return asyncio.ensure_future(anext(self._changes, None))

    async def run(self) -> int:
        """Until a signal; the exit code."""
        for sig in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(sig, self._stop.set)
        code: int | None = None
        try:
            while code is None:
                code = await self._bring_up()
                if code is None:
                    code = await self._attend()
        finally:
            self._stop.set()
            try:
                await self._end()
            finally:
                self._door.close()
                with contextlib.suppress(StopAsyncIteration):
                    await self._watch
        return code

    async def _bring_up(self) -> int | None:
        """Start a child in place of the one that serves, if it can load the app; the code to end with, if any."""
        try:
            child = await _Child.start(self._arguments, self._door.open().fileno())
        except PerdureError as error:
            if not self._served:
                raise
            tell(error)  # the address that it is to have now is another's
            return None
        loaded = await self._loaded(child)
        if not loaded:
            code = await child.end()
            if loaded is None:  # the code has changed once more
                return None
            if self._child is None:
                return self._final(code)
            if code == EXIT_TAKEN:
                _say("what it wants may be the server's of before: that one ends, and it is tried once more")
                await self._end()
                return await self._bring_up()
            _say("the code of before is served until this is mended")
            return None
        if self._child is not None:
            _say("code changed: restarting once requests in flight have ended")
            await self._end()
        self._child = child
        child.go_on()
        return None

    async def _loaded(self, child: _Child) -> bool | None:
        """Has it loaded the app? None: the code has changed before that, or a signal has come."""
        says = child.says()
        try:
            while not child.ended.done() and not self._watch.done():
                serving = () if self._child is None else (self._child.ended,)
                waited_for = (says, child.ended, self._watch, *serving)
                await asyncio.wait(
                    {each for each in waited_for if not each.done()}, return_when=asyncio.FIRST_COMPLETED
                )
                if says.done() and says.result():
                    return True
                if self._child is not None and self._child.ended.done():
                    await self._end()  # it has died meanwhile: nothing serves now
        finally:
            says.cancel()
        return False if child.ended.done() else None

    async def _attend(self) -> int | None:
        """Until a child is to be started; the code to end with, if any."""
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
            async with standing_in(self._door.listener, self._folder):
                await asyncio.wait((self._watch,))
            if not self._stop.is_set():
                _say("code changed: restarting")
        return self._take_change()

    async def _end(self) -> int:
        """End the child that has the data, if there is one."""
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
    except ValueError:  # one of those that have no name
        return f"signal {number}"


def _say(text: str) -> None:
    print(f"perdure: {text}", file=sys.stderr, flush=True)


async def supervise(arguments: list[str], folder: Path, data_dir: Path, read: Callable[[], Config]) -> int:
    """Serve with these arguments of `perdure serve` until a signal; returns the exit code. Raises as `bind` does."""
    return await _Supervisor(arguments, folder, data_dir, read).run()
