"""The client against a real server: connections cut by chance, a server killed amid
calls, sockets over a restart, tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from tests.integration.pages import terminal
from tests.process import Server, serve

import perdure
from perdure import HandlerFailed, Refusal
from perdure.api.client.app import Connection
from perdure.api.client.sockets import Socket
from perdure.schemas.errors import (
    Forbidden,
    InvalidArguments,
    Unauthenticated,
    UnknownMethod,
    UnknownNamespace,
)

PATIENCE_S = 60
ROOT = Path(__file__).parents[2]
APP = """
from perdure import DurableObject, Refusal, Response

class Counter(DurableObject):
    async def fetch(self, request):
        if request.headers.get("upgrade") == "websocket":
            if request.path == "/no":
                return Response("not here", 404)
            await self.state.accept_websocket(request)
            return Response.upgrade()
        return Response.json({"asked": [request.method, request.path, request.query_string, await request.text()]}, 418)

    async def websocket_message(self, ws, message):
        if message == "bye":
            ws.close(4000, "bye")
        else:
            ws.send(message)

    async def increment(self, by: int = 1):
        count = await self.state.get("count", 0) + by
        await self.state.put("count", count)
        return count

    async def refuse(self):
        raise Refusal("sold out", code="sold-out", detail={"left": 0})

    async def fail(self):
        raise ValueError("of its own")
"""


def app_in(folder: Path, *config: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "app.py").write_text(APP)
    head = 'main = "app.py"\nname = "asked"\npartitions = 2\n'
    (folder / "perdure.toml").write_text(head + "\n".join(config))
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("client")
    with serve(app_in(folder / "app"), folder / "data") as running:
        yield running


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


class Cutter:
    """A TCP proxy that cuts connections by chance: before a request, or after it and before its answer."""

    def __init__(self, port: int, seed: int) -> None:
        self._to = port
        self._chance = random.Random(seed)
        self.cut = {"request": 0, "answer": 0}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._to))
                for each in (near, far):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for pair in ((near, far, "request"), (far, near, "answer")):
                    Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, what: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self._chance.random() < 0.1:
                    self.cut[what] += 1
                    break
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)
        self._listener.close()


@pytest.fixture
def cutter(server: Server) -> Iterator[Cutter]:
    made = Cutter(int(server.url.rpartition(":")[2]), seed=7)
    yield made
    made.close()


def test_calls_over_connections_that_are_cut_count_exactly(cutter: Cutter) -> None:
    """200 calls, one after the other, each took effect once, and tells so."""
    with Connection(cutter.url, chance=lambda: 0.0) as app:
        counter = app.get("Counter", "cut")
        assert [counter.increment() for _ in range(200)] == list(range(1, 201))
    assert min(cutter.cut.values()) > 5, cutter.cut


def test_the_same_at_once_and_awaited(cutter: Cutter) -> None:
    """200 calls of twenty tasks: every number once."""

    async def main() -> list[int]:
        async with Connection(cutter.url, chance=lambda: 0.0) as app:
            counter = app.get("Counter", "cut at once")

            async def some() -> list[int]:
                return [await counter.increment() for _ in range(10)]

            return [count for each in await asyncio.gather(*(some() for _ in range(20))) for count in each]

    assert sorted(asyncio.run(main())) == list(range(1, 201))
    assert min(cutter.cut.values()) > 5, cutter.cut


def test_a_server_that_is_killed_amid_calls_counts_exactly(tmp_path: Path) -> None:
    """SIGKILL while ten tasks call, started again: 100 calls are 100."""
    folder, port = app_in(tmp_path / "app"), str(free_port())

    async def main(first: Server, opened: contextlib.ExitStack) -> list[int]:
        told: list[int] = []
        enough = asyncio.Event()
        async with perdure.connect(first.url, timeout=PATIENCE_S) as app:
            counter = app.get("Counter", "killed")

            async def some() -> None:
                for _ in range(10):
                    told.append(await counter.increment())
                    if len(told) == 30:
                        enough.set()

            tasks = [asyncio.ensure_future(some()) for _ in range(10)]
            await enough.wait()
            first.kill()
            assert len(told) < 100
            again = serve(folder, tmp_path / "data", "--port", port)
            await asyncio.to_thread(opened.enter_context, again)
            await asyncio.gather(*tasks)
        return told

    with contextlib.ExitStack() as opened:
        first = opened.enter_context(serve(folder, tmp_path / "data", "--port", port))
        assert sorted(asyncio.run(main(first, opened))) == list(range(1, 101))


def test_errors_come_back_as_they_were_raised(server: Server) -> None:
    """Class, text, code and detail."""
    with perdure.connect(server.url) as app:
        counter = app.get("Counter", "errors")
        with pytest.raises(Refusal, match="sold out") as refused:
            counter.refuse()
        assert (refused.value.code, refused.value.detail) == ("sold-out", {"left": 0})
        with pytest.raises(HandlerFailed, match="of its own"):
            counter.fail()
        with pytest.raises(InvalidArguments, match=r"increment\(\): argument by"):
            counter.increment("two")
        with pytest.raises(UnknownMethod, match="increment"):
            counter.decrement()
        with pytest.raises(UnknownNamespace):
            app.get("Nobody", "a").x()


def test_a_given_key_makes_two_calls_one(server: Server) -> None:
    """The second answer is the first, stored."""
    for _ in range(2):
        with perdure.connect(server.url) as app:
            assert app.get("Counter", "once", idempotency_key="order-7").increment(5) == 5


def test_fetch_in_both_styles(server: Server) -> None:
    """A status of the object's own is a response, not an error; name, path, query and JSON arrive."""
    path = "/a%20b?c=d"

    async def main() -> Any:
        async with perdure.connect(server.url) as app:
            return await app.get("Counter", "a b").fetch("post", path, json={"x": 1})

    with perdure.connect(server.url) as app:
        answers = [asyncio.run(main()), app.get("Counter", "a b").fetch("post", path, json={"x": 1})]
    for answer in answers:
        assert answer.status == 418
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == {"asked": ["POST", "/a%20b", "c=d", '{"x":1}']}


def test_a_socket_is_opened_anew_over_a_restart(tmp_path: Path) -> None:
    """The user is told and re-syncs; a close of the application's ends it."""
    folder, port = app_in(tmp_path / "app"), str(free_port())

    async def main(first: Server, opened: contextlib.ExitStack) -> list[str | bytes]:
        async def resync(ws: Socket) -> None:
            await ws.send("again")

        heard: list[str | bytes] = []
        async with (
            perdure.connect(first.url, timeout=PATIENCE_S) as app,
            app.get("Counter", "talk").websocket("/talk", on_reconnect=resync) as ws,
        ):
            await ws.send("first")
            async for message in ws:
                heard.append(message)
                if message == "first":
                    first.stop()
                    again = serve(folder, tmp_path / "data", "--port", port)
                    await asyncio.to_thread(opened.enter_context, again)
                else:
                    await ws.send("bye")
            assert ws.reconnects == 1
        return heard

    with contextlib.ExitStack() as opened:
        first = opened.enter_context(serve(folder, tmp_path / "data", "--port", port))
        assert asyncio.run(main(first, opened)) == ["first", "again"]


def test_a_socket_without_await_is_opened_anew_too(tmp_path: Path) -> None:
    """As above, in a thread; what the application closes ends it, and what does not come in time is told."""
    folder, port = app_in(tmp_path / "app"), str(free_port())
    with contextlib.ExitStack() as opened:
        first = opened.enter_context(serve(folder, tmp_path / "data", "--port", port))
        heard: list[str | bytes] = []
        with (
            perdure.connect(first.url, timeout=PATIENCE_S) as app,
            app.get("Counter", "talk").websocket(on_reconnect=lambda ws: ws.send("again")) as ws,
        ):
            with pytest.raises(TimeoutError):
                ws.receive(timeout=0.01)
            ws.send("first")
            for message in ws:
                heard.append(message)
                if message == "first":
                    first.stop()
                    opened.enter_context(serve(folder, tmp_path / "data", "--port", port))
                else:
                    ws.send("bye")
            assert ws.reconnects == 1
            with pytest.raises(perdure.Unavailable):
                ws.send("too late")
        assert heard == ["first", "again"]
        with (
            perdure.connect(first.url) as app,
            pytest.raises(perdure.CallerError, match="answered 404 instead"),
        ):
            app.get("Counter", "x").websocket("/no").__enter__()


def test_a_socket_that_is_not_accepted_is_an_error(server: Server) -> None:
    """What the object answered instead is told."""

    async def main() -> None:
        async with perdure.connect(server.url) as app, app.get("Counter", "x").websocket("/no"):
            raise AssertionError

    with pytest.raises(perdure.CallerError, match="answered 404 instead"):
        asyncio.run(main())


def test_a_token_decides(tmp_path: Path) -> None:
    """None or a wrong one: 401; one without the right: 403; over HTTP and WebSockets."""
    config = []
    for name, scopes in (("may", ["call:*", "subscribe:*"]), ("reads", ["read:*"])):
        digest = hashlib.sha256(f"pdr_{name * 20}".encode()).hexdigest()
        config.append(f'[[tokens]]\nname = "{name}"\nsha256 = "{digest}"\nscopes = {json.dumps(scopes)}')

    async def ask(url: str, token: str | None) -> Any:
        async with perdure.connect(url, token=token) as app, app.get("Counter", "a").websocket() as ws:
            await ws.send("hello")
            return await ws.receive()

    with serve(app_in(tmp_path / "app", *config), tmp_path / "data") as guarded:
        for token, error in (
            (None, Unauthenticated),
            ("pdr_wrong", Unauthenticated),
            ("pdr_" + "reads" * 20, Forbidden),
        ):
            with perdure.connect(guarded.url, token=token) as app, pytest.raises(error):
                app.get("Counter", "a").increment()
            with pytest.raises(error):
                asyncio.run(ask(guarded.url, token))
        with perdure.connect(guarded.url, token="pdr_" + "may" * 20) as app:
            assert app.get("Counter", "a").increment() == 1
        assert asyncio.run(ask(guarded.url, "pdr_" + "may" * 20)) == "hello"


def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    """docs/client.md, worked through."""
    with terminal(tmp_path) as opened:
        assert opened.work_through((ROOT / "docs" / "client.md").read_text()) > 0
