"""Mutated frames at the Kafka listener and the HTTP door of a server: it goes on, does not grow, and serves
its other clients.

Every frame begins as a valid request of a random kind and version; bytes of it are changed, cut off, doubled
or lied about. Ten thousand of them under `PERDURE_SOAK=1`, fewer otherwise; each run of a number is the same.
"""

from __future__ import annotations

import os
import socket
from contextlib import closing, suppress
from pathlib import Path
from random import Random

import httpx
from tests.process import Server, serve
from tests.unit.test_wire_codec import VERSIONS, example
from tests.wire_client import batch

from perdure.streams.wire.codec import write
from perdure.streams.wire.requests import APIS

EXAMPLE = Path(__file__).parents[2] / "examples" / "counter.py"
SOAK = os.environ.get("PERDURE_SOAK") == "1"
FRAMES, REQUESTS = (10_000, 10_000) if SOAK else (600, 200)
GROWTH_KIB = 64 * 1024
TOPICS = ("counter.commands", "counter.journal", "counter.replies", "mine")
INTERESTING = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)


def named(message: object, random: Random) -> object:
    """A message that means something here more often: topics that exist, batches that can be read."""
    if isinstance(message, list):
        return [named(each, random) for each in message]
    if isinstance(message, dict):
        return {
            name: random.choice(TOPICS)
            if name == "name" and random.random() < 0.7
            else batch(b'{"method":"increment"}', producer=random.choice((-1, 5)), epoch=0, sequence=0)
            if name == "records" and random.random() < 0.7
            else named(value, random)
            for name, value in message.items()
        }
    return message


def frame(random: Random) -> bytes:
    """A valid request, with its length."""
    key, version = random.choice(VERSIONS)
    api = APIS[key]
    message = named(example(api.request, "", version, random), random)
    assert isinstance(message, dict)
    if "max_wait_ms" in message:
        message["max_wait_ms"] = 1
    out = bytearray(key.to_bytes(2, "big") + version.to_bytes(2, "big") + bytes(4) + b"\x00\x04fuzz")
    if version >= api.flexible:
        out.append(0)
    write(api.request, version, version >= api.flexible, out, message)
    return len(out).to_bytes(4, "big") + out


def mutated(data: bytes, random: Random, *, framed: bool = True) -> bytes:
    """The data with something wrong with it; some stays as it is. `framed`: its length comes first."""
    changed = bytearray(data)
    for _ in range(random.randrange(4)):
        at = random.randrange(len(changed))
        match random.randrange(5):
            case 0:
                changed[at] = random.choice((*INTERESTING, random.randrange(256)))
            case 1:
                del changed[at : at + random.randrange(1, 9)]
            case 2:
                changed[at:at] = random.randbytes(random.randrange(1, 9))
            case 3:
                changed[at : at + 4] = random.choice((b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", bytes(4)))
            case 4:
                del changed[at:]
        if not changed:
            break
    if (
        framed and random.random() < 0.8 and len(changed) > 8
    ):  # mostly its length fits, so that what is behind it is read
        changed[:4] = (len(changed) - 4).to_bytes(4, "big")
    return bytes(changed)


def memory_kib(server: Server) -> int:
    """The server's memory."""
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def connect(server: Server) -> socket.socket:
    host, _, port = server.kafka.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def request(random: Random) -> bytes:
    """A valid HTTP request."""
    path = random.choice(("/rpc/Counter/m/increment", "/objects/Counter/m", "/readyz", "/admin", "/metrics"))
    body = random.choice((b"", b"{}", b'{"args": [1]}', b'{"args": [], "kwargs": {"by": 2}}', b"[" * 50))
    head = [f"{random.choice(('GET', 'POST', 'HEAD', 'OPTIONS'))} {path} HTTP/1.1", "host: x"]
    head += random.sample(
        ["content-type: application/json", "idempotency-key: k", "connection: close", "expect: 100-continue"],
        2,
    )
    if random.random() < 0.2:
        chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        return "\r\n".join([*head, "transfer-encoding: chunked", "", ""]).encode() + chunked
    return "\r\n".join([*head, f"content-length: {len(body)}", "", ""]).encode() + body


def is_served(client: socket.socket) -> bool:
    """True if another connection is answered."""
    client.sendall(b"\x00\x00\x00\x0e\x00\x12\x00\x00\x00\x00\x00\x05\x00\x04test")
    return client.recv(4096)[4:8] == b"\x00\x00\x00\x05"


def send(client: socket.socket, data: bytes) -> None:
    """All of it, and no more; read whatever comes until the server has closed the connection."""
    with closing(client), suppress(OSError):
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(10)
        while client.recv(1 << 16):
            pass


def test_mutated_requests_at_the_http_door_harm_no_one(tmp_path: Path) -> None:
    """As frames of Kafka."""
    random = Random(5)
    with serve(EXAMPLE, tmp_path / "data") as server:
        start_kib, address = 0, ("127.0.0.1", int(server.url.rpartition(":")[2]))
        for number in range(REQUESTS):
            data = mutated(request(random), random, framed=False)
            send(socket.create_connection(address, timeout=20), data)
            if number == REQUESTS // 4:
                start_kib = memory_kib(server)
        end_kib = memory_kib(server)
        print(f"{REQUESTS} requests: from {start_kib} to {end_kib} KiB")
        assert end_kib < start_kib + GROWTH_KIB
        url = f"{server.url}/rpc/Counter/a/increment"
        assert httpx.post(url, json={"args": [1]}).json() == {"result": 1}
        assert server.stop() == 0, server.stderr()
        assert "failed inside perdure" not in server.stderr()


def test_mutated_frames_harm_no_one(tmp_path: Path) -> None:
    """The server and its other connections go on, its memory stays, and it stops cleanly."""
    random = Random(4)
    with (
        serve(EXAMPLE, tmp_path / "data", "--kafka", "127.0.0.1:0") as server,
        closing(connect(server)) as other,
    ):
        start_kib = 0
        for number in range(FRAMES):
            send(connect(server), mutated(frame(random), random))
            if number % 50 == 0:
                assert is_served(other)
            if number == FRAMES // 4:
                start_kib = memory_kib(server)
        assert is_served(other)
        end_kib = memory_kib(server)
        print(f"{FRAMES} frames: from {start_kib} to {end_kib} KiB")
        assert end_kib < start_kib + GROWTH_KIB
        url = f"{server.url}/rpc/Counter/a/increment"
        assert httpx.post(url, json={"args": [1]}).json() == {"result": 1}
        assert server.stop() == 0, server.stderr()
        assert "failed inside perdure" not in server.stderr()
        assert "could not be answered" not in server.stderr()
