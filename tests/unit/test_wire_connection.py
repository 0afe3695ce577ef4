"""Connections to the Kafka listener: what is malformed, too large, slow or idle closes one connection, and no
other.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.wire_client import COMMANDS, REPLIES, Listening, batch, fetch_of, run, until

from perdure.streams.log.base import Record, Topic, durable
from perdure.streams.wire import connection, listener
from perdure.streams.wire.requests import fetch


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00\x00\x00" + bytes(8),
        b"\x00\x00\x00\x07" + bytes(8),
        b"\xff\xff\xff\xff" + bytes(8),
        b"\x7f\xff\xff\xff\x00\x03\x00\x00",
        b"\x00\x10\x00\x01\x00\x03\x00\x00",
        b"\x01\x00\x00\x01\x00\x00\x00\x00",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00\x00\x00\x08\x00\x63\x00\x00\x00\x00\x00\x00",
        b"\x00\x00\x00\x08\x00\x03\x00\x63\x00\x00\x00\x00",
        b"\x00\x00\x00\x0c\x00\x03\x00\x01\x00\x00\x00\x01\xff\xff\x7f\xff",
        b"\x00\x00\x00\x0c\x00\x03\x00\x01\x00\x00\x00\x01\x7f\xff\x00\x00",
    ],
    ids=[
        "of 0 bytes",
        "shorter than a header",
        "of a negative size",
        "of 2 GB",
        "of 1 MB and a byte",
        "produce of 16 MB and a byte",
        "HTTP",
        "TLS",
        "unknown kind",
        "unknown version",
        "cut off in a field",
        "a name longer than the frame",
    ],
)
def test_a_frame_that_cannot_be_read_closes_its_connection_alone(tmp_path: Path, data: bytes) -> None:
    """A frame that cannot be read closes its connection alone."""

    async def test(one: Listening) -> None:
        good, bad = await one.connect(), await one.connect()
        bad.raw(data)
        assert await bad.is_closed()
        assert (await good.ask("Metadata", 9, topics=[]))["topics"] == []
        assert one.listener.connections == 1

    run(tmp_path, test)


def test_bytes_may_come_one_by_one(tmp_path: Path) -> None:
    """Bytes may come one by one."""

    async def test(one: Listening) -> None:
        client = await one.connect()
        frame = b"\x00\x00\x00\x0e\x00\x12\x00\x00\x00\x00\x00\x05\x00\x04test"
        for at in range(len(frame)):
            client.raw(frame[at : at + 1])
            await asyncio.sleep(0)
        assert (await client.receive("ApiVersions", 0))[0] == 5

    run(tmp_path, test)


def test_a_client_that_does_not_read_is_not_read(tmp_path: Path) -> None:
    """The answers to what it goes on asking take no memory: requests wait in its own buffers."""

    async def test(one: Listening) -> None:
        value = bytes(1_000_000)
        await durable(one.log.append(Topic.REPLIES, 0, Record(b"k", value)))
        slow, other = await one.connect(), await one.connect()
        slow._reader._transport.pause_reading()  # type: ignore[attr-defined]  # nothing is taken from its socket
        for _ in range(300):
            slow.send("Fetch", 11, fetch_of(REPLIES, 0, 0))
        await until(lambda: any(not each._writable for each in one.listener.all))
        (held,) = [each for each in one.listener.all if not each._writable]
        for _ in range(20):
            await other.ask("Metadata", 9, topics=[])
        assert held._transport is not None
        assert held._transport.get_write_buffer_size() < 2 * len(value)
        assert len(held._answers) <= 1
        one.listener.sweep(one.listener.broker.loop.time() + connection.STUCK_S + 1)
        await until(lambda: held._transport is None)

    run(tmp_path, test)


def test_no_more_is_in_flight_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is in flight than allowed."""
    monkeypatch.setattr(connection, "IN_FLIGHT", 3)

    async def test(one: Listening) -> None:
        client = await one.connect()
        topics = [{"name": COMMANDS, "partitions": [{"index": 0, "records": batch(b"x")}]}]
        most = 0
        for _ in range(20):
            client.send("Produce", 8, {"acks": -1, "timeout_ms": 1, "topics": topics})
        for n in range(20):
            most = max(most, *(len(each._answers) for each in one.listener.all))
            _, response = await client.receive("Produce", 8)
            assert response["topics"][0]["partitions"][0]["base_offset"] == n
        assert most <= 3

    run(tmp_path, test)


def test_a_client_that_leaves_while_it_waits_is_forgotten(tmp_path: Path) -> None:
    """A client that leaves while it waits is forgotten."""

    async def test(one: Listening) -> None:
        client = await one.connect()
        client.send("Fetch", 11, fetch_of(REPLIES, 0, 0, wait_ms=fetch.MAX_WAIT_MS))
        stream = one.listener.broker.log.stream(Topic.REPLIES, 0)
        await until(lambda: bool(stream.watchers))
        client.close()
        await until(lambda: not stream.watchers and not one.listener.connections)

    run(tmp_path, test)


def test_idle_and_stuck_connections_are_closed(tmp_path: Path) -> None:
    """Idle and stuck connections are closed."""

    async def test(one: Listening) -> None:
        idle, within = await one.connect(), await one.connect()
        await idle.ask("Metadata", 9, topics=[])
        within.raw(b"\x00\x00\x00\x20\x00\x03")
        await until(lambda: any(each._buffer for each in one.listener.all))
        now_s = one.listener.broker.loop.time()
        one.listener.sweep(now_s + connection.STUCK_S / 2)
        assert one.listener.connections == 2
        one.listener.sweep(now_s + connection.STUCK_S + 1)
        assert await within.is_closed()
        assert (await idle.ask("Metadata", 9, topics=[]))["topics"] == []
        one.listener.sweep(one.listener.broker.loop.time() + connection.IDLE_S + 1)
        assert await idle.is_closed()

    run(tmp_path, test)


def test_connections_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are bounded."""
    monkeypatch.setattr(listener, "CONNECTIONS", 2)

    async def test(one: Listening) -> None:
        first, second = await one.connect(), await one.connect()
        await first.ask("Metadata", 9, topics=[])
        await second.ask("Metadata", 9, topics=[])
        assert await (await one.connect()).is_closed()
        assert (await first.ask("Metadata", 9, topics=[]))["topics"] == []

    run(tmp_path, test)


def test_a_fault_of_our_own_closes_one_connection(tmp_path: Path) -> None:
    """A fault of our own closes one connection."""

    async def test(one: Listening) -> None:
        good, bad = await one.connect(), await one.connect()
        one.listener.broker.advertised = 1 / 2  # type: ignore[assignment]
        bad.send("Metadata", 9, {"topics": []})
        assert await bad.is_closed()
        assert (await good.ask("ApiVersions", 0))["error"] == 0

    run(tmp_path, test)
