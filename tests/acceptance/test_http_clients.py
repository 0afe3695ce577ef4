"""HTTP clients that people have, as they are when nothing is configured: Java's, curl, Node's, Go's.

Several of them offer HTTP/2 by `Upgrade` with a request that has a body. Each program of `clients/` asks the
same things, and prints method, status and body of each answer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.process import Server, serve

CLIENTS = Path(__file__).with_name("clients")
LARGE_BYTES = 300_000
PATIENCE_S = 300
APP = """
from perdure import DurableObject, Request, Response, WebSocket

class Counter(DurableObject):
    async def add(self, by: int) -> int:
        count = await self.state.get("count", 0) + by
        await self.state.put("count", count)
        return count

    async def fetch(self, request: Request) -> Response:
        if request.path == "/talk":
            await self.state.accept_websocket(request)
            return Response.upgrade()
        assert "upgrade" not in request.headers, "an offer is not the object's business"
        return Response.json(len(request.body))

    async def websocket_message(self, ws: WebSocket, message: str | bytes) -> None:
        ws.send(message)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("clients")
    (place / "app.py").write_text(APP)
    with serve(place / "app.py", place / "data") as server:
        yield server
        assert server.stop() == 0
        assert "Traceback" not in server.stderr()


def tool(name: str) -> str:
    """Where a tool is. Without it the test is skipped, or fails under `PERDURE_REQUIRE_CLIENTS=1`."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("PERDURE_REQUIRE_CLIENTS") == "1":
            pytest.fail(f"PERDURE_REQUIRE_CLIENTS=1, but there is no {name} on the PATH")
        pytest.skip(f"there is no {name} on the PATH")
    return found


def run(command: list[str], environ: dict[str, str] | None = None) -> list[str]:
    """The lines that a program prints."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, env=environ, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def expected(name: str) -> list[str]:
    """What each client is answered, with an object of its own."""
    return [
        'POST 200 {"result":5}',
        'POST 200 {"result":10}',
        f"POST 200 {LARGE_BYTES}",
        f"POST 200 {LARGE_BYTES}",
        "PUT 200 0",
        f'POST 200 {{"paused":"Counter/{name}"}}',
        f'POST 200 {{"resumed":"Counter/{name}"}}',
        'GET 200 {"status":"alive"}',
        *(f'POST 200 {{"result":{result}}}' for result in (15, 20, 25, 30)),
    ]


def test_javas_client_is_served_whole(server: Server) -> None:
    """`HttpClient` as it is made: it offers h2c; with sizes and with chunks; and its WebSocket."""
    java = tool("java")
    tool("javac")  # a program is run from its source
    lines = run([java, "-Xshare:auto", str(CLIENTS / "Client.java"), server.url])
    assert lines == [*expected("java"), "WebSocket hello"]


def test_curl_is_served_whole(server: Server, tmp_path: Path) -> None:
    """With `--http2` and without, `Expect`, HTTP/1.0."""
    tool("curl")
    large = tmp_path / "large"
    large.write_bytes(bytes(LARGE_BYTES))
    lines = run([tool("bash"), str(CLIENTS / "client.sh"), server.url, str(large)])
    assert lines == expected("curl")


def test_node_is_served_whole(server: Server) -> None:
    """`fetch` and `http`, streams, agents, and an offer as a proxy may add it."""
    assert run([tool("node"), str(CLIENTS / "client.mjs"), server.url]) == expected("node")


def test_go_is_served_whole(server: Server, tmp_path: Path) -> None:
    """`net/http`, with sizes and with chunks, and an offer."""
    environ = {**os.environ, "GOTOOLCHAIN": "local", "GOPROXY": "off", "GOFLAGS": "", "GO111MODULE": "off"}
    lines = run([tool("go"), "run", str(CLIENTS / "client.go"), server.url], environ)
    assert lines == expected("go")
