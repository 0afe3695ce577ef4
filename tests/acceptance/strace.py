"""strace as the hand that strikes: it kills, delays or fails a server at one system call on one file.

Laws
- A point is (system call, file below the data directory, how often). strace counts per thread, and only what
  its path filter lets through; so a point names one moment of a run, that of the first thread to come there.
- What RocksDB writes for people only (its LOG) and what goes to pipes is no point.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SYNCS = ("fdatasync", "fsync")
WRITES = ("write", "pwrite64", "rename", "ftruncate")
ALL = (*SYNCS, *WRITES, "writev", "sendto", "sendmsg", "openat")
_CALL = re.compile(r"(\w+)\((.*)")
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>(.*)")
_NOT_DURABLE = ("/LOG", "/rocksdict-config.json", "/LOCK", "/verify.tmp")


def or_skip() -> str:
    """strace's path. Without it the test skips and says so, or fails under PERDURE_REQUIRE_STRACE=1."""
    found = shutil.which("strace")
    if found is None:
        told = "strace is not installed (Debian, Ubuntu: apt-get install strace)"
        if os.environ.get("PERDURE_REQUIRE_STRACE") == "1":
            pytest.fail(told)
        pytest.skip(told)
    return found


class Point(NamedTuple):
    """The `nth` `call` on `file` (relative to the data directory, `.` for itself)."""

    call: str
    file: str
    nth: int

    def __str__(self) -> str:
        return f"{self.call} {self.nth} of {self.file}"


def tracing(trace: Path, calls: tuple[str, ...] = (*SYNCS, *WRITES)) -> list[str]:
    """Run a command under it and write its calls down."""
    return [
        or_skip(),
        "-f",
        "-yy",  # tells a client's socket from the pair by which a signal wakes the loop
        "-s",
        "0",
        "--seccomp-bpf",
        "-o",
        str(trace),
        "-e",
        f"trace={','.join(calls)}",
    ]


def striking(point: Point, data: Path, what: str, *, more: str = "") -> list[str]:
    """Run a command under it and do `what` (`signal=SIGKILL`, `error=EIO`, `delay_enter=…`) at the point.

    `more` continues strace's `when=`: `+` means from then on every time.
    """
    file = data if point.file == "." else data / point.file
    inject = f"inject={point.call}:{what}:when={point.nth}{more}"
    return [
        *(or_skip(), "-f", "-qq", "-o", os.devnull, "-P", str(file)),
        *("-e", f"trace={point.call}", "-e", inject),
    ]


class Call(NamedTuple):
    """A call in a trace: on `file` (or a client's socket: None); `to` is the new name of a rename.

    An openat that makes a file, or empties it, is a "create".

    `size_bytes` is what it returned, None at the moment it was entered.
    """

    name: str
    file: Path | None
    thread: int
    size_bytes: int | None = None
    to: Path | None = None


def read_trace(trace: Path) -> Iterator[Call]:
    """What was entered and what returned, in order. A call that failed or never returned is only entered."""
    under_way: dict[int, Call] = {}
    for line in trace.read_text(errors="replace").splitlines():
        thread, _, text = line.partition(" ")
        text = text.lstrip()
        if found := _RESUMED.match(text):
            call = under_way.pop(int(thread), None)
            text = found[1]
        else:
            call = _parsed(int(thread), text)
            if call is None:
                continue
            yield call
            if "<unfinished ...>" in text:
                under_way[int(thread)] = call
                continue
        returned = re.search(r"= (\d+)", text[text.rfind(")") :])
        if call is not None and returned is not None:
            yield call._replace(size_bytes=int(returned[1]))


def _parsed(thread: int, text: str) -> Call | None:
    found = _CALL.match(text)
    if found is None:
        return None
    name, rest = found[1], found[2]
    if name == "rename":
        old, new = re.findall(r'"([^"]*)"', rest)[:2]
        return Call(name, Path(old), thread, None, Path(new))
    if name == "openat":
        path = re.search(r'"(/[^"]*)"', rest)
        return Call("create", Path(path[1]), thread) if path and re.search("O_CREAT|O_TRUNC", rest) else None
    if found := re.match(r"\d+<(/[^>]*)>", rest):
        return Call(name, Path(found[1]), thread)
    return Call(name, None, thread) if re.match(r"\d+<TCP", rest) else None


def points(trace: Path, data: Path) -> list[Point]:
    """All points of a traced run, in the order of their first time."""
    counts: dict[tuple[str, str, int], int] = {}
    found: dict[Point, None] = {}  # a set that keeps the order
    for call in read_trace(trace):
        if call.size_bytes is not None or call.file is None or not call.file.is_relative_to(data):
            continue
        file = str(call.file.relative_to(data))
        if any(f"/{file}".endswith(each) for each in _NOT_DURABLE):
            continue
        mine = call.name, file, call.thread
        counts[mine] = counts.get(mine, 0) + 1
        found[Point(call.name, file, counts[mine])] = None
    return list(found)
