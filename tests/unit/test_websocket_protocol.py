"""An open WebSocket without a network: which events its messages become, and how it ends."""

from __future__ import annotations

import asyncio
import struct

import pytest
from tests.unit.bare_sockets import Client, connected, framed
from websockets.frames import Opcode

from perdure.api.protocol.websocket import ASK_ROOM_S, CLOSE_TIMEOUT_S, IN_FLIGHT, UNSENT_BYTES
from perdure.schemas.errors import Unavailable
from perdure.schemas.sockets import BINARY, ERROR, MESSAGE, TEXT


def close_frame(code: int, reason: bytes = b"") -> bytes:
    """As a server sends it."""
    body = struct.pack(">H", code) + reason
    return bytes((0x88, len(body))) + body


def test_the_pieces_of_the_bytes_make_no_difference() -> None:
    """Fragments are one message, pings among them are answered; its type is that of the first."""
    sent = b"".join(
        (
            framed(Opcode.TEXT, b"one"),
            framed(Opcode.BINARY, b"tw", fin=False),
            framed(Opcode.PING, b"!"),
            framed(Opcode.CONT, b"o"),
            framed(Opcode.TEXT, b"x" * 300),
        )
    )

    def run(cut: int) -> None:
        def cut_at(client: Client) -> None:
            client.opens()
            client.socket.data_received(sent[:cut])
            client.socket.data_received(sent[cut:])
            assert client.sockets.events == [
                (MESSAGE, b"one", (("type", TEXT),)),
                (MESSAGE, b"two", (("type", BINARY),)),
                (MESSAGE, b"x" * 300, (("type", TEXT),)),
            ]
            assert client.sockets.numbers == [1, 2, 3]
            assert client.transport.written == b"\x8a\x01!"

        connected(cut_at)

    for cut in (*range(1, 40), len(sent) - 1):
        run(cut)


def test_a_client_is_read_no_faster_than_its_object_runs() -> None:
    """At most `IN_FLIGHT` events wait; the rest is parsed when half of them have ended."""

    async def run(client: Client) -> None:
        client.opens()
        client.socket.data_received(framed(Opcode.TEXT, b"x") * (2 * IN_FLIGHT))
        assert len(client.bodies) == IN_FLIGHT
        assert not client.transport.reading
        for _ in range(IN_FLIGHT // 2 - 1):
            client.socket.ended()
        await asyncio.sleep(0.1)
        assert len(client.bodies) == IN_FLIGHT
        client.socket.ended()
        await asyncio.sleep(0.1)
        assert len(client.bodies) == IN_FLIGHT * 3 // 2
        for _ in range(IN_FLIGHT * 3 // 2):
            client.socket.ended()
            await asyncio.sleep(0.1)
        assert len(client.bodies) == 2 * IN_FLIGHT
        assert client.transport.reading

    connected(run)


def test_an_object_without_room_is_asked_again() -> None:
    """Until it has some; nothing is read meanwhile, and nothing is lost."""

    async def run(client: Client) -> None:
        def none() -> None:
            raise Unavailable("full")

        client.opens()
        client.sockets.room = none
        client.socket.data_received(framed(Opcode.TEXT, b"a") + framed(Opcode.TEXT, b"b"))
        await asyncio.sleep(3.5 * ASK_ROOM_S)
        assert not client.bodies
        assert not client.transport.reading
        client.sockets.room = lambda: None
        await asyncio.sleep(ASK_ROOM_S)
        assert client.bodies == [b"a", b"b"]
        assert client.transport.reading

    connected(run)


def test_a_close_of_the_client_is_answered_and_its_object_hears_of_it_once() -> None:
    """After all messages before it; later bytes mean nothing."""

    def run(client: Client) -> None:
        client.opens()
        close = framed(Opcode.CLOSE, struct.pack(">H", 4000) + b"bye")
        client.socket.data_received(framed(Opcode.TEXT, b"last") + close + framed(Opcode.TEXT, b"late"))
        client.socket.connection_lost(None)
        assert client.bodies == [b"last"]
        assert client.ends == [{"code": "4000", "clean": "1"}]
        assert client.sockets.events[-1][1] == b"bye"
        assert client.transport.written == close_frame(4000, b"bye")
        assert client.transport.closed
        assert not client.sockets.open

    connected(run)


def test_a_close_of_the_object_is_no_event() -> None:
    """A client that does not answer it is cut off."""

    async def run(client: Client) -> None:
        client.opens()
        client.socket.close(1000, "done")
        client.socket.write(b"late")
        assert client.transport.written == close_frame(1000, b"done")
        client.sends(Opcode.TEXT, b"late")
        await asyncio.sleep(CLOSE_TIMEOUT_S + 1)
        assert client.transport.aborted
        client.socket.connection_lost(None)
        assert not client.sockets.events

    connected(run)


@pytest.mark.parametrize(
    ("bytes_", "code"),
    [
        (framed(Opcode.TEXT, b"\xff"), 1007),
        (framed(Opcode.CONT, b"x"), 1002),
        (b"\x81\x01x", 1002),  # not masked
        (framed(Opcode.BINARY, b"x" * ((1 << 20) + 1)), 1009),
    ],
    ids=["not-utf-8", "continues-nothing", "not-masked", "too-large"],  # masks are random, names must not be
)
def test_an_error_of_the_client_is_named_and_closes_the_socket(bytes_: bytes, code: int) -> None:
    """Its object hears of the error, then of the end."""

    async def run(client: Client) -> None:
        client.opens()
        client.socket.data_received(framed(Opcode.TEXT, b"good") + bytes_)
        await asyncio.sleep(CLOSE_TIMEOUT_S / 2)  # large frames are parsed in pieces
        assert [method for method, _, _ in client.sockets.events[:2]] == [MESSAGE, ERROR]
        assert client.ends == [{"code": str(code), "clean": "0"}]
        assert client.transport.written[2:4] == struct.pack(">H", code)

    connected(run)


def test_what_was_read_before_the_connection_broke_comes_before_its_end() -> None:
    """Also what was not parsed yet, and however much of it."""

    async def run(client: Client) -> None:
        client.opens()
        client.socket.data_received(framed(Opcode.TEXT, b"x") * (2 * IN_FLIGHT))
        client.socket.connection_lost(ConnectionResetError())
        await asyncio.sleep(0.1)
        assert len(client.bodies) == 2 * IN_FLIGHT
        assert client.ends == [{"code": "1006", "clean": "0"}]
        assert client.sockets.numbers == list(range(1, 2 * IN_FLIGHT + 2))

    connected(run)


def test_a_client_that_does_not_read_is_closed() -> None:
    """Once `UNSENT_BYTES` wait for it, and not for a moment's congestion."""

    def run(client: Client) -> None:
        client.opens()
        client.socket.pause_writing()
        client.transport.unsent = UNSENT_BYTES
        client.socket.write(b"more")
        assert client.transport.written == b"more"
        client.transport.unsent += 1
        client.socket.write(b"most")
        assert client.ends == [{"code": "1013", "clean": "0"}]
        assert b"most" not in client.transport.written

    connected(run)


def test_a_ping_without_an_answer_ends_the_socket() -> None:
    """Any bytes are an answer."""

    def run(client: Client) -> None:
        client.opens()
        for _ in range(3):
            client.socket.ping()
            client.sends(Opcode.PONG)
        assert not client.ends
        client.socket.ping()
        client.socket.ping()
        assert client.ends == [{"code": "1006", "clean": "0"}]
        assert client.transport.aborted

    connected(run)


def test_an_automatic_answer_takes_no_turn() -> None:
    """Of exactly the text it is for; the object is not asked."""

    def run(client: Client) -> None:
        client.opens()
        client.socket.auto = ("ping", b"pong")
        client.sends(Opcode.TEXT, b"ping")
        assert (client.bodies, client.transport.written) == ([], b"pong")
        client.sends(Opcode.BINARY, b"ping")
        client.sends(Opcode.TEXT, b"ping!")
        assert client.bodies == [b"ping", b"ping!"]

    connected(run)


def test_a_server_that_drains_closes_with_service_restart() -> None:
    """Also a socket that is accepted while it drains."""

    def opened(client: Client) -> None:
        client.opens()
        client.socket.shutdown()
        assert client.ends == [{"code": "1012", "clean": "0"}]

    def accepted(client: Client) -> None:
        client.asks()
        client.socket.shutdown()
        assert not client.transport.closed
        client.answered()
        assert client.ends == [{"code": "1012", "clean": "0"}]

    connected(opened)
    connected(accepted)
