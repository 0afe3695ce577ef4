"""Projections beside real servers: exact against a GET of each counter, whatever is killed, stopped or
restarted.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from tests.acceptance.projected import (
    OBJECTS,
    ROUNDS,
    Load,
    Place,
    check,
    ended,
    entries,
    more_entries,
    rows,
    until,
)
from tests.process import serve


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
