"""The measurements beside load: memory, the restart after a kill, the rebuild, a broadcast.

Laws
- perdure is killed by SIGKILL in the middle of writes, and only perdure: the broker stays.
- After each restart a sample of objects is read: each must hold at least one acknowledged write.
- The store is deleted while nothing runs, so that all state that returns is from the log alone.
"""

from __future__ import annotations

import json
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from bench import load, machine
from bench.app.app import PARTITIONS
from bench.errors import BenchError
from bench.measure import row
from bench.runs import Row
from bench.servers import Group, free_port, fresh
from bench.sides import PEERS, REPO, SOCKET_CLIENT, Perdure, Side, environment

CLIENTS = 64
SAMPLE = 1_000
KILLS = 3
REBUILDS = 3
BACK_TIMEOUT_S = 900.0
STAY = {"PERDURE_LIMITS__IDLE_S": "3600"}  # what is measured stays in memory, however long that takes
STORE = "state"  # perdure's folder of RocksDB tables within its data directory


def memory(side: Perdure, objects: int, work: Path) -> Row:
    """Resident memory empty, and per object after writing each, and after reading each once restarted."""
    side = side.at("/objects/Counter/o", env=STAY)
    data = fresh(work / "data")
    with Group(fresh(work / "logs")) as group:
        port = side.start(group, data)
        pid = group.processes["perdure"].pid
        empty = machine.settled_rss_bytes(pid)
        load.touch_in_order(port, side.write, objects=objects, clients=CLIENTS)
        written = machine.settled_rss_bytes(pid)
        port = _again(side, group, data, signal.SIGTERM)[0]
        pid = group.processes["perdure"].pid
        base = machine.settled_rss_bytes(pid)
        load.touch_in_order(port, side.read, objects=objects, clients=CLIENTS)
        resident = machine.settled_rss_bytes(pid)
        _check_resident(port, objects)
    shutil.rmtree(data)
    return row("memory", side.name, "memory", 0) | {
        "objects": objects,
        "empty_mib": empty / 2**20,
        "written_object_bytes": (written - empty) / objects,
        "restarted_mib": base / 2**20,
        "object_bytes": (resident - base) / objects,
    }


def _check_resident(port: int, objects: int) -> None:
    """Raises BenchError if objects left memory before it was measured."""
    there = metric(port, "perdure_resident_objects")
    if there < objects:
        raise BenchError(f"{there:,.0f} of {objects:,} objects are in memory: set limits.memory_bytes higher")


def metric(port: int, name: str) -> float:
    """A metric of perdure's, summed over the partitions."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return summed(answer.read().decode(), name)


def summed(exposition: str, name: str) -> float:
    """A metric in Prometheus' text format, summed over its labels."""
    lines = exposition.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{"))


def comebacks(side: Perdure, objects: int, work: Path) -> tuple[Row, Row]:
    """Medians: seconds to ready after SIGKILL under load, and entries/s of rebuilds without the store."""
    data = fresh(work / "data")
    with Group(fresh(work / "logs")) as group:
        port = side.start(group, data)
        acknowledged = load.touch_in_order(port, side.write, objects=objects, clients=CLIENTS)
        kills = []
        for _ in range(KILLS):
            port, seconds, more = _kill_under_load(side, group, data, port, objects)
            acknowledged += more
            kills.append(seconds)
        log_bytes = machine.disk_bytes(data)
        rebuilds, loops = [], []
        for _ in range(REBUILDS):
            group.end("perdure", signal.SIGTERM)
            loops.append(_limit_rebuild(side, data, acknowledged, work))
            port, seconds = _begin(side, group, data, without_store=True)
            _check_sample(side, port, objects)
            rebuilds.append(seconds)
        group.end("perdure", signal.SIGTERM)
        snapshots = _from_snapshot(side, group, data, objects, fresh(work / "snapshots"))
    shutil.rmtree(data)
    sizes = {"objects": objects, "entries": acknowledged}
    restart = row("restart", side.name, "restart", 0) | sizes
    rebuild = row("rebuild", side.name, "rebuild", 0) | sizes
    rebuild_s, loop_s = statistics.median(rebuilds), statistics.median(loops)
    if loop_s:  # nothing on Kafka
        rebuild |= {"limit_rebuild_per_s": acknowledged / loop_s, "rebuild_ratio": loop_s / rebuild_s}
    return (
        restart
        | {"restart_s": statistics.median(kills), "kills_s": kills, "disk_bytes": log_bytes}
        | snapshots,
        rebuild | {"rebuild_s": rebuild_s, "rebuilds_s": rebuilds, "rebuild_per_s": acknowledged / rebuild_s},
    )


def _from_snapshot(side: Perdure, group: Group, data: Path, objects: int, place: Path) -> Row:
    """Seconds to take snapshots of all partitions, and from a start without a store until ready."""
    env = {"PERDURE_SNAPSHOTS__TO": f"file://{place}", "PERDURE_SNAPSHOTS__EVERY": "24h"}
    side = side.at("/objects/Counter/o", env=env)
    port = _begin(side, group, data)[0]
    started_s = time.perf_counter()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/admin/snapshots/take", method="POST")
    with urllib.request.urlopen(request, timeout=BACK_TIMEOUT_S) as answer:
        taken = json.loads(answer.read())["snapshots"]
    take_s = time.perf_counter() - started_s
    group.end("perdure", signal.SIGKILL)
    starts = []
    for _ in range(KILLS):
        port, seconds = _begin(side, group, data, without_store=True)
        _check_sample(side, port, objects)
        starts.append(seconds)
        group.end("perdure", signal.SIGKILL)
    shutil.rmtree(place)
    return {
        "snapshot_take_s": take_s,
        "snapshot_bytes": sum(each["bytes"] for each in taken),
        "snapshot_start_s": statistics.median(starts),
    }


def _limit_rebuild(side: Perdure, data: Path, acknowledged: int, work: Path) -> float:
    """Seconds that the smallest program takes that rebuilds from the same log, its start included.

    0 on Kafka.

    Raises BenchError if the program fails.
    """
    log = side.state(data) / "log"
    if not log.is_dir():
        return 0.0
    command = [sys.executable, "-m", "bench.peers.limit.rebuild", log, str(PARTITIONS), fresh(work / "limit")]
    started_s = time.perf_counter()
    ended = subprocess.run(
        command, check=False, cwd=REPO, capture_output=True, text=True, timeout=BACK_TIMEOUT_S
    )
    seconds = time.perf_counter() - started_s
    if ended.returncode:
        raise BenchError(f"the limit loop's rebuild failed: {ended.stderr[-800:]}")
    shutil.rmtree(work / "limit")
    if (records := int(ended.stdout)) < acknowledged:
        raise BenchError(f"the limit loop found {records} records of at least {acknowledged}")
    return seconds


def _kill_under_load(
    side: Perdure, group: Group, data: Path, port: int, objects: int, after_s: float = 3.0
) -> tuple[int, float, int]:
    """Kills perdure while wrk writes.

    Gives the new port, the seconds to ready, and the writes acknowledged.
    """
    answered: list[int] = []

    def write() -> None:
        seen = load.run(port, side.write, clients=CLIENTS, objects=objects, seconds=after_s + 1)
        answered.append(seen.answered)

    writing = threading.Thread(target=write)
    writing.start()
    writing.join(after_s)
    if not writing.is_alive():
        raise BenchError(f"wrk ended before {side.name} was killed")
    new_port, seconds = _again(side, group, data, signal.SIGKILL)
    writing.join()
    if not answered:
        raise BenchError("wrk failed while perdure was being killed")
    _check_sample(side, new_port, objects)
    return new_port, seconds, answered[0]


def _again(side: Perdure, group: Group, data: Path, how: signal.Signals) -> tuple[int, float]:
    """Ends perdure and starts it on the same data; gives its port and the seconds until /readyz is 200."""
    group.end("perdure", how)
    return _begin(side, group, data)


def _begin(side: Perdure, group: Group, data: Path, *, without_store: bool = False) -> tuple[int, float]:
    """Starts perdure on data that is there; gives as `_again`."""
    if without_store:
        store = side.state(data) / STORE
        if not store.is_dir():
            raise BenchError(f"no store to delete at {store}")
        shutil.rmtree(store)
    port = free_port()
    side.serve(group, data, port)
    return port, group.wait_ready(port, "/readyz", timeout_s=BACK_TIMEOUT_S)


def _check_sample(side: Side, port: int, objects: int) -> None:
    sample = range(0, objects, max(1, objects // SAMPLE))
    for number, count in zip(sample, side.counts(port, sample), strict=True):
        if count < 1:
            raise BenchError(f"{side.read.path(number)} lost its writes: it counts {count}")


ROOMS = {"perdure": "/objects/Room/bench", "perdure-kafka": "/objects/Room/bench", "workerd": "/room/bench"}


def socket_client(script: str, where: str, *words: int) -> dict[str, Any]:
    """The figures that a script of peers/sockets prints for a URL or port. Raises BenchError if it fails."""
    python = environment("socket-venv", SOCKET_CLIENT)
    command = [str(python), str(PEERS / "sockets" / script), where, *map(str, words)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    if ended.returncode:
        raise BenchError(f"{script} at {where} failed: {ended.stderr[-800:]}")
    seen: dict[str, Any] = json.loads(ended.stdout)
    return seen


def broadcast(side: Side, sockets: int, rounds: int, round_: int, work: Path) -> Row:
    """One socket's message, stored and sent to all of a room: median, least and greatest time in ms."""
    if isinstance(side, Perdure):
        side = side.at(ROOMS[side.name], app="bench/app")
    data = fresh(work / "data")
    with Group(fresh(work / "logs")) as group:
        port = side.start(group, data)
        seen = socket_client("broadcast.py", f"ws://127.0.0.1:{port}{ROOMS[side.name]}", sockets, rounds)
    shutil.rmtree(data)
    return row("broadcast", side.name, "broadcast", round_) | {
        "sockets": sockets,
        "broadcast_ms": statistics.median(seen["latencies_ms"]),
        "least_ms": min(seen["latencies_ms"]),
        "greatest_ms": max(seen["latencies_ms"]),
        "connect_s": seen["connect_s"],
    }
