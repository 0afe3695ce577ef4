"""The sides of the comparison: how each is installed, started on its best settings, and sent requests.

Laws
- A side that cannot run here says why and is left out; it never stops the others.
- perdure runs on its defaults, metrics on.
- Peers come from the npm registry and PyPI, in the versions named here, into a cache of their own.
"""

from __future__ import annotations

import copy
import http.client
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Self

from bench.errors import BenchError
from bench.load import Target
from bench.servers import Command, Group, free_port

REPO = Path(__file__).parent.parent
PEERS = Path(__file__).parent / "peers"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perdure" / "bench"

WORKERD = "1.20261117.1"
RESTATE_SERVER = "1.7.12"
RESTATE_PYTHON = ("restate-sdk[serde]==1.3.0", "hypercorn==0.18.0", "uvloop==0.23.0")
SOCKET_CLIENT = ("picows==2.3.1", "uvloop==0.23.0")
INSTALL_TIMEOUT_S = 600
READ_TIMEOUT_S = 30.0


def run_quietly(command: list[str], cwd: Path) -> str:
    """Runs an installer; its output. Raises BenchError with the end of that if it fails."""
    ended = subprocess.run(
        command, check=False, cwd=cwd, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S
    )
    if ended.returncode:
        raise BenchError(f"{' '.join(command)} failed:\n{(ended.stdout + ended.stderr)[-1_000:]}")
    return ended.stdout


def npm_package(name: str, version: str) -> Path:
    """The package's directory in the cache, installed if need be. Raises BenchError without npm."""
    home = CACHE / "npm"
    package = home / "node_modules" / name
    manifest = package / "package.json"
    if manifest.is_file() and json.loads(manifest.read_text())["version"] == version:
        return package
    if shutil.which("npm") is None:
        raise BenchError(f"{name} comes from the npm registry: install Node.js with npm, then run again")
    home.mkdir(parents=True, exist_ok=True)
    run_quietly(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", f"{name}@{version}"], home)
    return package


def environment(name: str, packages: tuple[str, ...]) -> Path:
    """The Python of an environment in the cache that holds exactly these packages, made if need be."""
    home = CACHE / name
    python, stamp = home / "bin" / "python", home / "installed"
    if not (stamp.is_file() and stamp.read_text() == "\n".join(packages)):
        CACHE.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(home, ignore_errors=True)
        run_quietly([sys.executable, "-m", "venv", str(home)], CACHE)
        run_quietly([str(python), "-m", "pip", "install", "-q", *packages], CACHE)
        stamp.write_text("\n".join(packages))
    return python


def platform_binary(package: str) -> str:
    """The machine's part of an npm package name: `linux-64` or `linux-x64` and so on."""
    arm = platform.machine() in ("aarch64", "arm64")
    if package == "workerd":
        return "linux-arm64" if arm else "linux-64"
    return "linux-arm64" if arm else "linux-x64"


class Side:
    """One program that keeps counters: how to install, start and query it."""

    name: ClassVar[str]
    settings: ClassVar[str]
    write: Target
    read: Target
    warmup_s: ClassVar[float] = 2.0
    every: ClassVar[int] = 1  # it takes part in every n-th round; a side that starts slowly in fewer

    def prepare(self) -> None:
        """Installs what is needed; raises BenchError, with the remedy, if the side cannot run here."""

    def versions(self) -> str:
        raise NotImplementedError

    def start(self, group: Group, data: Path) -> int:
        """Starts the server on `data` and waits until it answers; gives its port."""
        raise NotImplementedError

    def count_in(self, body: bytes) -> int:
        """The counter's value in the body of an answer to `read`."""
        return int(json.loads(body)["count"])

    def counts(self, port: int, numbers: Iterable[int]) -> Iterator[int]:
        """The counters of these objects, read one after the other.

        Raises BenchError on any answer but a 200.
        """
        return map(self.count_in, self._bodies(port, self.read, numbers))

    def touch(self, port: int, objects: int, clients: int) -> None:
        """Adds one to each of the first `objects` counters, none cut off. Raises BenchError like `counts`."""

        def share(first: int) -> None:
            for _ in self._bodies(port, self.write, range(first, objects, clients)):
                pass

        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(share, range(min(clients, objects))))

    def _bodies(self, port: int, target: Target, numbers: Iterable[int]) -> Iterator[bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READ_TIMEOUT_S)
        for number in numbers:
            path = target.path(number)
            try:
                connection.request(target.method, path, headers=dict(target.headers))
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise BenchError(
                    f"{self.name} does not answer {path} in {READ_TIMEOUT_S:.0f} s: {error!r}"
                ) from error
            if answer.status != 200:
                raise BenchError(f"{self.name} answers {path} with {answer.status}: {body[:300]!r}")
            yield body
        connection.close()


class Limit(Side):
    name = "limit"
    settings = (
        "uvicorn on uvloop and httptools, one write per response, no access log, no server and date headers, "
        "frozen garbage collector; one RocksDB batch and fsync for all that waits; reads from memory"
    )
    write = Target("POST", "/counter/o")
    read = Target("GET", "/counter/o")

    def versions(self) -> str:
        parts = ("uvicorn", "uvloop", "httptools", "rocksdict", "msgspec")
        return ", ".join(f"{part} {importlib.metadata.version(part)}" for part in parts)

    def start(self, group: Group, data: Path) -> int:
        port = free_port()
        group.spawn("limit", [sys.executable, "-m", "bench.peers.limit", str(port), data / "db"], cwd=REPO)
        group.wait_ready(port, self.read.path(0))
        return port


class LimitKafka(Limit):
    name = "limit-kafka"
    settings = (
        "as limit; one producer for commands and journal, one consumer, 8 partitions; a read costs a journal record; "
        "the same broker as perdure-kafka, warmed for 10 s"
    )
    warmup_s = 10.0
    every = 3

    def prepare(self) -> None:
        check_kafka()

    def versions(self) -> str:
        return f"{kafka_versions()}, {super().versions()}"

    def start(self, group: Group, data: Path) -> int:
        port, bootstrap = free_port(), start_kafka(group, data)
        group.spawn(
            "limit", [sys.executable, "-m", "bench.peers.limit_kafka", str(port), bootstrap], cwd=REPO
        )
        group.wait_ready(port, self.read.path(0))
        return port


class Workerd(Side):
    name = "workerd"
    settings = "Durable Objects on SQLite, on a local disk; `workerd serve`, no inspector; V8 warmed for 2 s"
    write = Target("POST", "/counter/o")
    read = Target("GET", "/counter/o")

    def prepare(self) -> None:
        self._binary()

    def _binary(self) -> Path:
        return npm_package(f"@cloudflare/workerd-{platform_binary('workerd')}", WORKERD) / "bin" / "workerd"

    def versions(self) -> str:
        return f"workerd {WORKERD}"

    def start(self, group: Group, data: Path) -> int:
        port = free_port()
        command: Command = [self._binary(), "serve", PEERS / "workerd" / "config.capnp"]
        group.spawn(
            "workerd",
            [*command, f"--socket-addr=http=127.0.0.1:{port}", f"--directory-path=disk={data}"],
            cwd=data,
        )
        group.wait_ready(port, self.read.path(0))
        return port


class Restate(Side):
    name = "restate"
    settings = (
        "one server with all roles, TCP only, log at warn, no telemetry; Python SDK on hypercorn with uvloop and the "
        "limits that Restate recommends; 1 partition and 2 SDK workers: of 24, 4, 1 and 1, 2 the least processor time"
    )
    write = Target("POST", "/Counter/o", "/add")
    read = Target("GET", "/Counter/o", "/get")
    every = 3
    partitions: ClassVar[int] = 1
    workers: ClassVar[int] = 2

    def prepare(self) -> None:
        self._binary()
        environment("restate-venv", RESTATE_PYTHON)

    def _binary(self) -> Path:
        name = f"@restatedev/restate-server-{platform_binary('restate')}"
        return npm_package(name, RESTATE_SERVER) / "bin" / "restate-server"

    def versions(self) -> str:
        return ", ".join([f"restate-server {RESTATE_SERVER}", *RESTATE_PYTHON]).replace("==", " ")

    def start(self, group: Group, data: Path) -> int:
        node, admin, ingress, sdk = (free_port() for _ in range(4))
        self._start_server(group, data, node, admin, ingress)
        self._start_sdk(group, sdk)
        group.wait_ready(admin, "/health")
        group.wait_for("sdk", r"(Running on)")
        self._register(group, admin, sdk)
        group.wait_ready(ingress, self.read.path(0), self.read.method)
        return ingress

    def _start_server(self, group: Group, data: Path, node: int, admin: int, ingress: int) -> None:
        env = {
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RESTATE_DEFAULT_NUM_PARTITIONS": str(self.partitions),
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
        }
        listen = ("--listen-mode=tcp", "--bind-ip=127.0.0.1", f"--bind-port={node}")
        options = ("--no-logo", "--log-filter=warn", f"--base-dir={data}")
        group.spawn("server", [self._binary(), *options, *listen], cwd=data, env=env)

    def _start_sdk(self, group: Group, port: int) -> None:
        hypercorn = CACHE / "restate-venv" / "bin" / "hypercorn"
        options = ("-c", "hypercorn.toml", "-k", "uvloop", "-w", str(self.workers), "-b", f"127.0.0.1:{port}")
        group.spawn("sdk", [hypercorn, *options, "app:app"], cwd=PEERS / "restate")

    def _register(self, group: Group, admin: int, sdk: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=60)
        body = json.dumps({"uri": f"http://127.0.0.1:{sdk}"})
        connection.request("POST", "/deployments", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        if answer.status >= 300:
            raise BenchError(
                f"Restate refused the deployment: {answer.read()[:300]!r}\n{group.log_end('server')}"
            )
        connection.close()

    def count_in(self, body: bytes) -> int:
        return int(body)


class Perdure(Side):
    name = "perdure"
    settings = "`perdure serve examples`: defaults, metrics on, the embedded log"
    write = Target("POST", "/objects/Counter/o")
    read = Target("GET", "/objects/Counter/o")
    app = "examples"
    env: Mapping[str, str] = {}
    home: Path = REPO  # where its code is, with an environment of its own if it is not this one

    def at(
        self,
        path: str,
        *,
        app: str = "examples",
        suffix: str = "",
        headers: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Self:
        """This side with other objects: `path` and a number, of `app`, served with `env` beside its own."""
        other = copy.copy(self)
        other.app, other.env = app, env or {}
        other.write = Target("POST", path, suffix, headers or {})
        other.read = Target("GET", path, "", headers or {})
        return other

    def prepare(self) -> None:
        if not self._command().is_file():
            raise BenchError(f"{self._command()} is missing: run `uv sync --all-extras`")

    def _command(self) -> Path:
        return Path(sys.executable).with_name("perdure")

    def versions(self) -> str:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            check=False,
            cwd=self.home,
            capture_output=True,
            text=True,
        )
        return f"perdure {importlib.metadata.version('perdure')} at {head.stdout.strip() or 'no commit'}"

    def start(self, group: Group, data: Path) -> int:
        port = free_port()
        self.serve(group, data, port)
        group.wait_ready(port, "/readyz")
        return port

    def serve(self, group: Group, data: Path, port: int) -> int:
        """Starts perdure's own process, without waiting; gives its pid. The log, if it is another's, runs."""
        command: Command = [
            self._command(),
            "serve",
            self.app,
            "--port",
            str(port),
            "--data",
            self.state(data),
        ]
        return group.spawn("perdure", [*command, *self.log_options(group)], cwd=self.home, env=self.env)

    def state(self, data: Path) -> Path:
        """Where perdure keeps its files."""
        return data / "perdure"

    def log_options(self, group: Group) -> list[str]:
        return []


class Build(Perdure):
    """perdure as it was at another commit: what a change costs, measured in the same rounds."""

    name = "build"

    def __init__(self, ref: str) -> None:
        self.ref = ref
        self.settings = f"as perdure, built from {ref}"

    def prepare(self) -> None:
        """Check the commit out in the cache, with an environment of its own."""
        commit = run_quietly(["git", "rev-parse", "--verify", f"{self.ref}^{{commit}}"], REPO).strip()
        self.home = CACHE / f"build-{commit[:12]}"
        if not (self.home / ".venv" / ".synced").is_file():
            CACHE.mkdir(parents=True, exist_ok=True)
            run_quietly(["git", "worktree", "prune"], REPO)
            if not self.home.is_dir():
                run_quietly(["git", "worktree", "add", "--detach", str(self.home), commit], REPO)
            run_quietly(["make", ".venv/.synced"], self.home)
        super().prepare()

    def _command(self) -> Path:
        return self.home / ".venv" / "bin" / "perdure"


class PerdureKafka(Perdure):
    name = "perdure-kafka"
    settings = (
        "`perdure serve examples --log kafka://…`: defaults, metrics on; one broker (KRaft, its own defaults "
        "for flushing: acknowledged means in the page cache) on the same machine, warmed for 10 s"
    )
    warmup_s = 10.0
    every = 3

    def prepare(self) -> None:
        super().prepare()
        check_kafka()

    def versions(self) -> str:
        return f"{super().versions()}, {kafka_versions()}"

    def start(self, group: Group, data: Path) -> int:
        start_kafka(group, data)
        return super().start(group, data)

    def log_options(self, group: Group) -> list[str]:
        return ["--log", "kafka://" + kafka_address(group)]


def check_kafka() -> None:
    """Raises BenchError if no broker can be brought up."""
    if not (REPO / "tests" / "kafka.py").is_file():
        raise BenchError("tests/kafka.py is missing: it brings the broker")


def kafka_versions() -> str:
    lines = (REPO / "tests" / "kafka.py").read_text().splitlines()
    named = [line.partition("=")[2].strip(' "') for line in lines if line.startswith("KAFKA_VERSION")]
    return f"Apache Kafka {''.join(named)}, aiokafka {importlib.metadata.version('aiokafka')}"


def start_kafka(group: Group, data: Path) -> str:
    """A broker on `data`; its address, once it answers."""
    group.spawn("kafka", [sys.executable, "-m", "tests.kafka", "up", "--dir", data / "kafka"], cwd=REPO)
    return kafka_address(group)


def kafka_address(group: Group) -> str:
    return group.wait_for("kafka", r"^(\S+:\d+)\s*$")


SIDES: dict[str, Side] = {
    side.name: side for side in (Perdure(), Limit(), Workerd(), Restate(), PerdureKafka(), LimitKafka())
}
