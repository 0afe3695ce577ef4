"""The client's connections: what waits for one was not sent, each is used again,
and what breaks in them is an error of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import pytest

import perdure
from perdure import OutcomeUnknown, Unreachable
from perdure.api.client.app import Connection


class Slow:
    """A server that answers nobody, or each with a cookie; `heard` is what was asked."""

    def __init__(self, answers: bool = False) -> None:
        self.heard: list[bytes] = []
        self._answers = answers
        self._hears = asyncio.Condition()
        self._open: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._met, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def has_heard(self, count: int) -> None:
        async with self._hears:
            await self._hears.wait_for(lambda: len(self.heard) >= count)

    def hang_up(self) -> None:
        for each in self._open:
            each.close()

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                async with self._hears:
                    self.heard.append(head.lower())
                    self._hears.notify_all()
                await reader.readexactly(len(b'{"args":[],"kwargs":{}}'))
                if self._answers:
                    writer.write(
                        b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-length: 13\r\n\r\n" + b'{"result": 3}'
                    )
        writer.close()


def test_what_waited_for_a_connection_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many outcomes are unknown as requests arrived; of the others it is known that nothing was done."""
    monkeypatch.setattr("perdure.api.client.app.CONNECTIONS", 3)

    async def awaited() -> tuple[list[Any], list[Any], int]:
        slow = Slow()
        async with slow as url, Connection(url, timeout=0.2, retry=False) as app:
            held = [asyncio.create_task(app.get("Counter", "a", timeout=60).increment()) for _ in range(3)]
            await slow.has_heard(3)
            waited = (app.get("Counter", "a").increment() for _ in range(7))
            came = await asyncio.gather(*waited, return_exceptions=True)
            slow.hang_up()
            return await asyncio.gather(*held, return_exceptions=True), came, len(slow.heard)

    held, came, heard = asyncio.run(awaited())
    assert [type(each) for each in held + came] == [OutcomeUnknown] * 3 + [Unreachable] * 7
    assert heard == 3
    assert "connections was free in time, nothing was sent" in str(came[-1])


def test_without_await_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """There httpx's own pool tells who waited."""
    monkeypatch.setattr("perdure.api.client.app.CONNECTIONS", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with Connection(url, timeout=0.2, retry=False) as app, ThreadPoolExecutor() as threads:
            held = threads.submit(app.get("Counter", "a", timeout=60).increment)
            with server.accept()[0] as silent:
                assert silent.recv(1)
                waited = [threads.submit(app.get("Counter", "a").increment) for _ in range(2)]
                assert [type(each.exception()) for each in waited] == [Unreachable] * 2
            assert type(held.exception()) is OutcomeUnknown


def test_connections_are_used_again_and_keep_no_cookies() -> None:
    """One after the other over one; and what one object sets, another does not get."""

    async def awaited() -> list[bytes]:
        slow = Slow(answers=True)
        async with slow as url, perdure.connect(url) as app:
            connections = app._connections
            assert [await app.get("Counter", "a").increment() for _ in range(3)] == [3, 3, 3]
            assert len(connections._all) == 1
            await asyncio.gather(*(app.get("Counter", "b").increment() for _ in range(5)))
            assert len(connections._all) == 5
        with pytest.raises(RuntimeError, match="closed"):
            await app.get("Counter", "a").increment()
        return slow.heard

    heard = asyncio.run(awaited())
    assert len(heard) == 8
    assert not any(b"cookie:" in each for each in heard)


@pytest.mark.parametrize("error", [OSError("broken"), ExceptionGroup("some", [OverflowError("port")])])
def test_no_error_of_the_transport_escapes(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows how far it came: the outcome is unknown."""

    async def broken(*_: object, **__: object) -> NoReturn:
        raise error

    def broken_too(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr("httpx.AsyncClient.request", broken)
    monkeypatch.setattr("httpx.Client.request", broken_too)

    async def awaited() -> None:
        async with perdure.connect("http://x", retry=False) as app:
            await app.get("Counter", "a").increment()

    with pytest.raises(OutcomeUnknown, match="the connection was lost"):
        asyncio.run(awaited())
    with (
        perdure.connect("http://x", retry=False) as app,
        pytest.raises(OutcomeUnknown, match="the connection was lost"),
    ):
        app.get("Counter", "a").increment()
