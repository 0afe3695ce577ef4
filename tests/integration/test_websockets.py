"""WebSockets as clients meet them: a server in a process of its own, real connections, signals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.process import Server, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

APP = Path(__file__).with_name("sockets_app.py")
PATIENCE_S = 20
BODY_BYTES = 100_000
MANY = 2_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the stories that leave it running, each with objects of its own."""
    environ = {
        "PERDURE_LIMITS__BODY_BYTES": str(BODY_BYTES),
        "PERDURE_ALLOWED_ORIGINS": "https://friend.example,https://other.example",
    }
    with serve(APP, tmp_path_factory.mktemp("data"), environ=environ) as running:
        yield running


def joined(server: Server, name: str, path: str = "", kind: str = "Room", **options: Any) -> ClientConnection:
    url = server.url.replace("http", "ws") + f"/objects/{kind}/{name}{path}"
    return connect(url, max_size=None, open_timeout=PATIENCE_S, close_timeout=PATIENCE_S, **options)


def ask(server: Server, name: str, path: str, kind: str = "Room") -> Any:
    return (
        httpx.get(f"{server.url}/objects/{kind}/{name}{path}", timeout=PATIENCE_S).raise_for_status().json()
    )


def heard(client: ClientConnection) -> str | bytes:
    return client.recv(timeout=PATIENCE_S)


def end_of(client: ClientConnection) -> tuple[int, str]:
    """The code and reason that the server closed with."""
    with pytest.raises(ConnectionClosed) as caught:
        _read_on(client)
    assert caught.value.rcvd is not None, "it ended without a close"
    return caught.value.rcvd.code, caught.value.rcvd.reason


def _read_on(client: ClientConnection) -> None:
    while True:
        client.recv(timeout=PATIENCE_S)


def told(server: Server, name: str, count: int, kind: str = "Room") -> list[Any]:
    """What the object was told of ends, once there are so many."""
    until = time.monotonic() + PATIENCE_S
    while len(found := ask(server, name, "/told", kind)) < count:
        assert time.monotonic() < until, found
    return list(found)


def order(client: ClientConnection, **asked: Any) -> None:
    client.send(json.dumps(asked))


def test_text_and_binary_come_back_as_they_were(server: Server) -> None:
    """Handler style: str is text, bytes are binary, empty and large ones too."""
    with joined(server, "echo") as client:
        for message in ("hé", b"\x00\xff", "", b"", "x" * (BODY_BYTES - 1)):
            client.send(message)
            assert heard(client) == message


def test_a_message_in_fragments_is_one_message(server: Server) -> None:
    """Whatever frames it came in."""
    with joined(server, "fragments") as client:
        client.send(["one ", "mess", "age"])
        assert heard(client) == "one message"


def test_listener_style(server: Server) -> None:
    """A pair: what its listeners hear, close codes both ways, memory in between."""
    with joined(server, "a", kind="Listener") as client:
        assert heard(client) == "hello"
        client.send("x")
        assert heard(client) == "1 x"
        client.send(b"raw")
        assert heard(client) == b"raw"
        client.send("bye")
        assert heard(client) == "3 bye"
        assert end_of(client) == (4001, "as you like")
    with joined(server, "a", kind="Listener") as client:
        client.close(4002, "enough")
    assert told(server, "a", 3, "Listener") == [4002, "enough", True]


def test_a_listener_goes_with_its_instance(server: Server) -> None:
    """A failed turn drops the instance, and its sockets are closed with 1012 at once."""
    with joined(server, "b", kind="Listener") as client:
        assert heard(client) == "hello"
        assert httpx.get(f"{server.url}/objects/Listener/b/fail").status_code == 500
        assert end_of(client)[0] == 1012


def test_broadcasts_come_in_one_order(server: Server) -> None:
    """Several clients talk at once; all hear everything, and in the same order."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(joined(server, "order")) for _ in range(5)]
        for number in range(20):
            for client in clients:
                order(client, say=str(number))
        heard_by = [[heard(client) for _ in range(100)] for client in clients]
        assert [int(str(each).split()[0]) for each in heard_by[0]] == list(range(1, 101))
        assert all(one == heard_by[0] for one in heard_by)


def test_tags_choose_and_exclude_leaves_out(server: Server) -> None:
    """A broadcast to a tag reaches those that have it; one with `exclude` all others."""
    with joined(server, "tags", "?tags=red,blue") as red, joined(server, "tags", "?tags=green") as green:
        assert sorted(ask(server, "tags", "/open").values()) == [["green"], ["red", "blue"]]
        order(red, say="to blue", tag="blue")
        assert heard(red) == "to blue"
        order(red, say="hello", others=True)
        assert heard(green) == "1 hello"
        order(green, say="done", tag="red")
        assert heard(red) == "done"


def test_the_gateway_answers_for_the_object(server: Server) -> None:
    """A pair that was set is answered without a turn, for sockets that are open and those that come."""
    with joined(server, "auto") as first:
        order(first, auto=["ping", "pong"])
        assert heard(first) == "set"
        with joined(server, "auto") as second:
            before = httpx.get(f"{server.url}/metrics").text
            for client in (first, second):
                client.send("ping")
                assert heard(client) == "pong"
            after = httpx.get(f"{server.url}/metrics").text
            assert _metric(after, "perdure_commands_total") == _metric(before, "perdure_commands_total")
            second.send("pin")
            assert heard(second) == "pin"


def _metric(metrics: str, name: str) -> float:
    """Its sum over all partitions."""
    lines = [line for line in metrics.splitlines() if line.startswith(name)]
    return sum(float(line.split()[-1]) for line in lines)


def test_closes_reach_the_other_side(server: Server) -> None:
    """The object's code reaches the client, the client's the object, a broken connection is 1006."""
    with joined(server, "closes") as client:
        order(client, close=4000, reason="go")
        assert end_of(client) == (4000, "go")
    with joined(server, "closes") as client:
        client.close(4003, "bye")
    with joined(server, "closes") as client:
        client.socket.shutdown(socket.SHUT_RDWR)
    assert told(server, "closes", 2) == [
        ["close", 4003, "bye", True, {"count": 0}],
        ["close", 1006, "the connection broke", False, {"count": 0}],
    ]
    assert ask(server, "closes", "/open") == {}


def test_a_failed_turn_sends_nothing(server: Server) -> None:
    """Its frames and its attachment are as if it had not run; the socket stays."""
    with joined(server, "fails") as client:
        order(client, count=1)
        assert heard(client) == "1"
        order(client, fail="never seen")
        order(client, count=1)
        assert heard(client) == "2"


def test_what_the_object_answers_instead_reaches_the_client(server: Server) -> None:
    """A refused upgrade is a whole HTTP response; one that is half accepted is the object's fault."""
    for path, status, header in (("/no", 403, "closed"), ("/half", 500, None)):
        with pytest.raises(InvalidStatus) as caught, joined(server, "refuses", path):
            pass
        assert (caught.value.response.status_code, caught.value.response.headers.get("x-why")) == (
            status,
            header,
        )
    assert ask(server, "refuses", "/open") == {}
    plain = httpx.get(f"{server.url}/objects/Room/refuses/")
    assert (plain.status_code, plain.json()["title"]) == (426, "upgrade required")


def test_the_object_chooses_the_subprotocol(server: Server) -> None:
    """Headers of its 101 are those of the handshake."""
    with joined(server, "protocol", subprotocols=["chat"]) as client:
        assert client.subprotocol == "chat"


@pytest.mark.parametrize(("origin", "status"), [("https://evil.example", 403), ("null", 403)])
def test_a_foreign_page_is_refused(server: Server, origin: str, status: int) -> None:
    """Its browser says where it comes from."""
    with pytest.raises(InvalidStatus) as caught, joined(server, "origin", origin=origin):
        pass
    assert caught.value.response.status_code == status


def test_friends_and_own_pages_are_let_in(server: Server) -> None:
    """An allowed origin, and the server's own."""
    for origin in ("https://friend.example", server.url):
        with joined(server, "origin", origin=origin) as client:
            client.send("x")
            assert heard(client) == "x"


def test_too_large_a_message_closes_with_1009(server: Server) -> None:
    """limits.body_bytes; the object hears of an error, then of the end."""
    with joined(server, "large") as client:
        with contextlib.suppress(ConnectionClosed):
            client.send(b"x" * (200 * BODY_BYTES))  # more than the sockets between us hold
        assert end_of(client)[0] == 1009
    first, second = told(server, "large", 2)
    assert first == ["error", "BadFrame"]
    assert second[:2] == ["close", 1009]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x83\x80mask", 1002),
        (b"\x81\x01x", 1002),
        (b"\x81\x81\0\0\0\0\xff", 1007),
        (b"\xf1\x81\0\0\0\0x", 1002),
    ],
)
def test_a_malformed_frame_closes_its_own_socket(server: Server, frame: bytes, code: int) -> None:
    """An unknown opcode, a frame without mask, text that is not UTF-8, reserved
    bits; the neighbour goes on.
    """
    name = f"malformed{frame.hex()}"
    with joined(server, name) as neighbour, joined(server, name) as client:
        client.socket.sendall(frame)
        assert end_of(client)[0] == code
        assert [each[0] for each in told(server, name, 2)] == ["error", "close"]
        neighbour.send("still here")
        assert heard(neighbour) == "still here"


def test_a_slow_reader_is_closed_with_1013(server: Server) -> None:
    """Its queue is bounded; who reads goes on."""
    with joined(server, "slow", max_queue=1) as slow, joined(server, "slow") as quick:
        left = 0
        for _ in range(40):
            httpx.get(f"{server.url}/objects/Room/slow/flood?frames=20&size=50000", timeout=PATIENCE_S)
            for _ in range(20):
                assert len(heard(quick)) == 50000
            left = len(ask(server, "slow", "/open"))
            if left == 1:
                break
        assert left == 1
        assert end_of(slow)[0] == 1013
        assert told(server, "slow", 1)[0][1] == 1013


def test_a_busy_object_is_not_flooded(server: Server) -> None:
    """While a turn goes on its socket is read no further than a bounded number of messages; none is lost."""
    with joined(server, "busy") as client:
        order(client, slow=1.0)
        for number in range(1000):
            client.send(str(number))
        undone = _metric(httpx.get(f"{server.url}/metrics").text, "perdure_undone_commands")
        assert 1 < undone <= 65
        assert heard(client) == "awake"
        assert [heard(client) for _ in range(1000)] == [str(number) for number in range(1000)]


def test_nobody_but_the_door_makes_a_request_a_websocket(server: Server) -> None:
    """Headers of a client's own that look like it do not."""
    forged = {"perdure-socket": "x.00000000 0/gateway.x", "socket": "x.00000000 0/gateway.x"}
    answer = httpx.get(f"{server.url}/objects/Room/forged/", headers=forged)
    assert answer.status_code == 426


def test_sigterm_closes_with_1012_and_tells_the_objects(tmp_path: Path) -> None:
    """Clients hear 1012, the object hears it too, and nothing is left open for the next start."""
    with serve(APP, tmp_path / "data") as server, joined(server, "a") as client:
        order(client, say="there")
        assert heard(client) == "1 there"
        os.kill(server.pid, signal.SIGTERM)
        assert end_of(client)[0] == 1012
        assert server.wait() == 0
    with serve(APP, tmp_path / "data") as server:
        assert ask(server, "a", "/told") == [["close", 1012, "the server restarts", False, {"count": 0}]]
        assert ask(server, "a", "/open") == {}


def test_what_is_said_reaches_no_log_of_the_process(tmp_path: Path) -> None:
    """At the level that tells most: text and binary, both ways, in pings, closes,
    handshakes and what breaks the protocol.
    """
    secret = "tell-nobody-0451"
    environ = {"PERDURE_LOG_LEVEL": "debug", "PERDURE_LIMITS__BODY_BYTES": "1000"}
    with serve(APP, tmp_path / "data", environ=environ) as server:
        with joined(server, "logs", f"?tags={secret}", subprotocols=["chat"]) as client:
            for message in (secret, secret.encode(), [secret[:5], secret[5:]]):
                client.send(message)
                assert secret in str(heard(client))
            client.ping(secret.encode()).wait(PATIENCE_S)
            order(client, fail=secret)
            order(client, close=4000, reason=secret)
            assert end_of(client) == (4000, secret)
        for wrong in (secret * 100, b"\xff" + secret.encode(), b""):
            with joined(server, "logs") as client, contextlib.suppress(ConnectionClosed):
                if wrong:
                    client.send(wrong, text=True)
                else:
                    client.socket.sendall(b"\x83\x90\0\0\0\0" + secret.encode())
                end_of(client)
        with joined(server, "logs") as client:
            client.close(4001, secret)
        told(server, "logs", 3)
        assert server.stop() == 0
        told_in_log = server.stderr()
    assert '"level": "debug"' in told_in_log or '"level": "info"' in told_in_log
    assert [line for line in told_in_log.splitlines() if secret in line] == []


def test_after_a_crash_the_object_is_told_once_and_clients_come_back(tmp_path: Path) -> None:
    """SIGKILL: 1006 for each socket of the old process, once; what was said stands."""
    with (
        serve(APP, tmp_path / "data") as server,
        joined(server, "a") as client,
        joined(server, "l", kind="Listener"),
    ):
        order(client, count=1)
        assert heard(client) == "1"
        order(client, say="kept")
        assert heard(client) == "1 kept"
        server.kill()
    for _ in range(2):
        with serve(APP, tmp_path / "data") as server:
            assert told(server, "a", 1) == [["close", 1006, "the gateway is gone", False, {"count": 1}]]
            with joined(server, "a") as client:
                order(client, say="again")
                assert str(heard(client)).endswith(" again")
                assert len(ask(server, "a", "/open")) == 1
                order(client, close=1000)
                assert end_of(client) == (1000, "")
            server.kill()


@pytest.mark.parametrize("closing", [b"\x88\x82\0\0\0\0\x03\xe8", b""], ids=["with a close", "cut off"])
def test_all_that_was_read_before_the_end_is_told_before_it(server: Server, closing: bytes) -> None:
    """Two thousand messages at once, far more than may be under way, and the connection goes."""
    name = f"burst{len(closing)}"
    host, port = server.url.removeprefix("http://").split(":")
    with joined(server, name) as listener, socket.create_connection((host, int(port))) as raw:
        raw.sendall(
            f"GET /objects/Room/{name} HTTP/1.1\r\nhost: {host}:{port}\r\nupgrade: websocket\r\n"
            "connection: upgrade\r\nsec-websocket-version: 13\r\n"
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        assert raw.recv(4096).startswith(b"HTTP/1.1 101 ")
        order(listener, say="begin")
        assert heard(listener) == "1 begin"
        text = b'{"say":"x"}'
        raw.sendall((b"\x81" + bytes((0x80 | len(text),)) + b"\0\0\0\0" + text) * MANY + closing)
        raw.shutdown(socket.SHUT_WR)
        for n in range(MANY):
            assert heard(listener) == f"{n + 2} x"
        (end,) = told(server, name, 1)
        assert end[:2] == ["close", 1000 if closing else 1006]
