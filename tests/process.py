"""`perdure serve` as a process of its own, for tests that speak to it from outside, signal it or kill it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from tests import warm

COMMAND = (sys.executable, "-m", "perdure.api.cli")
STOP_S = 40  # a server has 30 s to drain


def clean_environ(**more: str) -> dict[str, str]:
    """This process's environment without settings that would leak into a server."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    return mine | more


class DidNotStart(AssertionError):
    """The server ended, or was ended, before it was ready: `returncode` and `stderr` say how."""

    def __init__(self, returncode: int, stderr: str) -> None:
        super().__init__(f"the server did not start, it ended with {returncode}: {stderr}")
        self.returncode = returncode
        self.stderr = stderr


class Server:
    """A running server. `url` is its address, `pid` its process, `namespaces` what it serves, `kafka` its
    address for Kafka clients.
    """

    def __init__(self, process: subprocess.Popen[str] | warm.Forked, errors: IO[str]) -> None:
        self.process = process
        self._errors = errors
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise DidNotStart(process.wait(STOP_S), self.stderr())
        facts = json.loads(line)
        self.url: str = facts["url"]
        self.pid: int = facts["pid"]
        self.namespaces: list[str] = facts["namespaces"]
        self.kafka: str = facts.get("kafka", "")

    def stderr(self) -> str:
        """What the server has said on stderr so far."""
        self._errors.flush()
        return Path(self._errors.name).read_text()

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # what runs the server may outlive it for a moment
                os.kill(self.pid, sig)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end; returns the exit code."""
        return self.process.wait(STOP_S)

    def kill(self) -> None:
        """SIGKILL: what was acknowledged must be there at the next start."""
        self.stop(signal.SIGKILL)


@contextlib.contextmanager
def serve(
    app: Path,
    data: Path,
    *options: str,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    prefix: Sequence[str] = (),
    imports: bool = False,
) -> Iterator[Server]:
    """Serve `app` with its data in `data` on a free port until the block ends (then
    SIGKILL, if it still runs).

    `prefix` is a command that runs the server as its child. `imports`: the process imports perdure itself
    (else it is forked, see warm.py). Raises `DidNotStart`.
    """
    arguments = ["serve", str(app), "--data", str(data), "--port", "0", "--json", *options]
    its = clean_environ(**environ or {})
    with tempfile.NamedTemporaryFile("w", prefix="perdure-stderr-") as errors:
        process = (
            _executed([*prefix, *COMMAND, *arguments], errors, its, cwd)
            if prefix or imports or not warm.can_start(its)
            else _forked(arguments, errors, its, cwd)
        )
        try:
            yield Server(process, errors)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _executed(
    command: Sequence[str], errors: IO[str], environ: Mapping[str, str], cwd: Path | None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=environ,
        cwd=cwd,
        start_new_session=True,  # a group of its own: whatever runs the server ends together with it
    )


def _forked(
    arguments: Sequence[str], errors: IO[str], environ: Mapping[str, str], cwd: Path | None
) -> warm.Forked:
    reading, writing = os.pipe()
    try:
        pid = warm.start(
            arguments, stdout=writing, stderr=errors.fileno(), environ=environ, cwd=cwd, new_session=True
        )
    finally:
        os.close(writing)
    return warm.Forked(arguments, pid, open(reading))


def run(
    *arguments: str, environ: Mapping[str, str] | None = None, cwd: Path | None = None, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run `perdure ARGUMENTS` to its end; returns the completed process with its texts."""
    its = clean_environ(**environ or {})
    if not warm.can_start(its):
        return subprocess.run(
            [*COMMAND, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=its,
            cwd=cwd,
            timeout=timeout_s,
        )
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        pid = warm.start(
            arguments,
            stdout=out.fileno(),
            stderr=errors.fileno(),
            environ=its,
            cwd=cwd,
            new_session=False,
        )
        process = warm.Forked(arguments, pid, None)
        try:
            code = process.wait(timeout_s)
        finally:
            process.kill()
        texts = []
        for file in (out, errors):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess([*COMMAND, *arguments], code, *texts)


def until(condition: Callable[[], bool], patience_s: float = 30) -> None:
    """Check a condition over HTTP again and again, until it holds."""
    deadline_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline_s, f"the condition does not hold after {patience_s:g} s"
