"""Programs that use perdure through a Kafka client, one per client library, with nothing configured.

Each takes `BOOTSTRAP APP PREFIX COUNT`, produces COUNT headerless calls `Counter/PREFIX-n` to
`APP.commands`, and then reads `APP.replies` until it has an answer to each; it prints one line per answer:
key, outcome, value. (Those that only produce, by `reads` False, print nothing.) `Client.run` installs the
library once into `~/.cache/perdure/clients`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kafka import KAFKA_VERSION

PROGRAMS = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "perdure" / "clients"
PATIENCE_S = 600


class NoClient(Exception):
    """A client cannot be had here; the text says why."""


@dataclass(frozen=True)
class Client:
    """A client library in one version. `reads`: its program reads replies too."""

    name: str
    version: str
    program: str
    tools: tuple[str, ...]
    partitioner: str
    packages: tuple[str, ...] = ()
    reads: bool = True
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}-{self.version}" + "".join(f"-{each}" for each in self.arguments)

    @property
    def place(self) -> Path:
        """The folder that it is installed in."""
        packages = self.packages if not self.program.endswith(".rs") else (self.version,)
        named = "-".join((self.program, *packages)).replace("/", "_").replace("@", "_")
        if self.program.endswith(".py"):  # wheels are of one version of Python
            named += f"-python{sys.version_info.major}.{sys.version_info.minor}"
        return CACHE / named

    def install(self) -> None:
        """Install it unless it is there. Raises `NoClient`."""
        if absent := [each for each in self.tools if shutil.which(each) is None]:
            raise NoClient(f"{self}: not installed: {', '.join(absent)}")
        if not self.packages or (self.place / "done").exists():
            return
        self.place.mkdir(parents=True, exist_ok=True)
        with (self.place / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (self.place / "done").exists():
                return
            for command in self._commands():
                done = subprocess.run(
                    command, cwd=self.place, capture_output=True, text=True, timeout=PATIENCE_S, check=False
                )
                if done.returncode != 0:
                    raise NoClient(f"{self}: {' '.join(command)}: {done.stderr[-2000:]}")
            (self.place / "done").touch()

    def _commands(self) -> list[list[str]]:
        if self.program.endswith(".py"):
            python = str(Path(sys.base_prefix) / "bin" / "python3")
            return [[python, "-m", "pip", "install", "-q", "--target", "site", *self.packages]]
        if self.program.endswith(".mjs"):
            return [
                ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", ".", *self.packages]
            ]
        if self.program.endswith(".rs"):
            (self.place / "src").mkdir(exist_ok=True)
            shutil.copy(PROGRAMS / self.program, self.place / "src" / "main.rs")
            lines = [
                "[package]",
                'name = "client"',
                'version = "0.1.0"',
                'edition = "2021"',
                "[dependencies]",
            ]
            (self.place / "Cargo.toml").write_text("\n".join([*lines, *self.packages]) + "\n")
            return [["cargo", "build", "--quiet"]]
        shutil.copy(PROGRAMS / self.program, self.place / "main.go")
        source = (self.place / "main.go").read_text().removeprefix("//go:build ignore\n")
        (self.place / "main.go").write_text(source)
        return [
            *([["go", "mod", "init", "client"]] if not (self.place / "go.mod").exists() else []),
            ["go", "get", *self.packages],
            ["go", "mod", "tidy"],
            ["go", "build", "-o", "client", "."],
        ]

    def command(self, *given: str) -> tuple[list[str], dict[str, str]]:
        """(command line, environment) of its program."""
        environ = {**os.environ, "PERDURE_CLIENT_DIR": str(self.place)}
        path = str(PROGRAMS / self.program)
        if self.program.endswith(".py"):
            environ["PYTHONPATH"] = str(self.place / "site")
            return [sys.executable, path, *given, *self.arguments], environ
        if self.program.endswith(".mjs"):
            own = self.place / "node_modules" / "node" / "bin" / "node"  # of a library that needs a newer one
            return [str(own) if own.exists() else "node", path, *given, *self.arguments], environ
        if self.program.endswith(".rs"):
            return [str(self.place / "target" / "debug" / "client"), *given], environ
        if self.program.endswith(".sh"):
            return ["bash", path, *given, *self.arguments], environ
        return [str(self.place / "client"), *given, *self.arguments], environ

    def run(self, bootstrap: str, app: str, prefix: str, count: int) -> Sequence[str]:
        """The lines that its program prints. Raises `NoClient`, or `AssertionError` if the program fails."""
        self.install()
        command, environ = self.command(bootstrap, app, prefix, str(count))
        done = subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 0, f"{self}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout.splitlines()


CLIENTS = (
    Client("confluent-kafka", "2.16.1", "confluent.py", (), "CRC32", ("confluent-kafka==2.16.1",)),
    Client("confluent-kafka", "2.5.3", "confluent.py", (), "CRC32", ("confluent-kafka==2.5.3",)),
    Client("aiokafka", "0.14.0", "aio.py", (), "murmur2"),
    Client("kafka-python", "3.0.12", "kafkapython.py", (), "murmur2", ("kafka-python==3.0.12",)),
    Client("kafka-python", "2.2.15", "kafkapython.py", (), "murmur2", ("kafka-python==2.2.15",)),
    Client("quixstreams", "3.28.1", "quix.py", (), "murmur2", ("quixstreams==3.28.1",), reads=False),
    Client("kafkajs", "2.2.4", "kafkajs.mjs", ("node", "npm"), "murmur2", ("kafkajs@2.2.4",)),
    Client(
        "kafkajs", "2.2.4", "kafkajs.mjs", ("node", "npm"), "signed murmur2 (version 1's)",
        ("kafkajs@2.2.4",), arguments=("legacy",),
    ),
    Client(
        "@platformatic/kafka", "2.12.1", "platformatic.mjs", ("node", "npm"), "murmur2 with its sign",
        ("@platformatic/kafka@2.12.1", "node@22"),
    ),
    Client(
        "@platformatic/kafka", "1.35.0", "platformatic.mjs", ("node", "npm"), "murmur2 with its sign",
        ("@platformatic/kafka@1.35.0", "node@22"),
    ),
    Client("franz-go", "1.22.3", "go/franz.go", ("go",), "murmur2", ("github.com/twmb/franz-go@v1.22.3",)),
    Client("sarama", "1.61.1", "go/sarama.go", ("go",), "FNV-1a", ("github.com/IBM/sarama@v1.61.1",), reads=False),
    Client(
        "kafka-go", "0.4.51", "go/segmentio.go", ("go",), "none: round robin",
        ("github.com/segmentio/kafka-go@v0.4.51",), reads=False,
    ),
    Client("rdkafka (Rust)", "0.39.0", "rust/rdkafka.rs", ("cargo", "make", "gcc"), "CRC32", ('rdkafka = "=0.39.0"',)),
    Client(
        "rskafka", "0.6.0", "rust/rskafka.rs", ("cargo",), "none: its caller's",
        ('rskafka = "=0.6.0"', 'tokio = { version = "1", features = ["rt-multi-thread", "macros"] }'),
    ),
    Client("kcat", "1.7.1", "kcat.sh", ("kcat",), "CRC32", reads=False),
)  # fmt: skip
ORDINARY = tuple(
    each
    for each in CLIENTS
    if (each.name, each.version)
    in (("confluent-kafka", "2.16.1"), ("aiokafka", "0.14.0"), ("kafkajs", "2.2.4"))
    and not each.arguments
)


def table() -> list[str]:
    """The rows of the table of docs/kafka.md: client, versions, partitioner."""
    rows = {("Kafka's console producer", "murmur2"): [KAFKA_VERSION]}
    for each in CLIENTS:
        rows.setdefault((each.name, each.partitioner), []).append(each.version)
    return [f"| {name} | {', '.join(versions)} | {how} |" for (name, how), versions in rows.items()]
