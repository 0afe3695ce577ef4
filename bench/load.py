"""One run of wrk, and what it counted.

Laws
- wrk runs on one thread and reports through its script's `done`, not through its human output.
- `answered` counts 2xx answers only. A request in flight when the time runs out was sent but is not
  counted: at most one per client.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import BenchError

SCRIPT = Path(__file__).with_name("load.lua")
ANSWER_TIMEOUT_S = 10
GRACE_S = 60


@dataclass(frozen=True)
class Target:
    """A kind of request: its method, and the path of each object, `{prefix}{number}{suffix}`."""

    method: str
    prefix: str
    suffix: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def path(self, number: int) -> str:
        return f"{self.prefix}{number}{self.suffix}"


@dataclass(frozen=True)
class Load:
    """The result of one run of wrk: times in milliseconds, `per_s` in answers a second."""

    answered: int
    per_s: float
    p50_ms: float
    p99_ms: float
    errors: dict[str, int]

    @property
    def clean(self) -> bool:
        return not self.errors


def parse(output: str) -> Load:
    """The JSON line at the end of wrk's output, as a Load. Raises BenchError if there is none."""
    line = output.strip().rpartition("\n")[2]
    try:
        seen: dict[str, int] = json.loads(line)
        duration_s = seen["duration_us"] / 1e6
        answered = seen["requests"] - seen["refused"]
        errors = {
            name: seen[name] for name in ("refused", "connect", "read", "write", "timeout") if seen[name]
        }
        return Load(answered, answered / duration_s, seen["p50_us"] / 1e3, seen["p99_us"] / 1e3, errors)
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise BenchError(f"wrk ended without its line of JSON; its output was: {output[-500:]!r}") from error


def wrk_path() -> str:
    """Where wrk is; installs it with apt-get as root. Raises BenchError if that fails."""
    wrk = shutil.which("wrk")
    if wrk is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-q", "wrk"], capture_output=True, check=False)
        wrk = shutil.which("wrk")
    if wrk is None:
        raise BenchError(
            "wrk is not installed; install it (apt-get install wrk, brew install wrk) and run again"
        )
    return wrk


def run(
    port: int,
    target: Target,
    *,
    clients: int,
    objects: int,
    seconds: float,
    start: int | None = None,
    stride: int = 1,
    keys: str = "",
) -> Load:
    """Loads `127.0.0.1:port` for `seconds` (wrk counts whole ones, so it is rounded, at least 1).

    With `start`, objects are requested in order from there instead of at random; with a `stride` the n-th of
    them is object n * stride % objects. `keys`: each request has an idempotency key that begins so. Raises
    BenchError if wrk fails.
    """
    whole_s = max(1, round(seconds))
    command = [wrk_path(), "-t1", f"-c{clients}", f"-d{whole_s}s", f"--timeout={ANSWER_TIMEOUT_S}s"]
    command += ["-s", str(SCRIPT)]
    for name, value in target.headers.items():
        command += ["-H", f"{name}: {value}"]
    command.append(f"http://127.0.0.1:{port}")
    env = os.environ | {
        "OBJECTS": str(objects),
        "PREFIX": target.prefix,
        "SUFFIX": target.suffix,
        "METHOD": target.method,
    }
    for name in ("START", "STRIDE", "KEYS"):
        env.pop(name, None)
    if start is not None:
        env |= {"START": str(start), "STRIDE": str(stride)}
    if keys:
        env["KEYS"] = keys
    try:
        ended = subprocess.run(
            command, check=False, env=env, capture_output=True, text=True, timeout=whole_s + GRACE_S
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"wrk did not end {GRACE_S} s after its time: {' '.join(command)}") from error
    if ended.returncode:
        raise BenchError(f"wrk failed with {ended.returncode}: {ended.stderr.strip() or ended.stdout[-500:]}")
    return parse(ended.stdout)


def touch_in_order(port: int, target: Target, *, objects: int, clients: int) -> int:
    """Sends at least one request to each of the objects 0 to `objects` - 1, in order.

    Gives the answers counted.

    Requests in flight at the end of one run of wrk are sent again by the next. Raises BenchError on any error
    answer, and if ten seconds bring no more answers than there are clients.
    """
    answered = start = 0
    while start < objects:
        seconds = max(1.0, (objects - start) / 20_000)
        load = run(port, target, clients=clients, objects=objects, seconds=min(seconds, 10.0), start=start)
        if load.clean and load.answered <= clients:  # too slow for a second: repeat from the same place
            load = run(port, target, clients=clients, objects=objects, seconds=10.0, start=start)
        if not load.clean or load.answered <= clients:
            raise BenchError(f"the server on port {port} did not take the load: {load}")
        answered += load.answered
        start += load.answered - clients
    return answered
