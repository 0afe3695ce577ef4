"""Projections beside real servers: exact against a GET of each counter, whatever is killed, stopped or
restarted.
"""

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
from random import Random
from typing import Any
from uuid import uuid4

import httpx
import pytest
from tests.process import COMMAND, Server, clean_environ, serve

SOAK = os.environ.get("PERDURE_SOAK") == "1"
ROUNDS = 20 if SOAK else 4
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
        folder.mkdir(exist_ok=True)
        (folder / "app.py").write_text(APP)
        (folder / "perdure.toml").write_text(
            f'name = "projected-{uuid4().hex[:8]}"\npartitions = 4\n'
            f"[projections]\nuse = ['activity']\nbeside = {str(beside).lower()}\n"
        )

    def serve(self, data: str = "data") -> contextlib.AbstractContextManager[Server]:
        return serve(self.folder, self.folder / data, "--log", self.log, "--log-level", "error")

    def worker(self, data: str = "data") -> subprocess.Popen[bytes]:
        command = [
            *COMMAND,
            "project",
            str(self.folder),
            "--data",
            str(self.folder / data),
            "--log",
            self.log,
        ]
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


def check(url: str) -> None:
    """Wait until nothing is behind; then the rows are what the objects say."""

    def caught_up() -> bool:
        return all(each["state"] == "live" and each["behind"] == 0 for each in shown(url).values())

    until(caught_up, f"the projections did not catch up: {shown(url)}")
    counted = {}
    for number in range(OBJECTS):
        answer = httpx.post(f"{url}/rpc/Counter/n{number}/count", json={"args": []}, timeout=30)
        counted[f"n{number}"] = answer.raise_for_status().json()["result"]
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


@pytest.mark.kafka
def test_totals_are_exact_whatever_is_killed_or_stopped(log: str, tmp_path: Path) -> None:
    """Two processes that share the partitions are killed at random, one is stopped and comes back, and the
    server is killed and started again: the rows are what the objects say.
    """
    random, place = Random(7), Place(tmp_path / "app", log, beside=False)
    with contextlib.ExitStack() as servers:
        server = servers.enter_context(place.serve())
        load = Load(server.url)
        load.more(20)
        workers = [place.worker(), place.worker()]
        with ended(workers):
            actions = ["kill", "server", "stop", "kill"]
            for each in range(ROUNDS):
                load.more(20)
                more_entries(server.url)
                victim = random.randrange(2)
                action = actions[each % len(actions)]
                if action == "kill":
                    workers[victim].kill()
                    workers[victim].wait()
                    workers[victim] = place.worker()
                elif action == "stop":
                    os.kill(workers[victim].pid, signal.SIGSTOP)
                    load.more(50)
                    os.kill(workers[victim].pid, signal.SIGCONT)
                else:
                    server.kill()
                    server = servers.enter_context(place.serve())
                    load.url = server.url
            load.end()
            check(server.url)


def test_the_server_folds_beside_itself_and_says_when_rows_are_stale(tmp_path: Path) -> None:
    """Its process ends with it, also after SIGKILL; one that dies is replaced; rows are stale meanwhile."""
    place = Place(tmp_path / "app", "embedded", beside=True)
    with place.serve() as server:
        load = Load(server.url)
        until(lambda: entries(server.url) > 20, "nothing is folded")
        load.end()
        check(server.url)
        folder = tmp_path / "app" / "data" / "projections" / "log"
        pid = int((folder / "locks" / "0").read_text())
        os.kill(pid, signal.SIGKILL)
        page: dict[str, Any] = {}

        def stale() -> bool:
            page.update(httpx.get(f"{server.url}/admin/projections/totals/rows").json())
            return bool(page["stale"])

        until(stale, "the rows are not said to be stale")
        assert page["reason"] == "no process"
        assert len(page["rows"]) == OBJECTS
        check(server.url)
        pid = int((folder / "locks" / "0").read_text())
        server.kill()
        until(lambda: not _lives(pid), "the process outlives its server")


def _lives(pid: int) -> bool:
    try:
        return b"project" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.kafka
def test_two_nodes_that_take_partitions_from_each_other_leave_the_totals_exact(
    kafka: Any, tmp_path: Path
) -> None:
    """Each folds all partitions beside itself; one is killed and comes back: both have the same rows."""
    place = Place(tmp_path / "app", f"kafka://{kafka.bootstrap}", beside=True)
    secret = {"PERDURE_SEAL_SECRET": "k" * 32}
    one, two = place.folder / "one", place.folder / "two"
    options = ("--log", place.log, "--log-level", "error")
    with serve(place.folder, one, *options, environ=secret) as first:
        load = Load(first.url)
        for _ in range(ROUNDS // 2):
            with serve(place.folder, two, *options, environ=secret) as second:
                load.more(50)
                second.kill()
        with serve(place.folder, two, *options, environ=secret) as second:
            load.more(50)
            load.end()
            until(lambda: entries(second.url) == entries(first.url), "they do not fold the same")
            check(first.url)
            assert rows(second.url, "totals") == rows(first.url, "totals")
