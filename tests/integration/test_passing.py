"""WebSockets through a Worker, over a real server: who gets one, what its object hears, who may open it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.integration.test_access import bearer, lines, token
from tests.integration.test_websockets import PATIENCE_S, end_of, heard, order
from tests.process import Server, serve
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

HERE = Path(__file__).parent
UPGRADE = (
    b"GET /wait/gone HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
)
OPEN = {"PERDURE_EXPOSE": "true", "PERDURE_ALLOWED_ORIGINS": "https://friend.example"}


def deployed(tmp_path: Path, config: str = "") -> Path:
    folder = tmp_path / "app"
    folder.mkdir(exist_ok=True)
    for name in ("passing_app.py", "sockets_app.py"):
        (folder / name).write_text((HERE / name).read_text())
    (folder / "perdure.toml").write_text(f'main = "passing_app.py"\nname = "front"\npartitions = 2\n{config}')
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server whose objects can be asked beside the Worker, too."""
    place = tmp_path_factory.mktemp("passing")
    with serve(deployed(place), place / "data", environ=OPEN) as running:
        yield running


def joined(server: Server, path: str, **options: Any) -> ClientConnection:
    url = server.url.replace("http", "ws") + path
    return connect(url, open_timeout=PATIENCE_S, close_timeout=PATIENCE_S, **options)


def refused(server: Server, path: str, **options: Any) -> Any:
    """The response that comes in place of a WebSocket."""
    with pytest.raises(InvalidStatus) as caught, joined(server, path, **options):
        pass
    return caught.value.response


def told(server: Server, name: str, count: int) -> list[Any]:
    """What the room was told of ends, once there are so many."""
    until = time.monotonic() + PATIENCE_S
    while len(found := httpx.get(f"{server.url}/objects/Room/{name}/told").json()) < count:
        assert time.monotonic() < until, found
    return list(found)


def test_a_socket_that_the_worker_passes_on_is_its_objects(server: Server) -> None:
    """Messages, tags, broadcasts and closes both ways, as if the client had come to the object itself."""
    options = {"additional_headers": {"cookie": "session=c00kie"}, "subprotocols": ["chat"]}
    with joined(server, "/room/a?tags=x,y", **options) as one, joined(server, "/room/a") as two:
        assert one.subprotocol == "chat"
        assert sorted(httpx.get(f"{server.url}/objects/Room/a/open").json().values()) == [[""], ["x", "y"]]
        one.send(b"\0\1")
        assert heard(one) == b"\0\1"
        order(two, say="hi")
        assert heard(one) == heard(two) == "1 hi"
        order(one, close=4001, reason="go")
        assert end_of(one) == (4001, "go")
        two.close(4002, "enough")
    assert told(server, "a", 1) == [["close", 4002, "enough", True, {"count": 0}]]


def test_what_is_sent_while_the_socket_is_accepted_comes_behind_the_101(server: Server) -> None:
    """The object greets in the turn that accepts: the client has the greeting first, and nothing is lost."""
    for round_ in range(20):
        with joined(server, f"/listener/l{round_}") as client:
            assert heard(client) == "hello"
            client.send("x")
            assert heard(client) == "1 x"


def test_frames_wait_for_a_worker_that_takes_its_time(server: Server) -> None:
    """Others broadcast to the socket before its client has it: it gets all of that,
    in order, behind the 101.
    """
    with joined(server, "/room/w") as other, ThreadPoolExecutor(1) as threads:
        order(other, auto=["ping", "pong"])
        assert heard(other) == "set"
        opening = threads.submit(joined, server, "/wait/w")
        until = time.monotonic() + PATIENCE_S
        while len(httpx.get(f"{server.url}/objects/Room/w/open").json()) < 2:
            assert time.monotonic() < until
        for text in ("one", "two"):
            order(other, say=text)
            heard(other)
        httpx.get(f"{server.url}/go/w").raise_for_status()
        with opening.result(PATIENCE_S) as late:
            assert [heard(late), heard(late)] == ["1 one", "2 two"]
            late.send("ping")
            assert heard(late) == "pong"


def test_the_worker_can_answer_itself(server: Server) -> None:
    """It sees that a WebSocket is asked for; any answer of its own, or of an object
    that refuses, is the response.
    """
    answer = refused(server, "/mine/a")
    assert (answer.status_code, answer.headers["x-upgrade"], answer.body) == (401, "websocket", b"no ticket")
    assert httpx.get(f"{server.url}/mine/a").headers["x-upgrade"] == "none"


def test_101_needs_an_object_that_has_accepted(server: Server) -> None:
    """A Worker cannot end a WebSocket itself: its 101 is a failure, for a request that asks for none too."""
    answer = refused(server, "/nobody/a")
    assert (answer.status_code, json.loads(answer.body)["title"]) == (500, "worker failed")
    assert "no object has accepted the WebSocket" in json.loads(answer.body)["detail"]
    assert httpx.get(f"{server.url}/nobody/a").status_code == 500


def test_a_socket_that_the_worker_keeps_back_is_closed(server: Server) -> None:
    """Its object hears 1006, once; the client has the Worker's answer."""
    answer = refused(server, "/kept/k")
    assert (answer.status_code, answer.body) == (418, b"kept back")
    assert told(server, "k", 1) == [["close", 1006, "the Worker did not pass it on", False, {"count": 0}]]
    assert httpx.get(f"{server.url}/objects/Room/k/open").json() == {}


def test_one_request_is_one_socket(server: Server) -> None:
    """Objects may be asked until one accepts; from then on nobody else is, and the
    first is told of the failure.
    """
    with joined(server, "/second/s") as client:
        client.send("hi")
        assert heard(client) == "hi"
    answer = refused(server, "/both/b")
    assert (answer.status_code, json.loads(answer.body)["detail"]) == (500, "the Worker failed: ObjectError")
    assert [each[:2] for each in told(server, "b", 1)] == [["close", 1006]]


def test_a_client_that_leaves_before_its_101(server: Server) -> None:
    """The object has accepted, the Worker still works: the object hears of the end all the same."""
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), PATIENCE_S) as client:
        client.sendall(UPGRADE)
        until = time.monotonic() + PATIENCE_S
        while not httpx.get(f"{server.url}/objects/Room/gone/open").json():
            assert time.monotonic() < until
    assert [each[:2] for each in told(server, "gone", 1)] == [["close", 1006]]


def test_a_page_of_elsewhere_may_not(server: Server) -> None:
    """The origin is looked at before the Worker is asked."""
    assert refused(server, "/room/o", origin="https://evil.example").status_code == 403
    with joined(server, "/room/o", origin="https://friend.example") as client:
        client.send("hi")
        assert heard(client) == "hi"


def test_behind_a_worker_the_direct_way_is_closed(tmp_path: Path) -> None:
    """As for requests: without `expose` or tokens an object is reached through the
    Worker only. Pages are no Worker's.
    """
    with serve(deployed(tmp_path), tmp_path / "data") as server:
        answer = refused(server, "/objects/Room/a")
        assert (answer.status_code, json.loads(answer.body)["type"]) == (
            403,
            "urn:perdure:problem:not-exposed",
        )
        for path in ("/rpc/Room/a/x", "/admin/x", "//objects/Room/a", "/%6fbjects/Room/a", "/livez"):
            assert refused(server, path).status_code == 404, path
        with joined(server, "/room/a") as client:
            client.send("hi")
            assert heard(client) == "hi"


def test_where_access_is_guarded_the_worker_lets_in_whom_it_likes(tmp_path: Path) -> None:
    """Its paths need no token, and no quota counts what comes by them; the direct way needs one."""
    config = lines("reader", "subscribe:Room") + '[quotas."*"]\nrequests_per_s = 0.001\nburst = 2\n'
    with serve(deployed(tmp_path, config), tmp_path / "data") as server:
        assert refused(server, "/objects/Room/a").status_code == 401
        with joined(server, "/objects/Room/a", additional_headers=bearer(token("reader"))) as client:
            client.send("hi")
            assert heard(client) == "hi"
        for wrong in ({}, bearer("nonsense")):
            with joined(server, "/room/a", additional_headers=wrong) as client:
                for text in "abcde":
                    client.send(text)
                assert [heard(client) for _ in range(5)] == [*"abcde"]


def test_a_killed_server_leaves_no_socket_behind(tmp_path: Path) -> None:
    """SIGKILL with sockets open through the Worker: each is closed once, and new ones are had at once."""
    app = deployed(tmp_path)
    with serve(app, tmp_path / "data", environ=OPEN) as server, joined(server, "/room/a") as client:
        client.send("hi")
        assert heard(client) == "hi"
        server.kill()
    with serve(app, tmp_path / "data", environ=OPEN) as server:
        assert [each[:2] for each in told(server, "a", 1)] == [["close", 1006]]
        with joined(server, "/room/a") as client:
            client.send("again")
            assert heard(client) == "again"
        assert server.stop() == 0
    written = b"".join(file.read_bytes() for file in (tmp_path / "data").rglob("*") if file.is_file())
    assert b"c00kie" not in written
