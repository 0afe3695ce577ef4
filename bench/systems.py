"""The work of the example systems beyond a counter: decisions, calls, alarms, long lists, long documents.

Laws
- perdure's own sides only: no peer has an equal of all of these.
- Each run is a fresh server on a fresh directory, and checks that what it measured has happened.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import BenchError
from bench.extras import metric, socket_client
from bench.load import Load
from bench.measure import WARMUP_CLIENTS, check_exact, clean, row
from bench.runs import Row
from bench.servers import Group, fresh
from bench.sides import Perdure

APP = "bench/app"
MANY = 32  # clients
USERS = 10_000  # so many that none reaches its quota of 100 a minute: each decision is a durable write
CALLERS = 200
WARMUP_S = 1.0
ALARMS_FAR_S = 3_600.0  # they are set twice: how long that takes says for when
ALARM_LEAD_S = 2.0
ALARMS_TIMEOUT_S = 300.0
KEYS = 10_000
EDITS = (10_000, 10)  # of the long and the short document
EDIT_SAMPLES = 300


@contextmanager
def served(side: Perdure, work: Path) -> Iterator[tuple[Group, int]]:
    """The side, running on a fresh directory: its processes and its port."""
    data = fresh(work / "data")
    with Group(fresh(work / "logs")) as group:
        yield group, side.start(group, data)
    shutil.rmtree(data)


def _one_then_many(
    side: Perdure, group: Group, port: int, objects: int, seconds: float
) -> tuple[Load, Load, int]:
    """Writes by one client, then by many, after a warm-up; gives both and all that was acknowledged."""
    ahead = (side, group, port, side.write)
    warmed = clean(*ahead, clients=WARMUP_CLIENTS, objects=objects, seconds=WARMUP_S)
    one = clean(*ahead, clients=1, objects=objects, seconds=seconds)
    many = clean(*ahead, clients=MANY, objects=objects, seconds=seconds)
    return one, many, warmed.answered + one.answered + many.answered


def limiter(side: Perdure, seconds: float, round_: int, work: Path) -> Row:
    """The rate limiter's decisions, each for a user with quota left: ms at 1
    client, decisions/s at 1 and 32.
    """
    side = side.at("/objects/RateLimiter/o", headers={"user-id": "bench"})
    with served(side, work) as (group, port):
        one, many, _ = _one_then_many(side, group, port, USERS, seconds)
    return row("limiter", side.name, "limiter", round_) | {
        "limiter_p50_ms": one.p50_ms,
        "limiter_p99_ms": one.p99_ms,
        "limiter_per_s": one.per_s,
        "limiter32_p50_ms": many.p50_ms,
        "limiter32_p99_ms": many.p99_ms,
        "limiter32_per_s": many.per_s,
    }


def calls(side: Perdure, seconds: float, round_: int, work: Path) -> Row:
    """A fetch whose handler awaits one call to an object of another partition, which writes."""
    side = side.at("/objects/Front/o", app=APP)
    with served(side, work) as (group, port):
        one, many, acknowledged = _one_then_many(side, group, port, CALLERS, seconds)
        total = sum(side.counts(port, range(CALLERS)))
    check_exact(total, acknowledged, WARMUP_CLIENTS + 1 + MANY)
    return row("calls", side.name, "calls", round_) | {
        "call_p50_ms": one.p50_ms,
        "call_p99_ms": one.p99_ms,
        "calls_per_s": many.per_s,
        "sum": total,
        "acknowledged": acknowledged,
    }


def alarms(side: Perdure, number: int, round_: int, work: Path) -> Row:
    """Alarms of as many objects, all due at one time: seconds from that time until the last has run."""
    side = side.at("/objects/Bell/o", app=APP)
    with served(side, work) as (group, port):
        began = time.monotonic()
        _set_alarms(side, port, number, time.time() + ALARMS_FAR_S)
        due_s = time.time() + ALARM_LEAD_S + 2 * (time.monotonic() - began)
        _set_alarms(side, port, number, due_s)
        if time.time() > due_s:
            raise BenchError(f"{number:,} alarms could not be set before they were due")
        time.sleep(max(0.0, due_s - time.time()))
        while (run := metric(port, "perdure_alarms_fired_total")) < number:
            if time.time() > due_s + ALARMS_TIMEOUT_S:
                raise BenchError(f"{run:,.0f} of {number:,} alarms have run; logs:\n{group.log_ends()}")
            time.sleep(0.02)
        seconds = time.time() - due_s
        if set(side.counts(port, range(0, number, max(1, number // 1_000)))) != {1}:
            raise BenchError("an alarm did not run exactly once")
    return row("alarms", side.name, "alarms", round_) | {
        "alarms": number,
        "alarms_s": seconds,
        "alarms_per_s": number / seconds,
    }


def _set_alarms(side: Perdure, port: int, number: int, due_s: float) -> None:
    setting = side.at("/objects/Bell/o", app=APP, suffix=f"?at={due_s * 1000:.0f}")
    setting.touch(port, number, MANY)


def listing(side: Perdure, seconds: float, round_: int, work: Path) -> Row:
    """All of an object's many small values by one `items()`, one client."""
    side = side.at("/objects/Shelf/o", app=APP, suffix=f"?keys={KEYS}")
    with served(side, work) as (group, port):
        side.touch(port, 1, 1)
        seen = clean(side, group, port, side.read, clients=1, objects=1, seconds=seconds)
        if list(side.counts(port, [0])) != [KEYS]:
            raise BenchError(f"items() does not give {KEYS:,} values")
    return row("listing", side.name, "listing", round_) | {
        "keys": KEYS,
        "items_p50_ms": seen.p50_ms,
        "items_p99_ms": seen.p99_ms,
    }


def edits(side: Perdure, round_: int, work: Path) -> Row:
    """An edit's round trip over a WebSocket in a document with many edits, and in one with few."""
    side = side.at("/objects/Document/o")
    with served(side, work) as (_, port):
        url = f"ws://127.0.0.1:{port}/objects/Document/bench"
        seen = socket_client("edits.py", url, *EDITS, EDIT_SAMPLES)
    long_ms, short_ms = statistics.median(seen["long_ms"]), statistics.median(seen["short_ms"])
    return row("edits", side.name, "edits", round_) | {
        "edits": EDITS[0],
        "edit_long_ms": long_ms,
        "edit_short_ms": short_ms,
        "edit_ratio": long_ms / short_ms,
    }
