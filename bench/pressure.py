"""perdure under one-sided load: others beside one hot object, and commands of one Kafka client beside HTTP's.

Laws
- Each run is a fresh server on a fresh directory.
- Commands that a Kafka client produces count when their entries are durable; each counter is read then.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.extras import metric, socket_client
from bench.machine import cpu_s
from bench.measure import WARMUP_CLIENTS, check_exact, clean, row
from bench.runs import Row
from bench.servers import Group, free_port
from bench.sides import PEERS, Perdure, environment
from bench.systems import APP, MANY, WARMUP_S, served

HOT_PER_S = 500  # of 20 ms each: ten times what one processor can do
SOCKETS = 200
KAFKA_CLIENT = ("confluent-kafka==2.16.1",)
OBJECTS = 1_000
PRODUCED_AT_ONCE = 20_000
TURNS = 2  # of HTTP and the producer
DONE_TIMEOUT_S = 120.0
POLL_S = 0.1  # of the metrics: asked for 200 times a second, their page took a fifth of the server


def beside(side: Perdure, seconds: float, round_: int, work: Path) -> Row:
    """Reads of idle objects, in ms: alone, beside one hot object, and beside it and sockets at full speed."""
    side = side.at("/objects/Idle/o", app=APP)
    figures: Row = {}
    for name, hot, sockets in (("alone", 0, 0), ("hot", HOT_PER_S, 0), ("hot_sockets", HOT_PER_S, SOCKETS)):
        with served(side, work) as (group, port):
            seen = _beside(port, seconds, hot, sockets)
            group.check()
        reads_ms, turns = sorted(seen["reads_ms"]), sorted(seen["turns"])
        figures |= {
            f"beside_{name}_p50_ms": statistics.median(reads_ms),
            f"beside_{name}_p99_ms": reads_ms[len(reads_ms) * 99 // 100],
            f"beside_{name}_turns_p99": turns[len(turns) * 99 // 100],
            f"beside_{name}_reads": len(reads_ms),
            f"beside_{name}_hot": seen["hot"],
            f"beside_{name}_messages": seen["messages"],
        }
    return row("beside", side.name, "beside", round_) | figures


def _beside(port: int, seconds: float, hot_per_s: int, sockets: int) -> dict[str, Any]:
    seen = socket_client("beside.py", str(port), max(1, round(seconds)), hot_per_s, sockets)
    if hot_per_s and not seen["hot"].get("204"):
        raise BenchError(f"the hot object has answered nothing: {seen['hot']}")
    return seen


def produce(side: Perdure, seconds: float, round_: int, work: Path) -> Row:
    """Commands/s of one librdkafka producer through the embedded log's listener, and of 32 clients of HTTP.

    Both write to the same counters of one server, in turn; the ratio is of the medians.
    """
    broker = f"127.0.0.1:{free_port()}"
    side = side.at("/objects/Counter/p", env={"PERDURE_KAFKA_LISTEN": broker})
    http, produced, http_us, produced_us = list[float](), list[float](), list[float](), list[float]()
    with served(side, work) as (group, port):
        ahead = (side, group, port, side.write)
        acknowledged = clean(*ahead, clients=WARMUP_CLIENTS, objects=OBJECTS, seconds=WARMUP_S).answered
        acknowledged += _produced(group, port, broker, PRODUCED_AT_ONCE)[0]
        for _ in range(TURNS):
            began_s = cpu_s(group.pids())
            seen = clean(*ahead, clients=MANY, objects=OBJECTS, seconds=seconds)
            http_us.append((cpu_s(group.pids()) - began_s) * 1e6 / seen.answered)
            http.append(seen.per_s)
            began_s = cpu_s(group.pids())
            count, took_s = _produced(group, port, broker, PRODUCED_AT_ONCE)
            produced_us.append((cpu_s(group.pids()) - began_s) * 1e6 / count)
            produced.append(count / took_s)
            acknowledged += seen.answered + count
        total = sum(side.counts(port, range(OBJECTS)))
    check_exact(total, acknowledged, WARMUP_CLIENTS + TURNS * MANY)
    http_per_s, per_s = statistics.median(http), statistics.median(produced)
    return row("produce", side.name, "produce", round_) | {
        "produced_per_s": per_s,
        "produce_ratio": per_s / http_per_s,
        "produced_cpu_us": statistics.median(produced_us),
        "http_per_s": http_per_s,
        "http_cpu_us": statistics.median(http_us),
        "sum": total,
        "acknowledged": acknowledged,
    }


def _produced(group: Group, port: int, broker: str, count: int) -> tuple[int, float]:
    """Produces that many commands; seconds until all are done, without the start of the producer."""
    before = metric(port, "perdure_entries_total")
    python = environment("kafka-venv", KAFKA_CLIENT)
    words = [str(python), str(PEERS / "produce.py"), broker, "examples.commands", str(count), str(OBJECTS)]
    ended = subprocess.run(words, check=False, capture_output=True, text=True, timeout=600)
    ended_s = time.monotonic()
    if ended.returncode:
        raise BenchError(f"the producer failed: {ended.stderr[-800:]}\n{group.log_ends()}")
    produced_s = float(json.loads(ended.stdout)["produced_s"])
    while metric(port, "perdure_entries_total") < before + count:
        if time.monotonic() > ended_s + DONE_TIMEOUT_S:
            raise BenchError(f"not all of {count:,} produced commands were done in {DONE_TIMEOUT_S:.0f} s")
        time.sleep(POLL_S)
    return count, produced_s + time.monotonic() - ended_s
