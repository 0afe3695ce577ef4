"""The handshake of a WebSocket without a network: what reaches the object, and what the client is sent."""

from __future__ import annotations

import pytest
from tests.unit.bare_sockets import HEAD, KEY, Client, connected, framed
from websockets.frames import Opcode

from perdure.schemas.errors import OutcomeUnknown, Unavailable
from perdure.schemas.replies import Reply

VERSION = (b"sec-websocket-version", b"13")


def test_a_request_is_accepted_by_its_object_alone() -> None:
    """Nothing is sent before its answer; the proof of the key is that of RFC 6455 §1.3."""

    def run(client: Client) -> None:
        assert client.asks() == b""
        (method, path, query, head, body, address), *more = client.door.submitted
        assert not more
        assert (method, path, query, body, address) == ("GET", b"/objects/Room/a", b"", b"", "n.7 0/gateway")
        assert dict(head.headers) == {"host": "x", "upgrade": "websocket"}
        reply = Reply("ok", 101, (("x-mine", "1"), ("Connection", "close"), ("content-length", "9")))
        lines = client.answered(reply).split(b"\r\n")
        assert lines[0] == b"HTTP/1.1 101 Switching Protocols"
        assert set(lines[1:-2]) == {
            b"upgrade: websocket",
            b"connection: upgrade",
            b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
            b"x-mine: 1",
            b"perdure-command: 3:9",
        }
        assert client.sockets.open == {7}
        assert client.door.counted == [101]

    connected(run)


@pytest.mark.parametrize(
    ("status", "headers", "method"),
    [
        (405, HEAD, b"POST"),
        (400, (VERSION,), b"GET"),
        (400, (*HEAD, (b"sec-websocket-key", KEY)), b"GET"),
        (400, (*HEAD, VERSION), b"GET"),
        (400, (VERSION, (b"sec-websocket-key", b"dGhlIHNhbXBsZQ==")), b"GET"),
        (426, ((b"sec-websocket-key", KEY),), b"GET"),
        (426, ((b"sec-websocket-version", b"12"), (b"sec-websocket-key", KEY)), b"GET"),
        (403, (*HEAD, (b"origin", b"evil")), b"GET"),
    ],
)
def test_an_invalid_handshake_is_refused(
    status: int, headers: tuple[tuple[bytes, bytes], ...], method: bytes
) -> None:
    """With its status, on a connection that is closed; the object hears nothing of it."""

    def run(client: Client) -> None:
        response = client.asks(*headers, method=method)
        assert response.startswith(b"HTTP/1.1 %d " % status)
        assert (b"\r\nsec-websocket-version: 13\r\n" in response) == (status == 426)
        assert b"\r\nconnection: close\r\n" in response
        assert client.transport.closed
        assert not client.door.submitted

    connected(run)


def test_no_bytes_may_follow_before_the_answer() -> None:
    """Whether they come with the request or later."""

    def at_once(client: Client) -> None:
        client.asks(*HEAD, rest=framed(Opcode.TEXT, b"x"))
        assert client.transport.aborted

    def later(client: Client) -> None:
        client.asks()
        assert not client.transport.aborted
        client.sends(Opcode.TEXT, b"x")
        assert client.transport.aborted

    connected(at_once)
    connected(later)


def test_any_other_answer_is_the_response() -> None:
    """And no socket is there that could end."""

    def run(client: Client) -> None:
        client.asks()
        response = client.answered(Reply("ok", 404, (), b"no such room"))
        assert response.startswith(b"HTTP/1.1 404 ")
        assert response.endswith(b"content-length: 12\r\n\r\nno such room")
        client.socket.connection_lost(None)
        assert not client.sockets.events
        assert not client.sockets.open

    connected(run)


def test_a_client_that_has_gone_leaves_no_open_socket() -> None:
    """If its object accepts it after all, it hears of the end, once."""

    def run(client: Client) -> None:
        client.asks()
        client.transport.close()
        client.socket.connection_lost(None)
        assert not client.sockets.events
        client.answered()
        assert client.ends == [{"code": "1006", "clean": "0"}]

    connected(run)


def test_an_unknown_outcome_ends_the_socket_that_may_be_there() -> None:
    """One that was certainly not accepted has no end."""

    def unknown(client: Client) -> None:
        client.asks()
        client.socket.failed(OutcomeUnknown("no answer"))
        assert client.ends == [{"code": "1006", "clean": "0"}]
        assert client.transport.written.startswith(b"HTTP/1.1 50")

    def refused(client: Client) -> None:
        client.asks()
        client.socket.failed(Unavailable("busy"))
        assert not client.ends
        assert client.transport.written.startswith(b"HTTP/1.1 503 ")

    connected(unknown)
    connected(refused)
