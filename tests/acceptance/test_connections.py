"""Many WebSockets at once, and all of them gone and back again: nothing of them is left behind."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from tests.acceptance.harness import SOAK, deploy, port_of
from tests.acceptance.systems import EXAMPLES
from tests.acceptance.wire import PATIENCE_S, ask
from tests.process import Server

SOCKETS = 10_000 if SOAK else 1_000
STORMS = 5 if SOAK else 3
CONNECTIONS = 1_000  # with more the first would have been closed for their idleness
AT_ONCE = 200  # handshakes under way
LONG_S = 600.0 if SOAK else PATIENCE_S
MIB = 1 << 20
LEFT_BYTES = 8192  # of each socket: its commands and entries, in the log's buffers until they are written out
HANDSHAKE = (
    "GET /objects/Echo/{} HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
PONG = b"\x8a\x80\0\0\0\0"


class Client(asyncio.Protocol):
    """One WebSocket with short messages; it answers pings, and costs little."""

    def __init__(self) -> None:
        self._buffer = b""
        self.frames: asyncio.Queue[bytes] = asyncio.Queue()
        self.open: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self.open.done():
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            assert head.startswith(b"HTTP/1.1 101 "), head
            self._buffer = rest
            self.open.set_result(None)
        while len(self._buffer) >= 2 and len(self._buffer) >= 2 + self._buffer[1]:
            size = 2 + self._buffer[1]
            frame, self._buffer = self._buffer[:size], self._buffer[size:]
            if frame[0] == 0x89:
                self.transport.write(PONG)
            else:
                self.frames.put_nowait(frame)

    async def echoed(self, number: int) -> None:
        """A message of four bytes goes there and back."""
        data = struct.pack(">I", number)
        self.transport.write(b"\x82\x84\0\0\0\0" + data)  # binary, masked with zeros
        assert await self.frames.get() == b"\x82\x04" + data


def _allow(files: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, files)), hard))


@asynccontextmanager
async def connected(port: int, count: int) -> AsyncIterator[list[Client]]:
    """So many WebSockets to 100 objects; at the end they are cut, without a close."""
    turn, loop = asyncio.Semaphore(AT_ONCE), asyncio.get_running_loop()

    async def one(number: int) -> Client:
        async with turn:
            transport, client = await loop.create_connection(Client, "127.0.0.1", port)
            transport.write(HANDSHAKE.format(f"room{number % 100}").encode())
            await client.open
            return client

    clients = await asyncio.gather(*(one(number) for number in range(count)))
    try:
        yield list(clients)
    finally:
        for client in clients:
            client.transport.abort()


async def _metric(port: int, name: str) -> int:
    text = (await ask(port, "GET", "/metrics")).body.decode()
    (told,) = re.findall(rf"^perdure_{name} (.*)$", text, re.MULTILINE)
    return int(float(told))


async def _undone(port: int) -> int:
    text = (await ask(port, "GET", "/metrics")).body.decode()
    return int(sum(map(float, re.findall(r"^perdure_undone_commands{.*} (.*)$", text, re.MULTILINE))))


async def _all_gone(port: int) -> None:
    """The door has no socket, and each object was told of all its ends."""
    while await _metric(port, "websockets") or await _undone(port):  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.02)


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_a_thousand_sockets_come_go_and_come_back_without_a_trace(tmp_path: Path) -> None:
    """1,000 (10,000 in the soak) at once all echo; cut and back again and again,
    memory and files do not grow.
    """
    _allow(SOCKETS + 500)
    deployment = deploy(tmp_path, app=EXAMPLES / "echo.py")
    with deployment.serve() as server:
        asyncio.run(_storms(server))
        assert server.stop() == 0, server.stderr()
        assert "Traceback" not in server.stderr()
    deployment.verify()


async def _storms(server: Server) -> None:
    port = port_of(server)
    async with asyncio.timeout(LONG_S):
        files, rss_bytes = _files(server.pid), []
        for storm in range(STORMS):
            async with connected(port, SOCKETS) as clients:
                assert await _metric(port, "websockets") == SOCKETS
                await asyncio.gather(*(client.echoed(storm + n) for n, client in enumerate(clients)))
            await _all_gone(port)
            rss_bytes.append(_rss_bytes(server.pid))
        assert _files(server.pid) <= files + 10
    grown = rss_bytes[-1] - rss_bytes[0]
    assert grown < 4 * MIB + (STORMS - 1) * SOCKETS * LEFT_BYTES, [each // MIB for each in rss_bytes]


class Idle(asyncio.Protocol):
    """A connection that asks for its counter once in a while, and is quiet in between."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._buffer = b""
        self._answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if end and len(body) == int(re.findall(rb"content-length: (\d+)", head)[0]):
            self._buffer = b""
            self._answered.set_result(head.partition(b" ")[2][:3] + b" " + body)

    async def ask(self, number: int) -> bytes:
        """One more for counter `number`: status and body."""
        self._answered = asyncio.get_running_loop().create_future()
        self.transport.write(b"POST /objects/Counter/c%d HTTP/1.1\r\nhost: x\r\n\r\n" % number)
        return await self._answered


def test_a_thousand_open_connections_leave_the_server_as_it_was(tmp_path: Path) -> None:
    """1,000 connections at once, each answered; `/livez` answers beside them."""
    _allow(CONNECTIONS + 500)
    deployment = deploy(tmp_path, app=EXAMPLES / "counter.py")
    with deployment.serve() as server:
        asyncio.run(_idle(port_of(server)))
        assert server.stop() == 0, server.stderr()
    deployment.verify()


async def _idle(port: int) -> None:
    turn, loop = asyncio.Semaphore(AT_ONCE), asyncio.get_running_loop()

    async def one(number: int) -> asyncio.Transport:
        async with turn:
            transport, client = await loop.create_connection(Idle, "127.0.0.1", port)
            assert await client.ask(number) == b'200 {"count":1}'
            return cast("asyncio.Transport", transport)

    async with asyncio.timeout(LONG_S):
        transports = await asyncio.gather(*(one(number) for number in range(CONNECTIONS)))
        assert (await ask(port, "GET", "/livez")).status == 200
        assert (await ask(port, "POST", "/objects/Counter/c0")).json == {"count": 2}
        for transport in transports:
            transport.abort()
