"""Processes under measurement.

Laws
- A group ends what it started, by process group, in reverse order, and nothing else.
- A server that dies or never gets ready is reported with the end of its log.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.errors import BenchError

Command = Sequence[str | Path]

READY_TIMEOUT_S = 120.0
POLL_S = 0.005
# of the time waited so far, at least: polled 200 times a second, a rebuilding node would spend 3 % on answers
POLL_SHARE = 0.01
STOP_TIMEOUT_S = 15.0
SYNC_CALL = re.compile(r"\b(?:fdatasync|fsync)\(")


def free_port() -> int:
    """A free TCP port on 127.0.0.1, below the range that outgoing connections use."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise BenchError("no free port on 127.0.0.1 between 20000 and 32000")


def count_sync_calls(trace: str) -> int:
    """How many fsync and fdatasync calls an strace output shows; a resumed one is counted where it began."""
    return sum(1 for line in trace.splitlines() if SYNC_CALL.search(line))


class Group:
    """The processes of one server, with their logs in `directory`; `traced` runs each under strace."""

    def __init__(self, directory: Path, *, traced: bool = False) -> None:
        self.directory = directory
        self.traced = traced
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        directory.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in reversed(list(self.processes)):
            self.end(name, signal.SIGTERM)

    def spawn(self, name: str, command: Command, *, cwd: Path, env: Mapping[str, str] | None = None) -> int:
        """Starts a process in a session of its own, standard output and error to `{name}.log`.

        Gives its pid.
        """
        assert name not in self.processes, name
        words = [str(word) for word in command]
        if self.traced:
            calls = ["-f", "--seccomp-bpf", "-qq", "-e", "signal=none", "-e", "trace=fsync,fdatasync"]
            words = ["strace", *calls, "-o", str(self.directory / f"{name}.strace"), *words]
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                words,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.processes[name].pid

    def log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def pids(self) -> list[int]:
        return [process.pid for process in self.processes.values()]

    def sync_calls(self) -> int:
        """fsync and fdatasync calls so far, of a traced group."""
        return sum(count_sync_calls(path.read_text()) for path in self.directory.glob("*.strace"))

    def end(self, name: str, how: signal.Signals) -> None:
        """Signals the process's group and waits; kills the group if it does not end in time."""
        process = self.processes.pop(name)
        for which in (how, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):  # the whole group has ended already
                os.killpg(process.pid, which)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                continue
            return
        raise BenchError(f"process {process.pid} ({name}) does not end; log: {self.log(name)}")

    def check(self) -> None:
        """Raises BenchError with the end of the log if a process has ended."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise BenchError(f"{name} ended with {process.returncode}:\n{self.log_end(name)}")

    def log_end(self, name: str) -> str:
        return self.log(name).read_text(errors="replace")[-2_000:]

    def log_ends(self) -> str:
        """The end of every log."""
        return "\n".join(f"--- {name}\n{self.log_end(name)}" for name in self.processes)

    def wait_for(self, name: str, pattern: str) -> str:
        """Waits for a line of the log that matches; gives the match's first group."""
        ends = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < ends:
            match = re.search(pattern, self.log(name).read_text(errors="replace"), re.MULTILINE)
            if match:
                return match[1]
            self.check()
            time.sleep(POLL_S)
        raise BenchError(f"{name} never wrote {pattern!r}:\n{self.log_end(name)}")

    def wait_ready(
        self, port: int, path: str, method: str = "GET", timeout_s: float = READY_TIMEOUT_S
    ) -> float:
        """Polls until the answer is 200; gives the seconds it took. Raises BenchError after `timeout_s`."""
        began = time.monotonic()
        status = 0
        while time.monotonic() < began + timeout_s:
            status = status_of(port, path, method)
            if status == 200:
                return time.monotonic() - began
            self.check()
            time.sleep(max(POLL_S, POLL_SHARE * (time.monotonic() - began)))
        late = f"{method} {path} on port {port} is not 200 after {timeout_s} s (last: {status})"
        raise BenchError(f"{late}; logs:\n{self.log_ends()}")


def status_of(port: int, path: str, method: str) -> int:
    """The status of one request; 0 if no server answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def fresh(directory: Path) -> Path:
    """An empty directory at that place."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory
