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

from tests.acceptance.harness import SOAK, deploy, port_of
from tests.acceptance.systems import EXAMPLES
from tests.acceptance.wire import PATIENCE_S, Wire
from tests.process import Server

SOCKETS = 10_000 if SOAK else 1_000
STORMS = 5 if SOAK else 3
AT_ONCE = 200  # handshakes under way
LONG_S = 600.0 if SOAK else PATIENCE_S
MIB = 1 << 20
HANDSHAKE = (
    "GET /objects/Echo/{} HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
Socket = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def _allow(files: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, files)), hard))


@asynccontextmanager
async def connected(port: int, count: int) -> AsyncIterator[list[Socket]]:
    """So many WebSockets to 100 objects; at the end they are cut, without a close."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> Socket:
        async with turn:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(HANDSHAKE.format(f"room{number % 100}").encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 "), head
            return reader, writer

    sockets = await asyncio.gather(*(one(number) for number in range(count)))
    try:
        yield list(sockets)
    finally:
        for _, writer in sockets:
            writer.transport.abort()


async def echoed(socket: Socket, number: int) -> None:
    """A message of four bytes goes there and back."""
    reader, writer = socket
    data = struct.pack(">I", number)
    writer.write(b"\x82\x84\0\0\0\0" + data)  # binary, masked with zeros
    assert await reader.readexactly(6) == b"\x82\x04" + data


async def _metric(wire: Wire, name: str) -> int:
    text = (await wire.ask("GET", "/metrics")).body.decode()
    return int(sum(map(float, re.findall(rf"^perdure_{name}(?:{{.*}})? (.*)$", text, re.MULTILINE))))


async def _all_gone(wire: Wire) -> None:
    """The door has no socket, and each object was told of all its ends."""
    while await _metric(wire, "websockets") or await _metric(wire, "undone_commands"):  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.02)


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_a_thousand_sockets_come_go_and_come_back_without_a_trace(tmp_path: Path) -> None:
    """1,000 (10,000 in the soak) at once all echo; cut and back again and again, memory and files do not grow."""
    _allow(SOCKETS + 500)
    deployment = deploy(tmp_path, app=EXAMPLES / "echo.py")
    with deployment.serve() as server:
        asyncio.run(_storms(server))
        assert server.stop() == 0, server.stderr()
        assert "Traceback" not in server.stderr()
    deployment.verify()


async def _storms(server: Server) -> None:
    async with asyncio.timeout(LONG_S), Wire(port_of(server)) as wire:
        files, rss_bytes = _files(server.pid), []
        for storm in range(STORMS):
            async with connected(port_of(server), SOCKETS) as sockets:
                assert await _metric(wire, "websockets") == SOCKETS
                await asyncio.gather(*(echoed(each, storm + n) for n, each in enumerate(sockets)))
            await _all_gone(wire)
            rss_bytes.append(_rss_bytes(server.pid))
        assert _files(server.pid) <= files + 10
    grown = rss_bytes[-1] - rss_bytes[0]
    assert grown < (STORMS - 1) * SOCKETS * 4096 + 8 * MIB, [each // MIB for each in rss_bytes]
