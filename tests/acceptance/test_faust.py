"""A projection as Faust workers: exact against a GET of each counter, whatever is killed or stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from tests.acceptance.projected import ROUNDS, Load, Place, counts, ended, until

pytest.importorskip("faust", reason="the extra `projections` is not installed")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


class Worker:
    """A Faust worker of `totals`, with a data directory and a port of its own."""

    def __init__(self, place: Place, number: int) -> None:
        self._place = place
        self._data = f"faust-{number}"
        (place.folder / self._data).mkdir()
        self.port = free_port()
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return self._place.worker(self._data, "--faust", "totals", "--faust-port", str(self.port))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def again(self) -> None:
        self.kill()
        self.process = self._start()

    def rows(self) -> dict[str, Any]:
        """Its rows; none while it starts or recovers."""
        with contextlib.suppress(httpx.HTTPError, ValueError):
            shown = httpx.get(f"http://127.0.0.1:{self.port}/rows", timeout=10).json()
            if not shown["stale"]:
                rows: dict[str, Any] = shown["rows"]
                return rows
        return {}


@pytest.mark.kafka
def test_a_faust_worker_is_exact_whatever_is_killed_or_stopped(kafka: Any, tmp_path: Path) -> None:
    """Two workers share the partitions; each is killed, and one is stopped past its session and wakes up."""
    random = Random(3)
    place = Place(tmp_path / "app", f"kafka://{kafka.bootstrap}", beside=False)
    with contextlib.ExitStack() as servers:
        server = servers.enter_context(place.serve())
        load = Load(server.url)
        load.more(20)
        workers = [Worker(place, 0), Worker(place, 1)]

        def newest() -> dict[str, Any]:
            both: dict[str, Any] = {}
            for worker in workers:
                for name, row in worker.rows().items():
                    if row["turns"] >= both.get(name, {"turns": 0})["turns"]:
                        both[name] = row
            return both

        processes = [worker.process for worker in workers]
        with ended(processes):
            until(newest, "no worker folds")
            for each in range(ROUNDS // 2):
                worker = random.choice(workers)
                if each % 4 == 1:
                    os.kill(worker.process.pid, signal.SIGSTOP)
                    load.more(400)
                    os.kill(worker.process.pid, signal.SIGCONT)
                else:
                    worker.again()
                    processes.append(worker.process)
                before = sum(row["turns"] for row in newest().values())
                until(lambda most=before: sum(row["turns"] for row in newest().values()) > most, "no row")
            server.kill()
            server = servers.enter_context(place.serve())
            load.url = server.url
            load.more(50)
            load.end()
            counted = counts(server.url)

            def same() -> bool:
                return {name: row["count"] for name, row in newest().items()} == counted

            until(same, "the rows are not what the counters say")
            assert {name: row["turns"] for name, row in newest().items()} == counted
            for worker in workers:
                os.kill(worker.process.pid, signal.SIGTERM)
