"""A node on the embedded log behind the real HTTP server, in a thread of its own,
and connections made of bytes.

Laws
- All but the thread is the product's: node, protocol, uvicorn's settings, uvloop.
- A handler that waits waits for the test: `begun` tells that it runs, `release` lets it end.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple, Self

import uvicorn
import uvloop

from perdure import DurableObject, Request, Response, WebSocket
from perdure.api import server
from perdure.api.node import Node
from perdure.objects.registry import Registry
from perdure.schemas.config import Config

PATIENCE_S = 30.0  # an upper bound for what is waited for, never a pause
BODY_BYTES = 1 << 20
HEADER_BYTES = 16 * 1024
begun = Event()


class Echo(DurableObject):
    """`POST` adds one and tells count, path and size of the body; `GET` reads; the path can ask for more."""

    go: asyncio.Event  # of the loop that runs

    async def fetch(self, request: Request) -> Response:
        what = request.path.strip("/").partition("/")
        if what[0] == "wait":
            begun.set()
            await Echo.go.wait()
        elif what[0] == "status":
            return Response(status=int(what[2]))
        elif what[0] == "large":
            return Response(b"x" * int(what[2]))
        elif what[0] == "talk":
            await self.state.accept_websocket(request)
            return Response(status=101)
        count: int = await self.state.get("count", 0)
        if request.method == "POST":
            count += 1
            await self.state.put("count", count)
        body = request.body
        return Response.json({"count": count, "path": request.path, "size": len(body), "sum": sum(body)})

    async def websocket_message(self, ws: WebSocket, message: str | bytes) -> None:
        ws.send(message)


class Door:
    """A running server: `port`, and its settings, of which new connections take their time-out."""

    def __init__(self, data: Path) -> None:
        self.config = Config(
            name="direct",
            data_dir=data,
            port=0,
            partitions=2,
            limits={"body_bytes": BODY_BYTES, "header_bytes": HEADER_BYTES},
        )
        self._up = Event()
        self._thread = ThreadPoolExecutor(1)
        self._run = self._thread.submit(self._whole)
        while not self._up.wait(0.1):
            assert not self._run.done(), self._run.result()

    def _whole(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        with contextlib.closing(server.bind(self.config)) as listener:
            self.port: int = listener.getsockname()[1]
            async with Node(self.config, Registry.build({"Echo": Echo}, self.config)) as node:
                self.settings = server._settings(node, self.config, 1000)
                self.settings.app = _with_sockets(node.asgi)
                self.server = uvicorn.Server(self.settings)
                serving = asyncio.ensure_future(self.server.serve(sockets=[listener]))
                while not self.server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                    await asyncio.sleep(0.01)
                self._up.set()
                await serving

    @contextlib.contextmanager
    def keep_alive(self, seconds: float) -> Iterator[None]:
        """Connections that are made meanwhile are closed after so long an idle time."""
        before: Any = self.settings.timeout_keep_alive
        told: Any = seconds
        self.settings.timeout_keep_alive = told
        yield
        self.settings.timeout_keep_alive = before

    def release(self) -> None:
        """Let the handlers that wait go on."""
        self.loop.call_soon_threadsafe(Echo.go.set)

    def hold(self) -> None:
        """From now on handlers wait that are asked to."""
        begun.clear()
        asyncio.run_coroutine_threadsafe(_close_gate(), self.loop).result(PATIENCE_S)

    def close(self) -> None:
        self.server.should_exit = self.server.force_exit = True
        self._run.result(PATIENCE_S)
        self._thread.shutdown()


async def _close_gate() -> None:
    Echo.go = asyncio.Event()


def _with_sockets(door: Any) -> Any:
    """The door, which takes no WebSockets, with one that echoes."""

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            await door(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})

    return asgi


class Answer(NamedTuple):
    """What came back; header names as they were sent, in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Client:
    """One connection: `with Client(port) as client`."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.read = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.read.close()
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def end(self) -> None:
        """Send nothing more."""
        self.socket.shutdown(socket.SHUT_WR)

    def answer(self, *, bodiless: bool = False) -> Answer:
        """The next answer. Raises `ConnectionError` if there is none."""
        start = self.read.readline()
        if not start:
            raise ConnectionResetError("the server ended the connection")
        assert start.startswith(b"HTTP/1.1 "), start
        headers: dict[bytes, bytes] = {}
        while (line := self.read.readline().rstrip()) != b"":
            name, _, value = line.partition(b": ")
            assert name not in headers, f"{name!r} twice"
            headers[name] = value
        body = b"" if bodiless else self.read.read(int(headers.get(b"content-length", 0)))
        return Answer(int(start.split(b" ")[1]), headers, body)

    def ask(self, request: bytes, *headers: bytes, body: bytes = b"", bodiless: bool = False) -> Answer:
        self.send(asking(request, *headers, body=body))
        return self.answer(bodiless=bodiless)

    def ended(self) -> bool:
        """Wait for the end of the connection; was it there, with nothing said before?"""
        try:
            return self.read.read() == b""
        except ConnectionResetError:
            return True  # what was sent behind the end was not read


def asking(request: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    """The bytes of an HTTP/1.1 request; `request` is method and target."""
    if body:
        headers = (*headers, b"content-length: %d" % len(body))
    return b"%b HTTP/1.1\r\nhost: x\r\n%b\r\n%b" % (request, b"".join(b"%b\r\n" % h for h in headers), body)


def chunked(*chunks: bytes, end: bool = True) -> bytes:
    """Chunks of a body, and with `end` the last one."""
    return b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + (b"0\r\n\r\n" if end else b"")
