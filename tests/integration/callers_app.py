"""An app whose handlers use what people use to call the world: each `way` is told
from the first step on, and later.

No client loads certificates (`verify=False`): that takes longer than all the rest. What a way returns is
`ok`, or says what was wrong. `ELSEWHERE` is the URL of the services (elsewhere.py).
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx

import perdure
from perdure import DurableObject, Request, Response, WebSocket

URL = os.environ.get("ELSEWHERE", "")
if URL:  # only the server calls with these, and every process of the tests would import them: 1.4 s of CPU
    import anthropic
    import openai

WORDS = "Hello, world"
SHORT_S = 0.05
LONG_S = 30.0
WAYS: dict[str, Callable[[], Awaitable[object]]] = {}
IN_REAL_TIME: set[str] = set()


def way(function: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[object]]:
    WAYS[function.__name__] = function
    return function


def in_real_time(function: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[object]]:
    IN_REAL_TIME.add(function.__name__)
    return way(function)


@in_real_time
async def httpx_get() -> object:
    async with httpx.AsyncClient(verify=False) as client:
        return (await client.get(URL + "/hello")).text == "hello"


@in_real_time
async def httpx_side_by_side() -> object:
    async with httpx.AsyncClient(verify=False) as client, asyncio.TaskGroup() as group:
        asked = [group.create_task(client.get(URL + "/hello")) for _ in range(3)]
    return [each.result().text for each in asked] == ["hello"] * 3


@in_real_time
async def httpx_too_late() -> object:
    async with httpx.AsyncClient(verify=False, timeout=SHORT_S) as client:
        try:
            await client.get(URL + "/never")
        except httpx.TimeoutException:
            return (await client.get(URL + "/hello")).text == "hello"
    return "no time-out"


@in_real_time
async def httpx_cancelled() -> object:
    async with httpx.AsyncClient(verify=False) as client:
        with anyio.move_on_after(SHORT_S) as scope:
            await client.get(URL + "/never")
        return scope.cancelled_caught


@in_real_time
async def aiohttp_get() -> object:
    async with aiohttp.ClientSession() as session, session.get(URL + "/hello") as response:
        return await response.text() == "hello"


@in_real_time
async def aiohttp_too_late() -> object:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SHORT_S)) as session:
        try:
            async with session.get(URL + "/never"):
                return "no time-out"
        except TimeoutError:
            return True


@in_real_time
async def openai_chat() -> object:
    http = openai.DefaultAsyncHttpxClient(verify=False)
    async with openai.AsyncOpenAI(
        api_key="key", base_url=URL + "/v1", max_retries=0, http_client=http
    ) as client:
        asked: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        whole = await client.chat.completions.create(**asked)
        parts = [part async for part in await client.chat.completions.create(**asked, stream=True)]
    streamed = "".join(part.choices[0].delta.content or "" for part in parts)
    return [whole.choices[0].message.content, streamed] == [WORDS, WORDS]


@in_real_time
async def anthropic_message() -> object:
    http = anthropic.DefaultAsyncHttpxClient(verify=False)
    async with anthropic.AsyncAnthropic(
        api_key="key", base_url=URL, max_retries=0, http_client=http
    ) as client:
        asked: Any = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
        whole = await client.messages.create(**asked)
        async with client.messages.stream(**asked) as stream:
            streamed = "".join([text async for text in stream.text_stream])
    return [getattr(whole.content[0], "text", None), streamed] == [WORDS, WORDS]


@in_real_time
async def perdure_fetch() -> object:
    return await (await perdure.fetch(URL + "/hello")).text() == "hello"


@way
async def anyio_move_on_after() -> object:
    with anyio.move_on_after(SHORT_S) as scope:
        await asyncio.sleep(LONG_S)
    return scope.cancelled_caught


@way
async def anyio_fail_after() -> object:
    try:
        with anyio.fail_after(SHORT_S):
            await anyio.sleep(LONG_S)
    except TimeoutError:
        with anyio.fail_after(LONG_S):
            await anyio.lowlevel.checkpoint()
        return True
    return "no time-out"


@way
async def anyio_scope_cancelled_by_itself() -> object:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anyio.sleep(LONG_S)
    with anyio.CancelScope(shield=True):
        await anyio.lowlevel.checkpoint()
    return scope.cancelled_caught


@way
async def anyio_task_group() -> object:
    done: list[int] = []

    async def child(number: int) -> None:
        await anyio.lowlevel.checkpoint()
        done.append(number)

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(child, number)
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, LONG_S)
        await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    return sorted(done) == [0, 1, 2]


@way
async def anyio_task_group_that_fails() -> object:
    async def child() -> None:
        await anyio.lowlevel.checkpoint()
        raise ValueError("child")

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(child)
            await anyio.sleep(LONG_S)
    except ExceptionGroup as group_of_errors:
        return [type(each) for each in group_of_errors.exceptions] == [ValueError]
    return "nothing was raised"


@way
async def anyio_lock_and_event() -> object:
    lock, event, had = anyio.Lock(), anyio.Event(), list[str]()

    async def child() -> None:
        async with lock:
            had.append("child")
            event.set()

    async with lock, anyio.create_task_group() as group:
        group.start_soon(child)
        await anyio.lowlevel.checkpoint()
        had.append("me")
        lock.release()
        await event.wait()
        await lock.acquire()
    return had == ["me", "child"]


@in_real_time
async def anyio_thread() -> object:
    return await anyio.to_thread.run_sync(sum, (1, 2)) == 3


@way
async def asyncio_timeout() -> object:
    try:
        async with asyncio.timeout(SHORT_S):
            await asyncio.sleep(LONG_S)
    except TimeoutError:
        async with asyncio.timeout(LONG_S):
            await asyncio.sleep(0)
        return True
    return "no time-out"


@way
async def asyncio_task_group() -> object:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.sleep(0, number)) for number in range(3)]
    return [task.result() for task in tasks] == [0, 1, 2]


@way
async def the_same_task() -> object:
    me = asyncio.current_task()
    for _ in range(3):
        await asyncio.sleep(0)
        if asyncio.current_task() is not me:
            return "another task"
    await asyncio.wait_for(asyncio.sleep(0), LONG_S)
    return asyncio.current_task() is me


async def outcome(name: str) -> str:
    """`ok`, or what came of it."""
    task = asyncio.current_task()
    try:
        found = await WAYS[name]()
    except Exception:  # noqa: BLE001 - that is what is to be told
        return traceback.format_exc()
    if asyncio.current_task() is not task:
        return "another task"
    return "ok" if found is True else repr(found)


async def outcomes(ways: list[str]) -> dict[str, str]:
    """Of each of them, one after the other."""
    return {name: await outcome(name) for name in ways}


class Caller(DurableObject):
    """Calls the world in its methods, in its alarm and over its sockets."""

    async def first(self, name: str) -> str:
        return await outcome(name)

    async def later(self, name: str) -> str:
        await asyncio.sleep(0)
        return await outcome(name)

    async def ring(self, ways: list[str]) -> None:
        await self.state.put("ways", ways)
        await self.state.set_alarm(self.state.now)

    async def alarm(self) -> None:
        name, *left = await self.state.get("ways")
        told = await outcome(name)
        await self.state.put({"ways": left, "told": await self.state.get("told", {}) | {name: told}})
        if left:
            await self.state.set_alarm(self.state.now)

    async def told(self) -> dict[str, str]:
        found: dict[str, str] = await self.state.get("told", {})
        return found

    async def fetch(self, request: Request) -> Response:
        await self.state.accept_websocket(request)
        return Response.upgrade()

    async def websocket_message(self, ws: WebSocket, message: str | bytes) -> None:
        ws.send(await outcome(str(message)))


class Starter(DurableObject):
    """Calls the world while it starts, in the way that its name says."""

    async def start(self) -> None:
        self.told = await outcome(self.state.id.name)

    async def told_at_start(self) -> str:
        return self.told


async def fetch(request: Request, env: Any) -> Response:
    """The Worker: calls the world itself."""
    return Response(await outcome(request.path.strip("/")))
