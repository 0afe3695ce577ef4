"""An app whose handlers do not let go, or take the process with them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import time

from perdure import DurableObject, Request, Response

DURABLE_S = 0.2  # after which a command is on the log; one that kills the process before that is lost with it


class Wild(DurableObject):
    """`POST /{what}` puts 1, then does that; `GET` tells what was put. `slow` is innocent."""

    async def fetch(self, request: Request) -> Response:
        count: int = await self.state.get("count", 0)
        if request.method == "POST":
            await self.state.put("count", count + 1)
            await getattr(self, "_" + request.path.strip("/"))()
        return Response.json({"count": count + (request.method == "POST")})

    async def _nothing(self) -> None:
        pass

    async def _slow(self) -> None:
        await asyncio.sleep(0.5)

    async def _loops(self) -> None:
        while True:
            pass

    async def _loops_in_storage(self) -> None:
        while True:
            await self.state.get("count")

    async def _sleeps(self) -> None:
        time.sleep(60)  # noqa: ASYNC251 - as a user may do

    async def _loops_in_a_task(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._loops())

    async def _catches(self) -> None:
        """And would answer, as if nothing had been."""
        with contextlib.suppress(BaseException):
            await self._loops()

    async def _dies(self) -> None:
        await asyncio.sleep(DURABLE_S)
        os._exit(3)

    async def _dies_at_once(self) -> None:
        os._exit(3)

    async def _rings(self) -> None:
        await self.state.set_alarm(self.state.now)

    async def alarm(self) -> None:
        os._exit(3)

    async def _sends(self) -> None:
        self.env.Wild.get("receiver").send.dies()

    async def dies(self) -> None:
        os._exit(3)

    async def _computes(self) -> None:
        """In C, with Python's lock held, and never looking for signals."""
        await asyncio.sleep(DURABLE_S)
        sum(range(10**13))

    async def _waits(self) -> None:
        """In C, for a lock that nobody gives back."""
        await asyncio.sleep(DURABLE_S)
        libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)
        libc.pthread_mutex_lock(mutex)
        libc.pthread_mutex_lock(mutex)
