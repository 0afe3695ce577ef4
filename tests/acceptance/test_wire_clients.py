"""The clients of tests/kafka_clients, with nothing configured, at the embedded log of a server.

Each keyed call takes effect once, also where the client puts keys into partitions in a way of its own, and
each client that reads replies has an answer to each. A few clients run each time; all of them under
`PERDURE_SOAK=1`.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from confluent_kafka import Producer
from tests.acceptance.test_kafka_clients import spring
from tests.kafka import NoKafka, jars
from tests.kafka_clients import CLIENTS, PROGRAMS, Client, NoClient
from tests.process import Server, clean_environ, serve
from tests.wire_client import request

EXAMPLE = Path(__file__).parents[2] / "examples" / "counter.py"
CALLS = 40
ORDINARY = tuple(  # confluent-kafka, which brings librdkafka with it, stands for kcat
    each
    for each in CLIENTS
    if (each.name, each.version)
    in (("kafka-python", "3.0.12"), ("kafkajs", "2.2.4"), ("confluent-kafka", "2.16.1"))
    and not each.arguments
)


@pytest.fixture(scope="module", params=[12])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With 12 partitions some partitioners place keys elsewhere than Java's."""
    options = ("--kafka", "127.0.0.1:0", "--partitions", str(request.param))
    app = Path(shutil.copy(EXAMPLE, tmp_path_factory.mktemp("app")))
    with serve(app, tmp_path_factory.mktemp("data"), *options) as running:
        yield running


def through(server: Server, client: Client) -> None:
    """Call through a client, and see what became of it; skips if it cannot be had here."""
    prefix = f"c{uuid4().hex[:8]}"
    try:
        lines = client.run(server.kafka, "counter", prefix, CALLS)
    except NoClient as error:
        missing(str(error))
        return
    check(server, prefix)
    if client.reads:
        assert {line.split(" ", 2)[1] for line in lines} == {"ok"}
        assert {line.split(" ", 2)[0] for line in lines} == {f"Counter/{prefix}-{n}" for n in range(CALLS)}


def missing(why: str) -> None:
    """A client that is not there is skipped, unless all of them have to be."""
    if os.environ.get("PERDURE_REQUIRE_CLIENTS") == "1":
        pytest.fail(why)
    pytest.skip(why)


def check(server: Server, prefix: str) -> None:
    """Each counter is exactly 1: once its call has run, which may be a moment after the client has ended."""
    with httpx.Client(base_url=server.url) as http:
        for n in range(CALLS):
            for _ in range(200):
                count = http.get(f"/objects/Counter/{prefix}-{n}").json()["count"]
                if count:
                    break
            assert count == 1


@pytest.mark.parametrize("client", ORDINARY, ids=str)
def test_a_client_with_nothing_configured_works(server: Server, client: Client) -> None:
    """40 keyed calls, and the replies to them."""
    through(server, client)


@pytest.mark.soak
@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_every_client_with_nothing_configured_works(server: Server, client: Client) -> None:
    """As above, for each client of the table in docs/kafka.md."""
    through(server, client)


@pytest.mark.soak
def test_the_console_tools_of_kafka_work(server: Server) -> None:
    """Its producer, its consumer in a group, and those that show topics, groups and offsets."""
    try:
        libs = jars()
    except NoKafka as error:
        missing(str(error))
    prefix, at = f"c{uuid4().hex[:8]}", ("--bootstrap-server", server.kafka)

    def tool(name: str, *arguments: str, text: str = "") -> str:
        java = ("java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", f"{libs}/*")
        done = subprocess.run(
            [*java, name, *at, *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    properties = ("--reader-property", "parse.key=true", "--reader-property", "key.separator=|")
    lines = [f'Counter/{prefix}-{n}|{{"method":"increment","args":[1]}}\n' for n in range(CALLS)]
    tools = "org.apache.kafka.tools"
    tool(f"{tools}.ConsoleProducer", "--topic", "counter.commands", *properties, text="".join(lines))
    check(server, prefix)
    ends = ("--from-beginning", "--timeout-ms", "8000", "--group", prefix)
    keys = ("--formatter-property", "print.key=true")
    read = tool(f"{tools}.consumer.ConsoleConsumer", "--topic", "counter.replies", *ends, *keys)
    assert {line.split("\t")[0] for line in read.splitlines() if prefix in line} == {
        f"Counter/{prefix}-{n}" for n in range(CALLS)
    }
    assert "counter.journal" in tool(f"{tools}.TopicCommand", "--describe")
    assert prefix in tool(f"{tools}.consumer.group.ConsumerGroupCommand", "--list")
    assert "counter.replies" in tool(
        f"{tools}.consumer.group.ConsumerGroupCommand", "--describe", "--group", prefix
    )
    assert "counter.replies:0" in tool(f"{tools}.GetOffsetShell", "--topic", "counter.replies")


@pytest.mark.soak
def test_a_replying_template_of_spring_gets_its_answers(tmp_path: Path) -> None:
    """In a topic of its own that is allowed, and in the app's replies; errors are answers too."""
    try:
        place = spring()
    except NoClient as error:
        missing(str(error))
    shutil.copy(EXAMPLE, tmp_path / "counter.py")
    (tmp_path / "perdure.toml").write_text('name = "counter"\n[kafka]\nreply_topics = ["spring-*"]\n')
    calls = ['{"method":"increment","args":[1]}', '{"method":"increment","args":[2]}', '{"method":"none"}']
    with serve(tmp_path / "counter.py", tmp_path / "data", "--kafka", "127.0.0.1:0") as server:
        with closing(socket.create_connection(("127.0.0.1", int(server.kafka.rpartition(":")[2])))) as client:
            client.sendall(request("CreateTopics", 4, {"topics": [SPRING_REPLIES], "timeout_ms": 1}))
            assert client.recv(1 << 16)
        for topic, due in (("spring-replies", [1, 3]), ("counter.replies", [4, 6])):
            java = [
                "java",
                "-cp",
                f"{place}:{place}/libs/*",
                "Ask",
                server.kafka,
                "counter",
                topic,
                "Counter/s",
            ]
            done = subprocess.run([*java, *calls], capture_output=True, text=True, timeout=180, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
            lines = [each for each in done.stdout.splitlines() if each.startswith(("ok ", "rejected "))]
            assert lines[:2] == [f'ok {{"result":{each}}}' for each in due]
            assert "unknown-method" in lines[2]


SPRING_REPLIES = {
    "name": "spring-replies",
    "partitions": 3,
    "replication_factor": 1,
    "assignments": [],
    "configs": [],
}


@pytest.mark.soak
def test_an_agent_of_faust_reads_replies(server: Server, tmp_path: Path) -> None:
    """It creates its leader topic, joins its group and has all of them."""
    faust = Client(
        "faust-streaming", "0.15.3", "faust_agent.py", (), "", ("faust-streaming==0.15.3", "aiokafka==0.14.0")
    )
    try:
        faust.install()
    except NoClient as error:
        missing(str(error))
    prefix = f"c{uuid4().hex[:8]}"
    producer = Producer({"bootstrap.servers": server.kafka})
    for n in range(CALLS):
        producer.produce(
            "counter.commands", key=f"Counter/{prefix}-{n}", value=b'{"method":"increment","args":[1]}'
        )
    assert producer.flush(20) == 0
    python = str(Path(sys.base_prefix) / "bin" / "python3")
    environ = clean_environ(BROKER=server.kafka, APP="counter", PREFIX=prefix, COUNT=str(CALLS))
    environ["PYTHONPATH"] = os.pathsep.join([str(faust.place / "site"), str(PROGRAMS)])
    worker = [python, "-m", "faust", "-A", "faust_agent", "worker", "-l", "warn"]
    done = subprocess.run(
        worker, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
