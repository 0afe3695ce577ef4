"""Listeners that perdure cannot use: the error says what listens there, and what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.kafka import free_ports

from perdure.streams.log.kafka import probe
from perdure.streams.log.kafka.clients import Endpoint
from perdure.streams.log.kafka.probe import diagnose


def plain(port: int) -> Endpoint:
    return Endpoint(f"127.0.0.1:{port}", "test", {})


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.close()


async def _is_a_web_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


async def _is_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


@pytest.mark.parametrize(
    ("serve", "told"),
    [
        (_closes, "closes the connection at the first request"),
        (_is_a_web_server, "does not speak Kafka's protocol: it answers b'HTTP/1.1"),
        (_is_silent, "accepts connections but answers nothing"),
    ],
)
def test_whatever_listens_there_is_said(serve: Serve, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener that is no broker is described by what it does."""
    monkeypatch.setattr(probe, "PROBE_S", 0.3)

    async def story() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        assert told in (await diagnose(plain(port))).text
        server.close()

    asyncio.run(story())


def test_a_dead_port_is_said() -> None:
    """Nothing listens there: the system's own words, and what to check."""
    (port,) = free_ports(1)
    said = asyncio.run(diagnose(plain(port))).text
    assert "takes no connection" in said
    assert "Check that the brokers run" in said
