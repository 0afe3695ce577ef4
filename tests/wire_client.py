"""A Kafka listener over a real embedded log without owners, and a client that speaks the protocol frame by
frame.

What the client encodes is checked against another implementation in tests/unit/test_wire_codec.py.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import google_crc32c

from perdure.streams.log.base import LogRecord
from perdure.streams.log.embedded.client_access import ClientAccess
from perdure.streams.log.embedded.log import EmbeddedLog
from perdure.streams.wire.batches import CRC_FROM, HEAD, write_batch
from perdure.streams.wire.codec import FrameReader, Message, read, write
from perdure.streams.wire.listener import KafkaListener
from perdure.streams.wire.requests import APIS

APP = "app"
COMMANDS, REPLIES, JOURNAL = f"{APP}.commands", f"{APP}.replies", f"{APP}.journal"
NAMES = {api.name: api for api in APIS.values()}


def batch(
    *values: bytes,
    producer: int = -1,
    epoch: int = -1,
    sequence: int = -1,
    key: bytes | None = b"K/a",
    header: tuple[str, bytes] = ("h", b"x"),
) -> bytes:
    """A batch as a client sends it."""
    records = [LogRecord(n, 1_000, key, value, (header,)) for n, value in enumerate(values)]
    data = bytearray(write_batch(records))
    head = list(HEAD.unpack_from(data))
    head[9:12] = producer, epoch, sequence
    HEAD.pack_into(data, 0, *head)
    head[4] = google_crc32c.value(bytes(data[CRC_FROM:]))
    HEAD.pack_into(data, 0, *head)
    return bytes(data)


def request(name: str, version: int, message: Message, number: int = 1) -> bytes:
    """The frame of a request, with its length."""
    api = NAMES[name]
    out = bytearray(api.key.to_bytes(2, "big") + version.to_bytes(2, "big"))
    out += number.to_bytes(4, "big") + b"\x00\x04test"
    if version >= api.flexible:
        out.append(0)
    write(api.request, version, version >= api.flexible, out, message)
    return len(out).to_bytes(4, "big") + out


class Client:
    """A connection to a listener."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._correlation = 0

    def send(self, name: str, version: int, message: Message) -> int:
        """Send a request; returns its number."""
        self._correlation += 1
        self.raw(request(name, version, message, self._correlation))
        return self._correlation

    def raw(self, data: bytes) -> None:
        self._writer.write(data)

    async def receive(self, name: str, version: int) -> tuple[int, Message]:
        """The next response: the number of its request, and what it says."""
        size = int.from_bytes(await self._reader.readexactly(4), "big")
        reader = FrameReader(await self._reader.readexactly(size))
        correlation, api = reader.integer("int32"), NAMES[name]
        if version >= api.flexible and name != "ApiVersions":
            reader.skip_tags()
        return correlation, read(api.response, version, version >= api.flexible, reader)

    async def ask(self, name: str, version: int, **message: Any) -> Message:
        """The response to one request."""
        number = self.send(name, version, message)
        correlation, response = await self.receive(name, version)
        assert correlation == number
        return response

    async def is_closed(self) -> bool:
        """Wait until the listener has closed the connection; False if it sends something first."""
        try:
            return await self._reader.read(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self._writer.close()

    async def produce(
        self, data: bytes, topic: str = COMMANDS, partition: int = 0, acks: int = -1, version: int = 8
    ) -> Message:
        """The result of one batch."""
        partitions = [{"index": partition, "records": data}]
        topics = [{"name": topic, "partitions": partitions}]
        response = await self.ask("Produce", version, acks=acks, timeout_ms=1000, topics=topics)
        result: Message = response["topics"][0]["partitions"][0]
        return result

    async def fetch(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        version: int = 12,
        wait_ms: int = 0,
        max_bytes: int = 1 << 20,
    ) -> Message:
        """One partition of a fetch response."""
        response = await self.ask("Fetch", version, **fetch_of(topic, partition, offset, wait_ms, max_bytes))
        assert response["session_id"] in (0, None)
        result: Message = response["topics"][0]["partitions"][0]
        return result


def fetch_of(topic: str, partition: int, offset: int, wait_ms: int = 0, max_bytes: int = 1 << 20) -> Message:
    """A request for one partition."""
    wanted = {"index": partition, "current_leader_epoch": 0, "offset": offset, "max_bytes": max_bytes}
    return {
        "replica_id": -1,
        "max_wait_ms": wait_ms,
        "min_bytes": 1,
        "max_bytes": 1 << 20,
        "isolation": 1,
        "topics": [{"name": topic, "partitions": [wanted]}],
    }


class Listening:
    """A listener, its log and its port."""

    def __init__(self, log: EmbeddedLog, listener: KafkaListener, port: int) -> None:
        self.log = log
        self.listener = listener
        self.port = port
        self._clients: list[Client] = []

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self._clients.append(client)
        return client

    def close_clients(self) -> None:
        for client in self._clients:
            client.close()


@asynccontextmanager
async def listening(folder: Path, partitions: int = 2, **options: Any) -> AsyncIterator[Listening]:
    """A listener on a free port, over the log in `folder`."""
    options = {"clock_ms": lambda: 1_700_000_000_000, "keep_ms": None} | options
    log = EmbeddedLog(folder / "log", partitions, clock_ms=options["clock_ms"])
    log.on_stopped = lambda error: None
    await log.start()
    try:
        listener = KafkaListener(APP, ClientAccess(log), **options)
        place = socket.socket()
        place.bind(("127.0.0.1", 0))
        place.setblocking(False)
        port = place.getsockname()[1]
        await listener.start(place)
        one = Listening(log, listener, port)
        try:
            yield one
        finally:
            one.close_clients()
            await listener.close()
    finally:
        await log.close()


def run(folder: Path, test: Callable[[Listening], Awaitable[None]], **options: Any) -> None:
    """Run a test with a listener."""

    async def main() -> None:
        async with asyncio.timeout(60), listening(folder, **options) as one:
            await test(one)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition of the listener."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the listener has no event for a test
            await asyncio.sleep(0.01)
