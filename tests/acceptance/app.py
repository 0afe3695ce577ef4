"""The app under test: a counter, and an object that does everything a handler can do wrong."""

from __future__ import annotations

import asyncio
import os
import sys
from random import Random
from typing import Any

from perdure import DurableObject, Request, Response


class _NotEvenAnException(BaseException):
    pass


class Counter(DurableObject):
    """`POST /{mark}` adds one, `GET /{mark}` reads; the mark tells one request from another on the log."""

    async def fetch(self, request: Request) -> Response:
        if request.method == "POST":
            return Response.json({"count": await self.increment()})
        return Response.json({"count": await self.value()})

    async def increment(self, by: int = 1) -> int:
        count = await self.value() + by
        await self.state.put("count", count)
        return count

    async def value(self) -> int:
        count: int = await self.state.get("count", 0)
        return count

    async def fill(self, size_bytes: int) -> int:
        """Put one value that is as large as asked, and cannot be compressed."""
        await self.state.put("filling", Random(size_bytes).randbytes(size_bytes))
        return size_bytes

    async def mark(self, count: int) -> int:
        """Put the count, then read what `fill` put."""
        await self.state.put("count", count)
        return len(await self.state.get("filling", b""))


class Trouble(DurableObject):
    """`POST /{what}` puts 99, then goes wrong in that way; `GET` tells what was put: nothing, ever."""

    async def fetch(self, request: Request) -> Any:
        if request.method == "GET":
            return Response.json({"count": await self.state.get("count", 0)})
        await self.state.put("count", 99)
        return await getattr(self, "_" + request.path.strip("/"))()

    async def _raises(self) -> None:
        raise ValueError("on purpose")

    async def _nonsense(self) -> object:
        return object()

    async def _none(self) -> None:
        return None

    async def _header(self) -> Response:
        return Response("x", headers={"x-bad": "a\r\nset-cookie: b"})

    async def _status(self) -> Response:
        return Response("x", status=42)

    async def _body(self) -> Response:
        return Response(["no", "bytes"])  # type: ignore[arg-type]  # on purpose

    async def _unstorable(self) -> None:
        await self.state.put("count", object())

    async def _exits(self) -> None:
        sys.exit(3)

    async def _interrupts(self) -> None:
        raise KeyboardInterrupt

    async def _interrupts_later(self) -> None:
        await asyncio.sleep(0)
        raise KeyboardInterrupt

    async def _recursion(self) -> None:
        await self._recursion()

    async def _memory(self) -> None:
        bytearray(1 << 60)

    async def _cancelled(self) -> None:
        raise asyncio.CancelledError

    async def _base(self) -> None:
        raise _NotEvenAnException("on purpose")

    async def _hangs(self) -> None:
        await asyncio.Event().wait()

    async def _stubborn(self) -> None:
        """Awaits for ever and ignores being cancelled."""
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    async def typed(self, number: int, text: str = "") -> int:
        return number


class Slow(DurableObject):
    """A counter whose turns take `SLOW_S` seconds of the environment."""

    async def fetch(self, request: Request) -> Response:
        count: int = await self.state.get("count", 0)
        if request.method == "POST":
            await asyncio.sleep(float(os.environ.get("SLOW_S", "0.1")))
            count += 1
            await self.state.put("count", count)
        return Response.json({"count": count})
