"""The container of the tests' Kafka, started at a Docker engine that is played by this test.

What an engine would be asked for is compared: an image with Kafka 4, of a version that is named, as one
broker that needs no others. No container runs.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ID, PORT = "c0ffee" * 10, 45678
ROOT = Path(__file__).parents[2]
START = "from tests.kafka import ContainerKafka as K; k = K(); print(k.bootstrap); k.stop()"


class Engine(BaseHTTPRequestHandler):
    """A Docker engine with one container, whose broker has started as soon as its script is there."""

    protocol_version = "HTTP/1.1"
    created: list[dict[str, Any]]
    requests: list[str]
    script: list[str]

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing on stderr."""

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while (size := int(self.rfile.readline(), 16)) > 0:
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        path = re.sub(r"^/v[\d.]+", "", self.path).partition("?")[0]
        self.requests.append(f"{self.command} {path}")
        data, kind = self.response(path, body)
        self.send_response(201 if path == "/containers/create" else 204 if data is None else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        self.wfile.write(data or b"")

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer

    def response(self, path: str, body: bytes) -> tuple[bytes | None, str]:
        if path == "/_ping":
            return b"OK", "text/plain"
        if path == "/version":
            return json.dumps({"ApiVersion": "1.43", "Version": "24.0"}).encode(), "application/json"
        if path == "/containers/create":
            self.created.append(json.loads(body))
            return json.dumps({"Id": ID, "Warnings": []}).encode(), "application/json"
        if path == f"/containers/{ID}/archive":
            with tarfile.open(fileobj=io.BytesIO(body)) as archive:
                member = archive.extractfile(archive.getmembers()[0])
                assert member is not None
                self.script.append(member.read().decode())
            return b"", "text/plain"
        if path == f"/containers/{ID}/logs":
            return (b"Kafka Server started\n" if self.script else b""), "text/plain"
        if path == f"/containers/{ID}/json":
            mapped = {"9093/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(PORT)}]}
            state = {"Status": "running", "Running": True, "ExitCode": 0}
            about = {"Id": ID, "Name": "/kafka", "State": state, "NetworkSettings": {"Ports": mapped}}
            return json.dumps(
                about | {"Config": {"Tty": True, "Image": "x"}, "Image": "x"}
            ).encode(), "application/json"
        if path.startswith("/images/"):
            return json.dumps({"Id": "x", "RepoTags": ["x"]}).encode(), "application/json"
        return None, "text/plain"


@pytest.fixture
def engine() -> Iterator[tuple[str, type[Engine]]]:
    class Fresh(Engine):
        created: list[dict[str, Any]] = []  # noqa: RUF012 - of this engine alone
        requests: list[str] = []  # noqa: RUF012
        script: list[str] = []  # noqa: RUF012

    server = ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"tcp://127.0.0.1:{server.server_address[1]}", Fresh
    server.shutdown()
    server.server_close()


def test_the_container_is_one_broker_of_kafka_4(engine: tuple[str, type[Engine]]) -> None:
    """It is started, found by its mapped port, and removed."""
    address, played = engine
    environ = {
        "DOCKER_HOST": address,
        "TESTCONTAINERS_RYUK_DISABLED": "true",
        "TESTCONTAINERS_CONNECTION_MODE": "docker_host",  # also where the tests run in a container
        "HOME": "/nonexistent",
        "PATH": "",  # no Maven: the jars of the console tools are not what is tested
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-c", START],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{played.requests} {done.stderr}"
    assert done.stdout.strip() == f"127.0.0.1:{PORT}"
    (created,) = played.created
    image, _, tag = created["Image"].partition(":")
    assert image == "confluentinc/cp-kafka"
    assert int(tag.partition(".")[0]) >= 8, "Confluent's 8 is Kafka 4"
    settings = dict(each.split("=", 1) for each in created["Env"])
    assert settings["KAFKA_PROCESS_ROLES"] == "broker,controller"
    assert settings["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    one_replica = [name for name in settings if "REPLICATION_FACTOR" in name or name.endswith("_MIN_ISR")]
    assert {settings[name] for name in one_replica} == {"1"}
    assert {"KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR"} <= {
        *one_replica
    }
    assert f"PLAINTEXT://127.0.0.1:{PORT}" in played.script[0]
    assert "ZOOKEEPER_CONNECT/d" in played.script[0]
    assert f"DELETE /containers/{ID}" in played.requests
