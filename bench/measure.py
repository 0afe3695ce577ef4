"""One side under one load: the figures, the fsyncs, and the exactness check.

Laws
- The counters are summed after every run: acknowledged <= sum <= acknowledged + cut. Acknowledged writes are
  the 2xx answers wrk counted in warm-up and load; cut are those in flight when wrk's time ran out, at most
  one per client and run of wrk. A sum outside is an error, and so is any answer that is not 2xx.
- Processor time is that of the server's processes alone, over the load alone.
- fsyncs are counted in a run of its own, under strace, whose speed is not used.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import load, machine
from bench.errors import BenchError
from bench.load import Load, Target
from bench.runs import Row
from bench.scenarios import Scenario
from bench.servers import Group, fresh
from bench.sides import Side

WARMUP_CLIENTS = 32
STRIDE = 618_033  # the golden section of a million: objects requested one after the other lie far apart


def check_exact(total: int, acknowledged: int, cut: int) -> None:
    """Raises BenchError if the counters' sum misses an acknowledged write or has one never sent."""
    if not acknowledged <= total <= acknowledged + cut:
        raise BenchError(
            f"the counts are not exact: the counters sum to {total}, {acknowledged} writes were acknowledged and "
            f"at most {cut} more were in flight"
        )


def warm(side: Side, group: Group, port: int, scenario: Scenario, seconds: float) -> int:
    """Writes once to each of the scenario's objects, then at random; gives the acknowledged writes."""
    touched = 0
    if not scenario.scattered:
        side.touch(port, scenario.objects, WARMUP_CLIENTS)
        touched = scenario.objects
    ahead = (side, group, port, side.write)
    more = _more(scenario, 0, "warm")
    warmed = clean(*ahead, clients=WARMUP_CLIENTS, objects=scenario.objects, seconds=seconds, **more)
    return touched + warmed.answered


def loaded(side: Side, group: Group, port: int, scenario: Scenario, seconds: float, first: int = 0) -> Load:
    """The scenario's own load; `first`: how many objects were requested before, if it is scattered."""
    target = side.write if scenario.writes else side.read
    more = _more(scenario, first, "load")
    return clean(
        side, group, port, target, clients=scenario.clients, objects=scenario.objects, seconds=seconds, **more
    )


def _more(scenario: Scenario, first: int, keys: str) -> dict[str, Any]:
    more: dict[str, Any] = {"keys": keys} if scenario.keyed else {}
    return more | {"start": first, "stride": STRIDE} if scenario.scattered else more


def requested(scenario: Scenario, count: int) -> Iterable[int]:
    """The objects that the first `count` requests may have been for."""
    if not scenario.scattered:
        return range(scenario.objects)
    return (n * STRIDE % scenario.objects for n in range(min(count, scenario.objects)))


def clean(
    side: Side,
    group: Group,
    port: int,
    target: Target,
    *,
    clients: int,
    objects: int,
    seconds: float,
    **more: Any,
) -> Load:
    """One load of which every answer is good; `more`: see `load.run`. Raises BenchError otherwise."""
    seen = load.run(port, target, clients=clients, objects=objects, seconds=seconds, **more)
    _refuse_errors(side, group, seen)
    return seen


def _refuse_errors(side: Side, group: Group, seen: Load) -> None:
    if not seen.clean:
        group.check()
        counted = f"{seen.errors} beside {seen.answered} good answers"
        raise BenchError(f"{side.name} answered with errors: {counted}; logs:\n{group.log_ends()}")


def row(kind: str, side: str, scenario: str, round_: int) -> Row:
    """A row's head: what it measured, and when."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return {"kind": kind, "side": side, "scenario": scenario, "round": round_, "at": at}


def measure(side: Side, scenario: Scenario, round_: int, seconds: float, work: Path) -> Row:
    """One run: rate, latencies in ms, processor µs per request, bytes on disk per command, the exact sum."""
    data = fresh(work / "data")
    with Group(fresh(work / "logs")) as group:
        port = side.start(group, data)
        warmed = warm(side, group, port, scenario, min(side.warmup_s, seconds))
        disk, cpu = machine.disk_bytes(data), machine.cpu_s(group.pids())
        first = warmed + WARMUP_CLIENTS
        seen = loaded(side, group, port, scenario, seconds, first)
        cpu = machine.cpu_s(group.pids()) - cpu
        disk = machine.disk_bytes(data) - disk
        acknowledged = warmed + (seen.answered if scenario.writes else 0)
        total = sum(side.counts(port, requested(scenario, first + seen.answered + scenario.clients)))
    check_exact(total, acknowledged, WARMUP_CLIENTS + (scenario.clients if scenario.writes else 0))
    shutil.rmtree(data)
    return row("load", side.name, scenario.name, round_) | {
        "per_s": seen.per_s,
        "p50_ms": seen.p50_ms,
        "p99_ms": seen.p99_ms,
        "answered": seen.answered,
        "cpu_us": cpu * 1e6 / seen.answered,
        "bytes_per_command": disk / seen.answered if scenario.writes else None,
        "acknowledged": acknowledged,
        "sum": total,
    }


def strace_path() -> str:
    """Raises BenchError if strace is missing."""
    strace = shutil.which("strace")
    if strace is None:
        raise BenchError("strace is not installed: no fsyncs are counted (apt-get install strace)")
    return strace


def count_syncs(side: Side, scenario: Scenario, seconds: float, work: Path) -> Row:
    """fsync and fdatasync calls per request, under strace."""
    strace_path()
    data = fresh(work / "data")
    with Group(fresh(work / "logs"), traced=True) as group:
        port = side.start(group, data)
        warm(side, group, port, scenario, 1)
        before = group.sync_calls()
        seen = loaded(side, group, port, scenario, seconds)
        syncs = group.sync_calls() - before
    shutil.rmtree(data)
    head = row("syncs", side.name, scenario.name, 0)
    return head | {"syncs": syncs, "answered": seen.answered, "syncs_per_request": syncs / seen.answered}
