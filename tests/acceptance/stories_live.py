"""Stories of the systems that hold connections: WebSockets, and an origin behind a cache."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack
from itertools import count

import pytest
from tests.acceptance.systems import Systems
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

EDITORS = 50


async def distributed_cache(systems: Systems) -> None:
    """100 misses of one key at once ask the origin once; a hit never does; what failed is asked again."""

    async def get(key: str) -> tuple[int, str]:
        response = await systems.ask("GET", "/objects/DistributedCache/edge", headers={"cache-key": key})
        return response.status_code, response.text

    told = await asyncio.gather(*(get("popular") for _ in range(100)))
    assert set(told) == {(200, "popular, 1")}
    assert (await get("failing"))[0] == 502
    assert (await get("failing"))[0] == 502
    assert systems.origin["failing"] == 2
    numbers = count()
    found = await systems.until_killed(lambda: get(f"k{next(numbers) % 10}"))
    assert {status for status, _ in found.results} == {200}
    assert await get("popular") == (200, "popular, 1")
    assert systems.origin["popular"] == 1


async def document(systems: Systems) -> None:
    """50 clients edit while the server dies: all see one order, and no edit that
    anybody saw is lost or doubled.

    Half of them come through the Worker, which passes their sockets on.
    """
    path, through_worker = "/objects/Document/page", "/documents/page"
    numbers = count()
    seen: list[list[int]] = []

    async with AsyncExitStack() as stack:
        editors = await systems.connected(stack, path, EDITORS // 2)
        editors += await systems.connected(stack, through_worker, EDITORS // 2)
        seen = [[] for _ in editors]
        idle = list(range(EDITORS))

        async def edit() -> int:
            at, number = idle.pop(), next(numbers)
            await editors[at].send(json.dumps({"edit": number}))
            while number not in seen[at]:
                seen[at].append(json.loads(await editors[at].recv())["edit"])
            idle.insert(0, at)
            return number

        found = await systems.until_killed(edit, clients=8)
        for at, editor in enumerate(editors):
            seen[at] += await _rest(editor)
    longest = max(seen, key=len)
    for each in seen:
        assert each == longest[: len(each)], "two clients saw edits in different orders"
    edits = [each["edit"] for each in (await systems.ask("GET", path)).json()["edits"]]
    assert set(Counter(edits).values()) == {1}, "an edit was doubled"
    assert edits[: len(longest)] == longest, "an edit that was seen is lost or moved"
    assert set(found.results) <= set(edits)
    async with systems.ws(through_worker) as again:
        await again.send(json.dumps({"edit": -1}))
        assert json.loads(await again.recv()) == {"edit": -1}


async def _rest(editor: ClientConnection) -> list[int]:
    found = []
    try:
        while True:
            found.append(json.loads(await editor.recv())["edit"])
    except ConnectionClosed:
        return found


async def echo(systems: Systems) -> None:
    """Text and bytes come back in both styles, across the crash with a new
    connection; close codes reach both ends.
    """
    async with AsyncExitStack() as stack:
        both = [
            (await systems.connected(stack, f"/objects/Echo/room/{style}", 1))[0]
            for style in ("methods", "listener")
        ]
        numbers = count()

        async def ask(ws: ClientConnection) -> str:
            sent = f"n{next(numbers)}"
            await ws.send(sent)
            assert await ws.recv() == sent
            return sent

        async def one() -> list[str]:
            return [await ask(ws) for ws in both]

        await systems.until_killed(one, clients=1)
    for style in ("methods", "listener"):
        async with systems.ws(f"/objects/Echo/room/{style}") as ws:
            for data in ("text", b"\0bytes"):
                await ws.send(data)
                assert await ws.recv() == data
    async with systems.ws("/objects/Echo/room/methods") as ws:
        await ws.send("bye")
        with pytest.raises(ConnectionClosed) as closed:
            await ws.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "bye")
