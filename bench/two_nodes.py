"""`python -m bench.two_nodes`: what a command costs two nodes of an app on Kafka, against one.

The same clients and the same broker; one node with all partitions, two nodes that share them, and two with
a standby of each partition, in turn. Prints processor time per command of the nodes and of the broker, and
how long a start takes. Only the ratios of one run count.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.acceptance.harness import port_of
from tests.acceptance.wire import Wire
from tests.kafka import LocalKafka
from tests.process import Server, serve

EXAMPLE = Path(__file__).parents[1] / "examples" / "counter.py"
CLIENTS, OBJECTS, SECONDS, ROUNDS = 32, 1_000, 4.0, 3
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """The processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def load(ports: list[int], seconds: float) -> int:
    """Clients that write, each through one of the nodes; how many writes were acknowledged."""
    until_s, done = time.monotonic() + seconds, 0

    async def client(number: int) -> None:
        nonlocal done
        async with Wire(ports[number % len(ports)]) as wire:
            n = number
            while time.monotonic() < until_s:
                n = (n + 7) % OBJECTS
                answer = await wire.ask("POST", f"/objects/Counter/n{n}")
                assert answer.status == 200, answer
                done += 1

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return done


def measure(bootstrap: str, broker: int, nodes: int, standbys: int) -> dict[str, float]:
    """One run: µs of processor time per command, writes per second, and seconds of the last start."""
    environ = {"PERDURE_SEAL_SECRET": "s" * 40, "PERDURE_STANDBYS": str(standbys)}
    folder = Path(tempfile.mkdtemp(prefix="perdure-nodes-"))
    app = folder / "app"
    app.mkdir()
    (app / "app.py").write_text(EXAMPLE.read_text())
    name = f"b{secrets.token_hex(4)}"
    (app / "perdure.toml").write_text(f'name = "{name}"\nmain = "app.py"\nlog = "kafka://{bootstrap}"\n')
    servers: list[Server] = []
    with ExitStack() as running:
        for number in range(nodes):
            began_s = time.monotonic()
            servers.append(running.enter_context(serve(app, folder / f"data{number}", environ=environ)))
            started_s = time.monotonic() - began_s
        ports = [port_of(server) for server in servers]
        asyncio.run(load(ports, 2.0))
        before = [cpu_s(server.pid) for server in servers], cpu_s(broker)
        done = asyncio.run(load(ports, SECONDS))
        used_s = sum(cpu_s(server.pid) for server in servers) - sum(before[0])
        of_broker_s = cpu_s(broker) - before[1]
        for server in servers:
            server.stop()
    return {
        "nodes_us": used_s / done * 1e6,
        "broker_us": of_broker_s / done * 1e6,
        "writes_per_s": done / SECONDS,
        "start_s": started_s,
    }


def main() -> None:
    """Print the medians of each kind, and the ratios to one node."""
    with tempfile.TemporaryDirectory(prefix="perdure-nodes-kafka-") as folder:
        kafka = LocalKafka(Path(folder) / "kafka")
        try:
            runs: dict[str, list[dict[str, float]]] = {"1": [], "2": [], "2 with standbys": []}
            for _ in range(ROUNDS):
                for kind, figures in runs.items():
                    broker = kafka.pid()
                    figures.append(measure(kafka.bootstrap, broker, int(kind[0]), int("standbys" in kind)))
        finally:
            kafka.stop()
    medians = {
        kind: {name: round(statistics.median(each[name] for each in figures), 2) for name in figures[0]}
        for kind, figures in runs.items()
    }
    for kind in ("2", "2 with standbys"):
        medians[kind]["of one"] = round(medians[kind]["nodes_us"] / medians["1"]["nodes_us"], 2)
    print(json.dumps(medians, indent=2))


if __name__ == "__main__":
    main()
