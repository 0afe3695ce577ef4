"""All examples at once on one server, which is killed once, while every one of them is being used.

A story is a coroutine that is given the `Systems`: it sets something up, keeps asking inside `until_killed`,
and looks at what is there afterwards. All stories run at the same time; the server dies when each has been
answered often enough and has requests in flight.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import websockets
from tests.acceptance.harness import Deployment, port_of
from tests.acceptance.wire import PATIENCE_S, Wire
from tests.process import Server
from websockets.asyncio.client import ClientConnection, connect

EXAMPLES = Path(__file__).parents[2] / "examples"
QUOTA_WINDOW_S = 20  # of the rate limiter; a restart on a busy machine fits into it
PASSES = 20  # of the loop, until all that was answered has been read
ANSWERS = 20  # so many each story wants before the server may die
GONE = (websockets.WebSocketException, ConnectionError)


@dataclass
class Interrupted:
    """What a story knows about its requests when the server has died."""

    results: list[Any] = field(default_factory=list)
    unknown: int = 0
    in_flight: int = 0


class Response(NamedTuple):
    """What came back."""

    status_code: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


class Systems:
    """`ask` talks to the server that runs now; `ws(path)` connects to it."""

    def __init__(self, deployment: Deployment, origin: socket.socket) -> None:
        self.deployment = deployment
        self._origin_socket = origin
        self.ready = 0
        self.killed = asyncio.Event()
        self._going = asyncio.Event()  # cleared while the server is held
        self._going.set()
        self._interrupted: list[Interrupted] = []  # of the stories that wait for the kill
        self.restarted = asyncio.Event()
        self.port = 0
        self._idle: list[Wire] = []  # connections to the server that runs now
        self.origin: Counter[str] = Counter()  # requests to the origin, by key

    async def ask(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, body: Any = None
    ) -> Response:
        """One request. Raises `ConnectionError` if the server dies before it answers."""
        wire = self._idle.pop() if self._idle else await Wire(self.port).__aenter__()
        data = b"" if body is None else json.dumps(body).encode()
        answer = await wire.ask(method, path, data, (headers or {}).items())
        if wire.port == self.port:
            self._idle.append(wire)
        return Response(answer.status, answer.headers, answer.body)

    async def call(self, key: str, method: str, *args: Any) -> Any:
        """One RPC; its result."""
        response = await self.ask("POST", f"/rpc/{key}/{method}", body={"args": list(args)})
        assert response.status_code == 200, response.text
        return response.json()["result"]

    def ws(self, path: str) -> connect:
        return connect(f"ws://127.0.0.1:{self.port}{path}", max_size=None)

    async def until_killed(self, ask: Callable[[], Awaitable[Any]], clients: int = 4) -> Interrupted:
        """Ask again and again, `clients` at a time, until the server dies; then wait for the next one."""
        found = Interrupted()

        async def one() -> None:
            while not self.killed.is_set():
                found.in_flight += 1
                try:
                    found.results.append(await ask())
                except GONE:
                    assert self.killed.is_set(), "the server went away before it was killed"
                    found.unknown += 1
                    return
                finally:
                    found.in_flight -= 1
                if len(found.results) == ANSWERS:
                    self.ready += 1
                await self._going.wait()

        self._interrupted.append(found)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(clients):
                    group.create_task(one())
        finally:
            self._interrupted.remove(found)
        assert found.unknown, "nothing was in flight when the server was killed: the story shows nothing"
        await self.restarted.wait()
        return found

    async def connected(self, stack: AsyncExitStack, path: str, count: int) -> list[ClientConnection]:
        return [await stack.enter_async_context(self.ws(path)) for _ in range(count)]

    async def run(self, stories: Sequence[Callable[[Systems], Awaitable[None]]]) -> dict[str, BaseException]:
        """Run all stories at once; what each failed with, by its name."""
        failed: dict[str, BaseException] = {}

        async def tell(story: Callable[[Systems], Awaitable[None]]) -> None:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await story(self)
            except Exception as error:  # noqa: BLE001 - reported by the story's own test
                failed[story.__name__] = error
            self.ready += not self.killed.is_set()  # the others need not wait for one that has failed

        origin = await asyncio.start_server(self._answer_as_origin, sock=self._origin_socket)
        with self.deployment.serve() as server:
            self._meet(server)
            tasks = [asyncio.create_task(tell(story)) for story in stories]
            async with asyncio.timeout(PATIENCE_S):
                while self.ready < len(stories):  # noqa: ASYNC110 - any story may be the last
                    await asyncio.sleep(0.01)
            await self._kill(server.pid)
            await asyncio.to_thread(server.wait)
        with self.deployment.serve() as server:
            self._meet(server)
            self.restarted.set()
            await asyncio.gather(*tasks)
            code = await asyncio.to_thread(server.stop)
            assert code == 0, server.stderr()
        origin.close()
        await asyncio.to_thread(self.deployment.verify)
        alone, helped = [await asyncio.to_thread(self.deployment.build_anew, helpers) for helpers in (0, 2)]
        assert alone == helped
        return failed

    async def _kill(self, pid: int) -> None:
        """SIGKILL at a moment when each story has requests in flight: hold the
        server, look, and let it go on if not.

        While it is held, what it has answered is read and nothing new is asked.
        """
        while True:
            self._going.clear()
            os.kill(pid, signal.SIGSTOP)
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - nobody is to run now
            for _ in range(PASSES):
                await asyncio.sleep(0)
            if all(each.in_flight for each in self._interrupted):
                break
            os.kill(pid, signal.SIGCONT)
            self._going.set()
            await asyncio.sleep(0.01)
        self.killed.set()
        os.kill(pid, signal.SIGKILL)
        self._going.set()

    async def _answer_as_origin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """`KEY, N`: it was asked for the key the Nth time; `failing` fails."""
        head = await reader.readuntil(b"\r\n\r\n")
        key = head.split(b" ", 2)[1].decode().strip("/")
        self.origin[key] += 1
        status, body = "200 OK", f"{key}, {self.origin[key]}"
        if key == "failing":
            status, body = "500 Internal Server Error", "on purpose"
        writer.write(
            f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode()
        )
        await writer.drain()
        writer.close()

    def _meet(self, server: Server) -> None:
        self.port, self._idle = port_of(server), []


def deploy_examples(path: Path, *, log: str, name: str, **variables: Any) -> Deployment:
    """The examples with durations that a test can wait for."""
    folder = path / "examples"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "perdure.toml"
    text = file.read_text().replace(
        'name = "examples"\n', f'name = "{name}"\nlog = "{log}"\npartitions = 4\n', 1
    )
    for variable, value in variables.items():
        text, count = re.subn(rf"(?m)^{variable} = .*$", f"{variable} = {json.dumps(value)}", text)
        assert count == 1, f"the examples have no var {variable}"
    file.write_text(text)
    return Deployment(folder, path / "data")
