"""What tests of projections share: an app with counters, its load, and the rows that a server shows."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from tests.process import COMMAND, Server, clean_environ, serve

SOAK = os.environ.get("PERDURE_SOAK") == "1"
ROUNDS = 40 if SOAK else 4
OBJECTS = 20
PATIENCE_S = 60.0

APP = """
import perdure


class Counter(perdure.DurableObject):
    async def increment(self, by: int = 1) -> int:
        count: int = await self.state.get("count", 0) + by
        await self.state.put("count", count)
        return count

    async def count(self) -> int:
        return await self.state.get("count", 0)


@perdure.projection(version=1)
def totals(turn: perdure.TurnEntry, table: perdure.Table[dict[str, int]]) -> None:
    row = table[turn.name]
    row["count"] = turn.get("count", row.get("count", 0))
    row["turns"] = row.get("turns", 0) + ("count" in turn.puts)
"""


class Place:
    """An app in a folder, on one of the logs; `beside` says if its servers fold."""

    def __init__(self, folder: Path, log: str, *, beside: bool) -> None:
        self.folder = folder
        self.log = log
        self.name = f"projected-{uuid4().hex[:8]}"
        folder.mkdir(exist_ok=True)
        (folder / "app.py").write_text(APP)
        (folder / "perdure.toml").write_text(
            f'name = "{self.name}"\npartitions = 4\n'
            f"[projections]\nuse = ['activity']\nbeside = {str(beside).lower()}\n"
        )

    def serve(self, *more: str) -> contextlib.AbstractContextManager[Server]:
        return serve(self.folder, self.folder / "data", "--log", self.log, "--log-level", "error", *more)

    def worker(self, data: str = "data", *more: str) -> subprocess.Popen[bytes]:
        command = [*COMMAND, "project", str(self.folder), "--data", str(self.folder / data)]
        command += ["--log", self.log, *more]
        return subprocess.Popen(command, env=clean_environ(), start_new_session=True)


class Load:
    """Increments of counters, one after the other, by a thread; what fails is not repeated."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sent = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with httpx.Client(timeout=5) as client:
            for number in itertools.count():
                if self._ending.is_set():
                    return
                with contextlib.suppress(httpx.HTTPError):
                    path = f"/rpc/Counter/n{number % OBJECTS}/increment"
                    client.post(f"{self.url}{path}", json={"args": []})
                    self.sent += 1

    def more(self, requests: int) -> None:
        """Wait until so many more were answered."""
        end = self.sent + requests
        until(lambda: self.sent >= end, "no load")

    def end(self) -> None:
        self._ending.set()
        self._thread.join()


def until(true: Callable[[], object], what: str) -> None:
    """Wait for a condition."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def shown(url: str) -> dict[str, dict[str, Any]]:
    listed = httpx.get(f"{url}/admin/projections", timeout=30).raise_for_status().json()
    return {each["name"]: each for each in listed["projections"] if each["declared"]}


def entries(url: str) -> int:
    with contextlib.suppress(httpx.HTTPError):
        return int(shown(url)["totals"]["entries"])
    return -1


def more_entries(url: str) -> None:
    """Wait until more is folded than at the call."""
    before = entries(url)
    until(lambda: entries(url) > before, "nothing is folded")


def rows(url: str, name: str) -> dict[str, Any]:
    page = httpx.get(f"{url}/admin/projections/{name}/rows?limit=1000", timeout=30).raise_for_status().json()
    assert not page["stale"], page["reason"]
    return {each["key"]: each["row"] for each in page["rows"]}


def counts(url: str) -> dict[str, int]:
    """What each counter says."""
    counted = {}
    for number in range(OBJECTS):
        answer = httpx.post(f"{url}/rpc/Counter/n{number}/count", json={"args": []}, timeout=30)
        counted[f"n{number}"] = int(answer.raise_for_status().json()["result"])
    return counted


def check(url: str) -> None:
    """Wait until nothing is behind; then the rows are what the objects say."""

    def caught_up() -> bool:
        return all(each["state"] == "live" and each["behind"] == 0 for each in shown(url).values())

    until(caught_up, f"the projections did not catch up: {shown(url)}")
    counted = counts(url)
    assert {name: row["count"] for name, row in rows(url, "totals").items()} == counted
    assert {name: row["turns"] for name, row in rows(url, "totals").items()} == counted
    assert rows(url, "activity")["Counter"]["turns"] == sum(counted.values())


@contextlib.contextmanager
def ended(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    try:
        yield
    finally:
        for each in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.pid, signal.SIGCONT)
            each.kill()
            each.wait()
