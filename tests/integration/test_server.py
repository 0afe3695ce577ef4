"""The server alone: a process with a small ASGI app where the node would be, over
real sockets and signals.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from perdure.api.protocol.http import PROBES, SPARE_CONNECTIONS

# A node's outside: answers at once, answers when told to, stops itself when told to.
PROGRAM = """
import asyncio, os, sys
from perdure.api import server
from perdure.api.protocol.http import HttpProtocol
from perdure.schemas.config import Config
from perdure.schemas.errors import StorageFailed

class Node:
    def __init__(self):
        self.stopped = asyncio.get_running_loop().create_future()
        self.release = asyncio.Event()
        asyncio.get_running_loop().add_reader(0, self.release.set)

    def begin_leaving(self):
        pass

    async def __aenter__(self):
        if "--hang" in sys.argv:
            print("-1", flush=True)
            try:
                await asyncio.Event().wait()
            finally:
                if "--slow" in sys.argv:
                    print("closing", flush=True)
                    await self.release.wait()
                    print("closed", flush=True)
        self.asgi, self.http = self.answer, HttpProtocol

    async def __aexit__(self, *_):
        print("closed", flush=True)

    async def answer(self, scope, receive, send):
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            return
        while (await receive()).get("more_body"):
            pass
        if scope["path"] == "/wait":
            print("waiting", flush=True)
            await self.release.wait()
        elif scope["path"] == "/fail":
            self.stopped.set_result(StorageFailed("disk of /data is full; make room and start again"))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

config = Config(port=int(sys.argv[1]), limits={"header_bytes": 1024})
reason = server.run(Node, config, ready=lambda port: print(port, flush=True))
print("reason", reason, flush=True)
sys.exit(70 if reason else 0)
"""


class Served:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.port = int(self.line())
        self.url = f"http://127.0.0.1:{self.port}"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> tuple[int, str]:
        """Exit code and what was still printed."""
        out, err = self.process.communicate(timeout=20)
        assert "Traceback" not in err, err
        return self.process.returncode, out


@contextlib.contextmanager
def served(*arguments: str, port: int = 0, **options: object) -> Iterator[Served]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(port), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )
    try:
        yield Served(process)
    finally:
        process.kill()
        process.communicate()


def test_a_signal_lets_requests_in_flight_finish() -> None:
    """SIGTERM refuses new connections, waits for the answer under way, closes the node, and exits 0."""
    with served() as server, socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
        assert server.line() == "waiting"
        with httpx.Client() as other:
            other.get(server.url)  # a connection from before, still open
            server.process.send_signal(signal.SIGTERM)
            while True:  # until the listening socket is closed
                try:
                    socket.create_connection(("127.0.0.1", server.port)).close()
                except ConnectionError:
                    break
            assert server.process.poll() is None
        assert server.process.stdin is not None
        server.process.stdin.close()  # lets the request go on
        assert connection.makefile("rb").read().endswith(b"connection: close\r\n\r\nok")
        server.process.stdin = None
        assert server.end() == (0, "closed\nreason None\n")


def test_a_signal_before_the_node_is_ready_ends_it() -> None:
    """A start that takes long (a replay) can be interrupted, cleanly."""
    with served("--hang") as server:
        server.process.send_signal(signal.SIGINT)
        assert server.end() == (0, "reason None\n")


@pytest.mark.parametrize("again", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_during_start_does_not_disturb_the_end(again: signal.Signals) -> None:
    """What the start had opened is closed to the end."""
    with served("--hang", "--slow") as server:
        server.process.send_signal(signal.SIGTERM)
        assert server.line() == "closing"
        server.process.send_signal(again)
        assert server.process.stdin is not None
        server.process.stdin.close()
        server.process.stdin = None
        assert server.end() == (0, "closed\nreason None\n")


def test_a_second_interrupt_does_not_wait_for_requests() -> None:
    """The node is closed all the same; a second SIGTERM, as from a supervisor, changes nothing."""
    with served() as server, socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
        assert server.line() == "waiting"
        for sig in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            assert server.process.poll() is None
            server.process.send_signal(sig)
            with contextlib.suppress(ConnectionError):
                while True:  # until the listening socket is closed: the signal has arrived
                    socket.create_connection(("127.0.0.1", server.port)).close()
        assert server.end() == (0, "closed\nreason None\n")


def test_a_node_that_stops_itself_ends_the_process_with_its_reason() -> None:
    """Nothing is waited for once the node says it cannot go on."""
    with served() as server, socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
        assert server.line() == "waiting"
        httpx.get(f"{server.url}/fail")
        code, out = server.end()
        assert code == 70
        assert "reason disk of /data is full" in out


def test_a_sleeping_websocket_is_closed_as_going_away() -> None:
    """SIGTERM closes sockets with 1012, service restart."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    with served() as server, connect(f"ws://127.0.0.1:{server.port}/") as client:
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=10)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1012
        assert server.end()[0] == 0


def test_a_response_is_one_segment() -> None:
    """Head and body of a small response arrive together, without server and date headers."""
    with served() as server, socket.create_connection(("127.0.0.1", server.port)) as connection:
        for _ in range(2):
            connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx")
            assert connection.recv(65536) == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def test_an_endless_head_is_refused() -> None:
    """A head above the limit gets a 431 and the connection ends; the server goes on."""
    with served() as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nx: " + b"y" * 2000)
            answer = connection.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 431 ")
        assert httpx.get(server.url).text == "ok"


def test_connections_are_bounded_by_the_files_there_are() -> None:
    """Above the limit a connection is told 503 and closed, but for those few that ask how the server is.

    When others end there is room again.
    """
    limit = 300  # open files: the server keeps 256, or half, for itself
    program = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n{PROGRAM}"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        server = Served(process)
        address = ("127.0.0.1", server.port)
        with contextlib.ExitStack() as stack:
            for _ in range(limit // 2):
                connection = stack.enter_context(socket.create_connection(address))
                connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
            assert httpx.get(server.url).status_code == 503
            assert httpx.post(f"{server.url}/objects/A/a", content=b"x" * 100_000).status_code == 503
            for path in PROBES:
                told = httpx.get(f"{server.url}{path.decode()}?x")
                assert (told.status_code, told.headers["connection"]) == (200, "close")
            for _ in range(SPARE_CONNECTIONS):
                stack.enter_context(socket.create_connection(address)).sendall(b"GET /livez HTTP/1.1\r\n")
            assert httpx.get(f"{server.url}/livez").status_code == 503
        with httpx.Client(transport=httpx.HTTPTransport(retries=3)) as client:
            while client.get(server.url).status_code != 200:  # until the server has seen them go
                pass
    finally:
        process.kill()
        process.communicate()


def test_a_port_in_use_is_told_before_anything_is_opened() -> None:
    """The second server on one port fails without touching its node, naming port and remedy."""
    with served() as server:
        second = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(server.port)], capture_output=True, text=True, check=False
        )
        assert second.returncode == 1
        assert f"OperatorError: port {server.port} on 127.0.0.1 is in use" in second.stderr
        assert second.stdout == ""
