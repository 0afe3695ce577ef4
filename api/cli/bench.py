"""`perdure bench`: what a million requests cost on this machine.

It starts a server of its own on a temporary directory, loads it over HTTP (`load.py`), and prints rates,
latencies, CPU time and bytes on disk.

Laws
- Figures per core-second count the server's CPU time only, so that they hold although client and server share
  the machine.
- Bytes per request are the growth of the data directory, after the server has stopped and flushed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from perdure.api.cli.options import AsJson
from perdure.schemas.errors import OperatorError

_START_S = 30.0
_STOP_S = 30.0


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: `perdure bench --seconds 5 --connections 32`")(bench)


def bench(
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of each load.")] = 3.0,
    connections: Annotated[int, typer.Option(min=1, max=1000, help="Clients at once.")] = 32,
    objects: Annotated[int, typer.Option(min=1, help="Counters that the load is spread over.")] = 1000,
    log: Annotated[
        str | None, typer.Option("--log", help="embedded, or kafka://host:port[,host:port].")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="A running server with the namespace Counter, instead of a temporary one."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure durable writes and reads of counters over HTTP."""
    load = {"objects": objects, "connections": connections, "seconds": seconds}
    if url is not None:
        figures = {kind: _measure(url, None, method, load) for kind, method in _KINDS.items()}
    else:
        figures = _measure_own(log, load)
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
        return
    for kind, row in figures.items():
        typer.echo(
            f"{kind}: " + ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in row.items())
        )


_KINDS = {"writes": "POST", "reads": "GET"}


def _measure_own(log: str | None, load: dict[str, Any]) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder:
        data = Path(folder, "data")
        figures = {}
        for kind, method in _KINDS.items():
            with _server(data, log) as (url, pid):
                before = _size_bytes(data)
                figures[kind] = _measure(url, pid, method, load)
            if log is None or log == "embedded":
                grown = _size_bytes(data) - before
                figures[kind]["bytes_per_request_on_disk"] = round(
                    grown / max(figures[kind]["requests"], 1), 1
                )
    return figures


def _measure(url: str, pid: int | None, method: str, load: dict[str, Any]) -> dict[str, Any]:
    import asyncio

    from perdure.api.cli.load import run_load

    cpu = _cpu_s(pid) if pid else None
    tally = asyncio.run(run_load(url, method=method, prefix="/objects/Counter/bench-", **load))
    row: dict[str, Any] = {
        "requests": tally.requests,
        "requests_per_second": round(tally.requests / tally.seconds),
    }
    if pid is not None and cpu is not None:
        used_s = max(_cpu_s(pid) - cpu, 0.01)
        row["requests_per_core_second"] = round(tally.requests / used_s)
        row["core_hours_per_million_requests"] = round(used_s / max(tally.requests, 1) * 1e6 / 3600, 4)
    row["p50_ms"] = round(tally.percentile_ms(50), 2)
    row["p99_ms"] = round(tally.percentile_ms(99), 2)
    row["errors"] = tally.errors
    return row


@contextlib.contextmanager
def _server(data: Path, log: str | None) -> Iterator[tuple[str, int]]:
    """Run a server of the benchmark's app in a process of its own.

    At the end it is stopped and has flushed.
    """
    app = Path(__file__).with_name("bench_app.py")
    command = [sys.executable, "-m", "perdure.api.cli", "serve", str(app), "--data", str(data), "--port", "0"]
    command += ["--json"] if log is None else ["--json", "--log", log]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        try:
            assert process.stdout is not None
            readable, _, _ = select.select([process.stdout], [], [], _START_S)
            line = process.stdout.readline() if readable else ""
            if not line:
                raise OperatorError("the server to measure did not start; its error is printed above")
            yield json.loads(line)["url"], process.pid
            process.send_signal(signal.SIGTERM)
            process.wait(_STOP_S)
        finally:
            process.kill()


def _cpu_s(pid: int) -> float:
    """User and system seconds a process has used, from /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        raise OperatorError(
            "the CPU time of the server cannot be read here: this needs Linux's /proc"
        ) from None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _size_bytes(folder: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())
