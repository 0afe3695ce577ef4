"""A real Apache Kafka for tests and benches.

Laws
- Where it comes from, in this order: `PERDURE_TEST_KAFKA=host:port`; a container when a Docker engine
  answers a ping; the jars that Maven brings (kept in `~/.cache/perdure`) and Java. With none of them
  `NoKafka` says why.
- Only a `LocalKafka` can be killed and started again. Its processes are children of this one, die with
  it, and are ended by their own pid.
- Ports are free ones below the range that outgoing connections use, kept over restarts.

From a shell: `python -m tests.kafka up --dir D [--brokers 3]` prints the address and stays until SIGTERM.
"""

from __future__ import annotations

import argparse
import atexit
import base64
import ctypes
import fcntl
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

KAFKA_VERSION = "4.3.1"
IMAGE = "confluentinc/cp-kafka:8.1.0"
UP_TIMEOUT_S = 60.0
CHECKPOINT = "bootstrap.checkpoint"

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>perdure.tests</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""

LOGGING = """status=error
rootLogger.level=warn
rootLogger.appenderRef.c.ref=C
appender.c.type=Console
appender.c.name=C
appender.c.target=SYSTEM_ERR
appender.c.layout.type=PatternLayout
appender.c.layout.pattern=%d %p %c %m%n
"""


K = TypeVar("K")


class NoKafka(Exception):
    """No Kafka can be had here; the text lists what was tried."""


class Kafka(Protocol):
    """What every source of a Kafka offers."""

    @property
    def bootstrap(self) -> str:
        """`host:port[,host:port…]`."""

    @property
    def libs(self) -> Path | None:
        """Kafka's jars, for its console tools; None where they cannot be had."""

    def stop(self) -> None: ...


class ExternalKafka:
    """The one that `PERDURE_TEST_KAFKA` names; it is left as it is."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.libs = jars() if _maven_gap() is None else None

    def stop(self) -> None:
        """Nothing here belongs to the tests."""


class ContainerKafka:
    """A broker in a container of testcontainers."""

    def __init__(self) -> None:
        from testcontainers.community.kafka import KafkaContainer  # its constructor raises without an engine

        # of Confluent's images, the only ones that it can start: their 8.1 is Kafka 4.1
        self._container: Any = KafkaContainer(IMAGE).with_kraft()
        self._container.with_env("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false")
        for one in ("REPLICATION_FACTOR", "MIN_ISR"):  # it is alone, and this topic would want three brokers
            self._container.with_env(f"KAFKA_TRANSACTION_STATE_LOG_{one}", "1")
        self._container.start()
        self.bootstrap: str = self._container.get_bootstrap_server()
        self.libs = jars() if _maven_gap() is None else None

    def stop(self) -> None:
        self._container.stop()


def _maven_gap() -> str | None:
    """What is missing to run Kafka out of its jars, or None."""
    absent = [name for name in ("java", "mvn") if shutil.which(name) is None]
    if sys.platform != "linux":
        return "the brokers' processes are tied to the tests by Linux means"
    return f"not installed: {', '.join(absent)}" if absent else None


def jars() -> Path:
    """The directory of Kafka's jars, downloaded once per version; safe for several processes at once."""
    home = (
        Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "perdure" / f"kafka-{KAFKA_VERSION}"
    )
    libs = home / "libs"
    if libs.is_dir():
        return libs
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if libs.is_dir():
            return libs
        (home / "pom.xml").write_text(POM)
        partial = home / f"libs.{os.getpid()}"
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={partial}"]
        done = subprocess.run(command, cwd=home, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            shutil.rmtree(partial, ignore_errors=True)
            raise NoKafka(f"{' '.join(command)} in {home} failed: {done.stdout[-500:]}{done.stderr[-500:]}")
        partial.rename(libs)  # in one step: whoever sees `libs` sees all of it
    return libs


@functools.cache
def archive(libs: Path) -> Path | None:
    """Kafka's classes as Java maps them into memory, which halves the cost of a
    start; None where Java makes none.

    Made once per Java and version of Kafka, by a broker that starts and stops; safe
    for several processes at once.
    """
    java = shutil.which("java")
    assert java is not None
    checkpoint(libs)  # the broker needs it, and it takes the same lock
    made = libs.parent / f"classes-{Path(java).resolve().stat().st_mtime_ns}.jsa"
    with (libs.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            partial = made.with_suffix(f".{os.getpid()}")
            with tempfile.TemporaryDirectory(prefix="perdure-kafka-") as directory:
                broker = LocalKafka(Path(directory) / "broker", archive_to=partial)
                broker.end()
            if not partial.exists():
                return None
            partial.rename(made)
    return made


@functools.cache
def checkpoint(libs: Path) -> Path:
    """The file that formatting puts into a data directory: the version's features, the same for every node.

    Made once per version of Kafka by its own tool, each of whose starts costs 0.6 s of CPU.
    """
    made = libs.parent / CHECKPOINT
    with (
        (libs.parent / "lock").open("w") as lock,
        tempfile.TemporaryDirectory(prefix="perdure-kafka-") as home,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            config, data = Path(home) / "server.properties", Path(home) / "data"
            settings = {
                "process.roles": "broker,controller",
                "node.id": "1",
                "controller.quorum.voters": "1@127.0.0.1:9093",
                "listeners": "PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093",
                "controller.listener.names": "CONTROLLER",
                "log.dirs": str(data),
            }
            config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
            command = [*_java(libs, "256m", None), "kafka.tools.StorageTool", "format", "-t", _uuid()]
            subprocess.run([*command, "-c", str(config)], check=True, capture_output=True)
            shutil.move(data / CHECKPOINT, made)
    return made


def _uuid() -> str:
    """A random id as Kafka writes it; the first byte is fixed, as one that begins with "-" is an option."""
    return base64.urlsafe_b64encode(b"p" + uuid.uuid4().bytes[1:]).decode().rstrip("=")


def _java(libs: Path, heap: str, classes: Path | None) -> list[str]:
    """A JVM for seconds: the quick compiler only, as the thorough one would take most of a core."""
    quick = ["java", f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    if classes is not None:
        quick += [f"-XX:SharedArchiveFile={classes}", "-Xlog:disable"]  # of another Java it is left alone
    return [*quick, "-cp", f"{libs}/*"]


def free_ports(count: int) -> list[int]:
    """Ports that are free now, below the range that outgoing connections use."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(20000, 30000)
        with closing(socket.socket()) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


_LIBC = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class LocalKafka:
    """One broker, or several with replication factor 3 and min ISR 2, out of the jars (KRaft).

    `directory` holds configuration, data and the brokers' output. `extra` are further broker settings. With
    `archive_to` the broker writes its classes there when it ends (see `archive`). `environ` gives what a
    broker's environment has beyond this process's.
    """

    def __init__(
        self,
        directory: Path,
        brokers: int = 1,
        extra: Mapping[str, str] | None = None,
        *,
        archive_to: Path | None = None,
        environ: Callable[[int], Mapping[str, str]] = lambda node: {},
    ) -> None:
        gap = _maven_gap()
        if gap is not None:
            raise NoKafka(gap)
        self.libs: Path = jars()
        self._archive_to = archive_to
        self._environ = environ
        self._classes = archive(self.libs) if archive_to is None else None
        self.directory = directory
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        ports = free_ports(2 * brokers)
        self._ports = {node: (ports[2 * node - 2], ports[2 * node - 1]) for node in range(1, brokers + 1)}
        self.bootstrap = ",".join(f"127.0.0.1:{port}" for port, _ in self._ports.values())
        if self._config(1).exists():
            raise FileExistsError(f"{directory} holds an earlier Kafka: remove it or name another directory")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "log4j2.properties").write_text(LOGGING)
        for node in self._ports:
            self._configure(node, extra or {})
        self._format(_uuid())
        self.start()

    def _format(self, cluster: str) -> None:
        """Make the data directories as Kafka's tool makes them."""
        for node in self._ports:
            data = self.directory / f"data{node}"
            data.mkdir()
            facts = {"version": "1", "cluster.id": cluster, "node.id": str(node), "directory.id": _uuid()}
            lines = "".join(f"{name}={value}\n" for name, value in facts.items())
            (data / "meta.properties").write_text(lines)
            shutil.copy(checkpoint(self.libs), data)

    def _config(self, node: int) -> Path:
        return self.directory / f"server{node}.properties"

    def _configure(self, node: int, extra: Mapping[str, str]) -> None:
        port, controller = self._ports[node]
        copies = min(3, len(self._ports))
        settings = {
            "process.roles": "broker,controller",
            "node.id": str(node),
            "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{c}" for n, (_, c) in self._ports.items()),
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.directory / f"data{node}"),
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "offsets.topic.num.partitions": "4",
            "offsets.topic.replication.factor": str(copies),
            "transaction.state.log.num.partitions": "4",
            "transaction.state.log.replication.factor": str(copies),
            "transaction.state.log.min.isr": str(max(1, copies - 1)),
            "min.insync.replicas": str(max(1, copies - 1)),
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            **extra,
        }
        self._config(node).write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def _java(self, heap: str = "512m") -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self.directory / 'log4j2.properties'}"
        return [*_java(self.libs, heap, self._classes), logging]

    def pid(self, node: int = 1) -> int:
        """The process of a running broker (to stop and continue it by signals)."""
        return self._processes[node].pid

    def start(self, *nodes: int) -> None:
        """Start these brokers (all that are down, if none is named) on their data; wait until they answer."""
        assert threading.current_thread() is threading.main_thread(), "a broker dies with its parent thread"
        for node in nodes or self._ports:
            if node in self._processes:
                continue
            with (self.directory / f"broker{node}.log").open("ab") as output:
                self._processes[node] = subprocess.Popen(
                    [
                        *self._java("384m" if len(self._ports) > 1 else "512m"),
                        *(
                            []
                            if self._archive_to is None
                            else [f"-XX:ArchiveClassesAtExit={self._archive_to}"]
                        ),
                        "kafka.Kafka",
                        str(self._config(node)),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, **self._environ(node)},
                    start_new_session=True,
                    preexec_fn=_die_with_parent,  # noqa: PLW1509 - calls one libc function, takes no lock
                )
        for node in nodes or self._ports:
            self._wait_up(node)

    def _wait_up(self, node: int) -> None:
        until = time.monotonic() + UP_TIMEOUT_S
        while time.monotonic() < until:
            code = self._processes[node].poll()
            if code is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self._ports[node][0]), 0.5).close()
            except OSError:
                time.sleep(0.05)  # asking a port is the only way to see a broker come up
            else:
                return
        tail = (self.directory / f"broker{node}.log").read_text()[-2000:]
        self.kill()
        raise RuntimeError(f"broker {node} in {self.directory} did not come up:\n{tail}")

    def kill(self, *nodes: int) -> None:
        """SIGKILL these brokers (all, if none is named) and wait until they are gone."""
        for node in nodes or tuple(self._processes):
            process = self._processes.pop(node)
            process.kill()
            process.wait()

    def end(self, *nodes: int) -> None:
        """Ask these brokers (all, if none is named) to end, and wait."""
        for node in nodes or tuple(self._processes):
            process = self._processes.pop(node)
            process.terminate()
            process.wait(UP_TIMEOUT_S)

    def stop(self) -> None:
        """End all brokers for good. Nobody reads their data again, so they are not asked nicely."""
        self.kill()

    def tool(self, name: str, *args: str) -> list[str]:
        """The command line of one of Kafka's own tools, `name` being its Java class."""
        return [*self._java("256m"), name, *args]


def console_producer(
    kafka: Kafka,
    topic: str,
    lines: Sequence[str],
    *,
    properties: Mapping[str, str] | None = None,
    compression: str = "none",
) -> None:
    """Send `lines` by Kafka's own console producer (properties: `parse.key`, `key.separator`, …)."""
    command = _console(kafka, "org.apache.kafka.tools.ConsoleProducer", topic)
    command += ["--compression-codec", compression]
    for name, value in (properties or {}).items():
        command += ["--reader-property", f"{name}={value}"]
    text = "\n".join(lines) + "\n"
    subprocess.run(command, input=text, text=True, check=True, capture_output=True, timeout=60)


def console_consumer(
    kafka: Kafka,
    topic: str,
    *,
    count: int,
    partition: int | None = None,
    properties: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> list[str]:
    """The first `count` records as Kafka's own console consumer prints them
    (`print.key`, `print.headers`, …).
    """
    command = _console(kafka, "org.apache.kafka.tools.consumer.ConsoleConsumer", topic)
    command += ["--max-messages", str(count), "--timeout-ms", str(int(timeout_s * 1000))]
    command += (
        ["--from-beginning"] if partition is None else ["--partition", str(partition), "--offset", "earliest"]
    )
    for name, value in (properties or {}).items():
        command += ["--formatter-property", f"{name}={value}"]
    done = subprocess.run(
        command, text=True, errors="replace", check=True, capture_output=True, timeout=timeout_s + 30
    )
    return done.stdout.splitlines()


def _console(kafka: Kafka, java_class: str, topic: str) -> list[str]:
    assert kafka.libs is not None, "Kafka's console tools need its jars (Maven and Java)"
    java = _java(kafka.libs, "256m", archive(kafka.libs))
    return [*java, java_class, "--bootstrap-server", kafka.bootstrap, "--topic", topic]


@asynccontextmanager
async def admin(kafka: Kafka) -> AsyncIterator[Any]:
    """A client for what an operator does with topics."""
    from aiokafka.admin import AIOKafkaAdminClient  # the benches take a broker only

    client = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


def _docker_gap() -> str | None:
    """Why no container can be started, or None."""
    try:
        import docker  # type: ignore[import-untyped]  # ships no types
    except ImportError as error:
        return f"no Docker client: {error}"
    try:
        with closing(docker.from_env(timeout=5)) as client:
            client.ping()
    except Exception as error:  # noqa: BLE001 - whatever it is, no engine answers here
        return f"no Docker engine answers: {error}"
    return None


def any_kafka(directory: Path) -> Kafka:
    """A Kafka from the first source there is. Raises `NoKafka` with what was tried."""
    address = os.environ.get("PERDURE_TEST_KAFKA")
    if address:
        return ExternalKafka(address)
    docker_gap = _docker_gap()
    if docker_gap is None:
        return ContainerKafka()
    maven_gap = _maven_gap()
    if maven_gap is None:
        return LocalKafka(directory)
    raise NoKafka(f"PERDURE_TEST_KAFKA is not set; {docker_gap}; {maven_gap}")


@functools.cache
def session_kafka() -> Kafka:
    """One Kafka for the whole process, made when first asked for, gone with the process. Raises `NoKafka`."""
    directory = Path(tempfile.mkdtemp(prefix="perdure-kafka-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    kafka = any_kafka(directory)
    atexit.register(kafka.stop)
    return kafka


def or_skip(make: Callable[[], K]) -> K:
    """A Kafka, or what of it a test needs: without one the test is skipped, or fails if
    `PERDURE_REQUIRE_KAFKA=1`.
    """
    try:
        return make()
    except NoKafka as reason:
        if os.environ.get("PERDURE_REQUIRE_KAFKA") == "1":
            pytest.fail(f"PERDURE_REQUIRE_KAFKA=1, but there is no Kafka: {reason}")
        pytest.skip(f"no Kafka: {reason}")


def tools_or_skip(kafka: Kafka) -> None:
    """Kafka's console tools are needed: without its jars the test is skipped, or fails as in `or_skip`."""
    if kafka.libs is None:

        def none() -> None:
            raise NoKafka(f"its console tools need its jars: {_maven_gap()}")

        or_skip(none)


def main() -> None:
    """`python -m tests.kafka up`: one local Kafka in the foreground."""
    parser = argparse.ArgumentParser(prog="python -m tests.kafka")
    parser.add_argument("command", choices=["up"])
    parser.add_argument(
        "--dir", type=Path, default=None, help="where its files go (a new temporary directory)"
    )
    parser.add_argument("--brokers", type=int, default=1, choices=[1, 3])
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    directory = args.dir or Path(tempfile.mkdtemp(prefix="perdure-kafka-"))
    kafka = LocalKafka(directory, args.brokers)
    try:
        print(kafka.bootstrap, flush=True)
        signal.pause()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    finally:
        kafka.stop()


if __name__ == "__main__":
    main()
