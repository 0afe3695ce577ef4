"""Connections of the HTTP door: how long they stay, what they may hold, and what becomes of who goes away."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from tests.integration.door import PATIENCE_S, Client, Door, asking, begun
from tests.process import serve

from perdure.api.protocol import http

IDLE_S = 0.3
MIB = 1 << 20


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    door = Door(tmp_path_factory.mktemp("door") / "data")
    yield door
    door.close()


def idle_time_passes(door: Door) -> None:
    """A connection that is made now and answered is closed for its idleness:
    for so long others waited too.
    """
    with Client(door.port) as idle:
        assert idle.ask(b"GET /objects/Echo/idle/x").status == 200
        assert idle.ended()


def count_of(door: Door, name: str) -> int:
    with Client(door.port) as other:
        count: int = json.loads(other.ask(b"GET /objects/Echo/%b/x" % name.encode()).body)["count"]
        return count


def test_an_idle_connection_is_closed_and_a_busy_one_is_not(door: Door) -> None:
    """The time-out is that of silence between requests: it closes who waits for
    nothing, not who waits for a turn.
    """
    door.hold()
    with door.keep_alive(IDLE_S), Client(door.port) as busy:
        assert busy.ask(b"GET /objects/Echo/busy/x").status == 200  # its timer runs from here
        busy.send(asking(b"POST /objects/Echo/busy/wait"))
        assert begun.wait(PATIENCE_S)
        idle_time_passes(door)
        door.release()
        assert busy.answer().status == 200
        assert busy.ended(), "it is idle now, and stays"


def test_a_head_on_its_way_keeps_its_connection(door: Door) -> None:
    """Who has begun a request is not idle: it has the time of a head."""
    with door.keep_alive(IDLE_S), Client(door.port) as slow:
        assert slow.ask(b"GET /objects/Echo/slow/x").status == 200
        slow.send(b"POST /objects/Echo/slow/x HTTP/1.1\r\nhost")
        idle_time_passes(door)
        slow.send(b": x\r\n\r\n")
        assert slow.answer().status == 200


def test_who_sends_its_body_by_drops_is_refused(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """408 for the drops; a body that comes steadily for as long is waited for,
    whichever way it is counted.
    """
    monkeypatch.setattr(http, "BODY_LOOK_S", 0.3)
    for path in b"/objects/Echo/drops/x", b"/objects/Echo/drops/x#by-asgi":
        with Client(door.port) as drops, Client(door.port) as steady:
            drops.send(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n" % path)
            steady.send(
                b"POST /objects/Echo/steady/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            sent = 0
            while not select.select([drops.socket], [], [], 0.02)[0]:
                drops.send(b"x")
                steady.send(b"400\r\n" + b"y" * 1024 + b"\r\n")
                sent += 1024
            assert (drops.answer().status, drops.ended()) == (408, True)
            steady.send(b"0\r\n\r\n")
            assert json.loads(steady.answer().body)["size"] == sent


@pytest.mark.parametrize("path", [b"/objects/Echo/pieces/x", b"/objects/Echo/pieces/x#by-asgi"])
def test_a_body_is_timed_from_its_own_beginning(
    door: Door, monkeypatch: pytest.MonkeyPatch, path: bytes
) -> None:
    """A connection in use for long: the time of a body that came whole is over, whatever comes behind it."""
    head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n" % path
    with door.keep_alive(IDLE_S), Client(door.port) as client:
        monkeypatch.setattr(http, "BODY_LOOK_S", IDLE_S)
        client.send(head + b"ab")
        with Client(door.port) as other:  # what was sent before has been read when this is answered
            assert other.ask(b"GET /livez").status == 200
        client.send(b"cd")
        assert client.answer().status == 200
        monkeypatch.setattr(http, "BODY_LOOK_S", 3600.0)
        client.send(head + b"ab")
        idle_time_passes(door)
        client.send(b"cd")
        assert client.answer().status == 200


def test_a_head_is_timed_from_its_own_first_byte(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if that came in one piece with the end of the head before."""
    head = b"GET /objects/Echo/heads/x HTTP/1.1\r\nhost: x\r\n\r\n"
    with door.keep_alive(IDLE_S), Client(door.port) as client:
        assert client.ask(b"GET /objects/Echo/heads/x").status == 200
        monkeypatch.setattr(http, "HEAD_TIMEOUT_S", IDLE_S)
        client.send(head[:9])
        with Client(door.port) as other:
            assert other.ask(b"GET /livez").status == 200
        monkeypatch.setattr(http, "HEAD_TIMEOUT_S", 3600.0)
        client.send(head[9:] + head[:9])
        assert client.answer().status == 200
        idle_time_passes(door)
        client.send(head[9:])
        assert client.answer().status == 200


def test_who_has_its_answer_and_goes_on_sending_drops_is_cut_off(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One answer, and no second one in the middle of the rest."""
    monkeypatch.setattr(http, "BODY_LOOK_S", 0.1)
    with Client(door.port) as client:
        client.send(b"POST /objects/Echo/huge/x HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999\r\n\r\nx")
        assert client.answer().status == 413
        assert client.ended()


def test_many_that_never_finish_their_heads_keep_nobody_out(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slowloris: 500 halves of requests; others are served meanwhile, and the
    halves are gone in their time.
    """
    monkeypatch.setattr(http, "HEAD_TIMEOUT_S", 1.0)
    with ExitStack() as stack:
        slow = [stack.enter_context(Client(door.port)) for _ in range(500)]
        for each in slow:
            each.send(b"GET /objects/Echo/slow/x HTTP/1.1\r\nhost:")
        with Client(door.port) as other:  # last, for its own time runs from here on
            assert other.ask(b"GET /livez").status == 200
            assert other.ask(b"POST /objects/Echo/other/x").status == 200
        assert {each.answer().status for each in slow} == {408}
        assert all(each.ended() for each in slow)


def test_a_websocket_is_not_taken_for_an_idle_connection(door: Door) -> None:
    """Upgraded on a connection that has been answered before, it outlives the time-out."""
    with door.keep_alive(IDLE_S), Client(door.port) as client:
        assert client.ask(b"GET /objects/Echo/socket/x").status == 200
        upgrade = (b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-version: 13")
        key = b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="
        assert client.ask(b"GET /objects/Echo/socket/talk", *upgrade, key).status == 101
        idle_time_passes(door)
        client.send(b"\x81\x82\0\0\0\0hi")  # a masked frame of text
        assert client.read.read(4) == b"\x81\x02hi"


def reset_at_the_end(client: Client) -> None:
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def all_are_gone(door: Door) -> None:
    """Wait until the server has no connections."""
    while door.server.server_state.connections:
        with Client(door.port) as other:
            assert other.ask(b"GET /livez", b"connection: close").status == 200


@pytest.mark.parametrize("reset", [False, True], ids=["in order", "by a reset"])
def test_who_goes_away_leaves_its_command_behind(door: Door, reset: bool) -> None:
    """The command of a client that is gone completes, others are served meanwhile,
    and nobody misses an answer.
    """
    name = f"gone{reset}"
    door.hold()
    with Client(door.port) as client:
        if reset:
            reset_at_the_end(client)
        client.send(asking(b"POST /objects/Echo/%b/wait" % name.encode()))
        assert begun.wait(PATIENCE_S)
    all_are_gone(door)
    door.release()
    assert count_of(door, name) == 1  # its turn comes behind the one before


def test_who_goes_away_with_a_pipeline_leaves_nothing_open(door: Door) -> None:
    """It is noticed at the next answer; what was not begun by then is not begun any more."""
    door.hold()
    with Client(door.port) as client:
        reset_at_the_end(client)
        client.send(asking(b"POST /objects/Echo/many/wait"), asking(b"POST /objects/Echo/many/x") * 50)
        assert begun.wait(PATIENCE_S)
    door.release()
    all_are_gone(door)
    assert 1 <= count_of(door, "many") < 51


class Flood:
    """A client that sends requests and reads nothing."""

    def __init__(self, client: Client, request: bytes) -> None:
        self.client = client
        self._request = request
        self._rest = b""
        self.sent_bytes = 0
        client.socket.setblocking(False)

    def send(self) -> bool:
        """As much as the other side takes; was it anything?"""
        before = self.sent_bytes
        while self.sent_bytes < 128 * MIB:
            self._rest = self._rest or self._request * 16
            try:
                sent = self.client.socket.send(self._rest)
            except BlockingIOError:
                break
            self._rest = self._rest[sent:]
            self.sent_bytes += sent
        return self.sent_bytes > before

    def finish(self) -> int:
        """The rest of the last request; returns how many there were."""
        self.client.socket.setblocking(True)
        self.client.socket.settimeout(PATIENCE_S)
        whole = self.sent_bytes // len(self._request)
        torn = self.sent_bytes % len(self._request)
        self._rest = self._request[torn:] if torn else b""
        return whole + (torn > 0)


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_client_that_does_not_read_is_not_read_from(door: Door, method: bytes) -> None:
    """The server takes what a few buffers hold and then no more, and others are
    served; who reads at last gets all.
    """
    request = asking(
        method + b" /objects/Echo/flood/large/20000",
        b"x: " + b"y" * 8_000,
        body=b"z" * 100 if method == b"POST" else b"",
    )
    with Client(door.port) as client, Client(door.port) as other:
        flood, quiet = Flood(client, request), 0
        while quiet < 20:
            quiet = 0 if flood.send() else quiet + 1
            assert other.ask(b"POST /objects/Echo/other/x").status == 200
        assert flood.sent_bytes < 64 * MIB
        count = flood.finish()
        for _ in range(count - 1):
            answer = client.answer()
            assert (answer.status, len(answer.body)) == (200, 20_000)
        client.send(flood._rest)
        assert client.answer().status == 200
        assert client.ask(b"GET /livez").status == 200


def test_a_pipeline_holds_no_more_than_one_read(door: Door) -> None:
    """A client sends faster than turns end: what is not answered waits in its socket, not in our memory."""
    count, longest = 300, 0
    request = asking(b"POST /objects/Echo/many/x", b"x: " + b"y" * 8_000)
    with Client(door.port) as client, ThreadPoolExecutor(1) as thread:
        assert client.ask(b"GET /livez").status == 200
        connections: list[Any] = list(door.server.server_state.connections)
        (pipeline,) = [each.pipeline for each in connections if each.client == client.socket.getsockname()]
        sent = thread.submit(client.send, *[request] * count)
        for _ in range(count):
            assert client.answer().status == 200
            longest = max(longest, len(pipeline))
        sent.result(PATIENCE_S)
    assert 0 < longest * len(request) <= MIB


def test_responses_to_one_at_a_time_are_bounded_too(door: Door) -> None:
    """Without a pipeline: each request comes when the one before was answered, no
    answer is read, and it ends.
    """
    asked = 0
    with Client(door.port) as client, Client(door.port) as other:

        def answered() -> bool:
            before = door.server.server_state.total_requests
            client.send(asking(b"GET /objects/Echo/unread/large/500000"))
            for asked_beside in range(1, 51):
                assert other.ask(b"GET /livez").status == 200
                if door.server.server_state.total_requests - before > asked_beside:
                    return True
            return False

        while answered():
            asked += 1
            assert asked < 100, "50 MB of responses that nobody reads"
        for _ in range(asked + 1):
            assert len(client.answer().body) == 500_000


APP = """
import asyncio
from pathlib import Path
from threading import Event
from perdure import DurableObject, Response

HERE = Path(__file__).parent

class Echo(DurableObject):
    async def fetch(self, request):
        if request.path == "/wait":
            (HERE / "begun").touch()
            while not (HERE / "go").exists():
                await asyncio.sleep(0.01)
        await self.state.put("count", 1)
        return Response.json({"path": request.path})
"""


@pytest.mark.parametrize("path", [b"/objects/Echo/a/x", b"/livez"])
def test_what_was_sent_before_the_end_is_answered_though_it_had_not_been_read(
    door: Door, path: bytes
) -> None:
    """On a new connection and on one that has spoken; then they are closed, and so
    is one that says nothing.
    """
    entered, sent = Event(), Event()

    def end() -> None:
        entered.set()
        assert sent.wait(PATIENCE_S)
        for connection in list(door.server.server_state.connections):
            connection.shutdown()

    with Client(door.port) as new, Client(door.port) as old, Client(door.port) as silent:
        assert old.ask(b"GET " + path).status == old.ask(b"GET " + path).status == 200
        while len(door.server.server_state.connections) < 3:
            pass  # the door has let all in
        door.loop.call_soon_threadsafe(end)
        assert entered.wait(PATIENCE_S)
        for client in (new, old):
            client.send(asking(b"GET " + path))
        sent.set()
        for client in (new, old):
            answer = client.answer()
            assert (answer.status, answer.headers[b"connection"]) == (200, b"close")
        assert new.ended()
        assert old.ended()
        assert silent.ended()


def test_a_signal_lets_the_answers_under_way_be_given(tmp_path: Path) -> None:
    """SIGTERM: a turn under way and what waits in the pipeline behind it are
    answered, then all ends with 0.
    """
    (tmp_path / "app.py").write_text(APP)
    with serve(tmp_path / "app.py", tmp_path / "data") as server:
        port = int(server.url.rpartition(":")[2])
        with Client(port) as client, Client(port) as idle:
            assert idle.ask(b"GET /objects/Echo/a/x").status == 200
            client.send(
                asking(b"POST /objects/Echo/b/wait"), asking(b"GET /livez"), asking(b"POST /objects/Echo/c/x")
            )
            while not (tmp_path / "begun").exists():
                assert server.process.poll() is None
            os.kill(server.pid, signal.SIGTERM)
            assert idle.ended()
            (tmp_path / "go").touch()
            assert json.loads(client.answer().body) == {"path": "/wait"}
            assert client.answer().status == 200
            last = client.answer()
            assert json.loads(last.body) == {"path": "/x"}
            assert last.headers[b"connection"] == b"close"
            assert client.ended()
        assert server.wait() == 0, server.stderr()
        assert "Traceback" not in server.stderr()
