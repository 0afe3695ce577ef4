"""Starts `perdure` by fork from a process that has imported it.

An executed `perdure serve` takes 0.43 s of CPU, and 0.40 of it are imports; a fork takes 0.07. Tests start
some hundred.

Laws
- A fork is a process like any other: pid, session, environment, working directory, arguments and files are
  its own, and it is a child of the test process. Only its imports are done already, and it ends without
  taking its modules apart, as both would copy most pages of its parent.
- The first start in a test process starts the parent of all forks. It ends with the test process.
- With `FORKED_WORKERS` in its environment a fork has its workers for snapshots forked, too: it executes
  warm_worker.py, which hands its files over, ends as the fork ends, and whose end ends the fork.
- `can_start` is False where a fork would differ: not on Linux, or with another value of a variable that
  Python or a library reads at its start. Such a process is executed as usual.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

PROGRAM = "perdure.api.cli"
# what a server imports, of which some only once it starts
PRELOADED = (
    "perdure.api.cli",
    "perdure.api.cli.serving",
    "perdure.api.client.app",
    "perdure.api.loading",
    "perdure.api.node",
    "perdure.api.server",
    "perdure.api.telemetry.logs",
    "perdure.api.telemetry.tracing",
    "perdure.streams.snapshots.worker",
    "anyio._backends._asyncio",
    "encodings.idna",
    "h11",
    "httpcore",
    "typer._adapters",
    "uvicorn.lifespan.off",
    "uvicorn.protocols.websockets.websockets_sansio_impl",
)
FORKED_WORKERS = "FORKED_WORKERS"
REQUEST_BYTES = 1 << 20
_NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"
_SET_SUBREAPER = 36  # prctl(2)
_READ_AT_THE_START = (
    "PYTHON",
    "LD_",
    "LC_",
    "LANG",
    "SSL_",
    "OTEL_",
    "_TYPER",
    "FORCE_COLOR",
    "NO_COLOR",
    "TERM",
    "COLUMNS",
    "TZ",
)


class Forked:
    """A started process; the part of `subprocess.Popen` that tests use."""

    def __init__(self, arguments: Sequence[str], pid: int, stdout: IO[str] | None) -> None:
        self.args = arguments
        self.pid = pid
        self.stdin: IO[str] | None = None
        self.stdout = stdout
        self.returncode: int | None = None
        self._end = os.pidfd_open(pid)
        self._waiting = threading.Lock()

    def poll(self) -> int | None:
        with self._waiting:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
                    os.close(self._end)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.poll() is None and not select.select([self._end], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read the rest of its output, and wait for its end."""
        out = ""
        if self.stdout is not None and not self.stdout.closed:
            with self.stdout:
                out = self.stdout.read()
        self.wait(timeout)
        return out, ""

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def can_start(environ: Mapping[str, str]) -> bool:
    """True if a fork behaves as a process that is started with `environ`."""
    if not sys.platform.startswith("linux"):
        return False
    names = {name for name in environ.keys() | os.environ.keys() if name.startswith(_READ_AT_THE_START)}
    names.discard(_NO_BYTECODE)
    return all(environ.get(name) == os.environ.get(name) for name in names)


def start(
    arguments: Sequence[str],
    *,
    stdout: int,
    stderr: int,
    environ: Mapping[str, str],
    cwd: Path | None,
    new_session: bool,
) -> int:
    """Start `perdure ARGUMENTS` with these files as its stdout and stderr; its pid."""
    order = {
        "module": PROGRAM,
        "arguments": list(arguments),
        "environ": dict(environ),
        "cwd": str(cwd or Path.cwd()),
        "new_session": new_session,
    }
    with _one_at_a_time, open(os.devnull) as stdin:
        _adopt(
            orphans=True
        )  # a fork's parent ends at once: this process becomes its parent, and may wait for it
        try:
            channel = _parent_of_forks()
            socket.send_fds(channel, [json.dumps(order).encode()], [stdin.fileno(), stdout, stderr])
            answer = channel.recv(64)
        finally:
            _adopt(orphans=False)
    if not answer:
        raise RuntimeError("the process that forks `perdure` has ended")
    return int(answer)


_one_at_a_time = threading.Lock()


@functools.cache
def _parent_of_forks() -> socket.socket:
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        subprocess.Popen([sys.executable, __file__, str(its.fileno())], pass_fds=[its.fileno()])
    return mine


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _adopt(*, orphans: bool) -> None:
    if _libc().prctl(_SET_SUBREAPER, int(orphans), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


# In the parent of all forks


def prepare() -> None:
    """Import and make, once, what each server or command needs; what there is then is no garbage."""
    from perdure.api.cli.output import without_rich

    with without_rich():  # as the commands do
        load_certificates_once()
    for name in PRELOADED:
        importlib.import_module(name)
    import httpx
    import typer.main

    from perdure.api.cli import app

    typer.main.get_command = functools.cache(typer.main.get_command)  # 20 ms of each start
    typer.main.get_command(app)
    httpx.create_ssl_context()
    gc.collect()
    gc.freeze()  # a search through it would copy all its pages in each fork


def load_certificates_once() -> None:
    """Each client of httpx would load the certificates of the machine (30 ms); all speak without TLS."""
    import httpx

    httpx.create_ssl_context = functools.cache(httpx.create_ssl_context)
    httpx._transports.default.create_ssl_context = httpx.create_ssl_context  # type: ignore[attr-defined]  # private


def _serve_forks(channel: socket.socket) -> str:
    """Fork for each order.

    Returns, in each fork, the module that it runs; raises SystemExit here once the test process has ended.
    """
    workers = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    workers.bind(address := f"\0perdure-forks-{os.getpid()}")
    workers.listen()
    while True:
        ready, _, _ = select.select([channel, workers], [], [])
        asks = channel if channel in ready else workers.accept()[0]
        order, files, _, _ = socket.recv_fds(asks, REQUEST_BYTES, 3)
        if asks is channel and not order:
            raise SystemExit
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            pid = os.fork()
            if pid == 0:
                for each in (channel, workers, asks):
                    each.close()
                os.close(reading)
                os.close(writing)
                facts = json.loads(order)
                _become(facts, files, address)
                return str(facts["module"])
            os.write(writing, str(pid).encode())
            if asks is not channel:
                _attend(pid, asks)
            os._exit(0)
        if asks is channel:
            os.waitpid(between, 0)
            channel.send(os.read(reading, 64))
        else:
            asks.close()
        for file in (reading, writing, *files):
            os.close(file)
        with contextlib.suppress(ChildProcessError):  # those between a worker and its executed stand-in
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _attend(pid: int, asks: socket.socket) -> None:
    """Tell the stand-in of a worker how it ended; end the worker if the stand-in has ended."""
    for number in range(3):
        os.close(number)  # pipes that may be the worker's own, which have to end with it
    if asks in select.select([os.pidfd_open(pid), asks], [], [])[0]:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(OSError):
        asks.send(str(code).encode())


def _become(order: dict[str, object], files: Sequence[int], address: str) -> None:
    """Take over what an executed process gets from the one that starts it."""
    if order["new_session"]:
        os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    cwd, arguments, environ = order["cwd"], order["arguments"], order["environ"]
    assert isinstance(cwd, str)
    assert isinstance(arguments, list)
    assert isinstance(environ, dict)
    os.chdir(cwd)
    sys.path[0] = cwd  # as with `python -m`
    sys.argv = [sys.argv[0], *arguments]
    os.environ.clear()
    os.environ.update(environ)
    sys.dont_write_bytecode = bool(environ.get(_NO_BYTECODE))
    from perdure.streams import failpoints
    from perdure.streams.snapshots import process, worker

    if failpoints.ENVIRONMENT in environ:  # else read at its import
        failpoints.arm(environ[failpoints.ENVIRONMENT])
    if FORKED_WORKERS in environ:
        stand_in = str(Path(__file__).with_name("warm_worker.py"))
        process.PROGRAM = (sys.executable, "-IS", stand_in, address[1:], worker.__name__)


def _run(module: str) -> None:
    """Run the command, and end as Python does, except that no module is taken apart."""
    code: object = None
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
        if not isinstance(code, int | None):
            raise
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the interpreter does
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError):  # closed
            stream.flush()
    os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    prepare()
    _run(_serve_forks(socket.socket(fileno=int(sys.argv[1]))))
