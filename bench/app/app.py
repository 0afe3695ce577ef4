"""Objects that only the benchmark needs: a room, a pair that calls, alarms at a time, many keys, a busy one.

Laws
- Each does no more than its measurement needs; what it stores lies one value per key.
- `Front` and its `Back` lie in different partitions, so that no call stays in one.
"""

from __future__ import annotations

import time
from itertools import count

from perdure import DurableObject, Request, Response, WebSocket
from perdure.schemas.keys import partition_of

PARTITIONS = 8  # perdure's default


class Room(DurableObject):
    """Each message of a socket is stored, then sent to all sockets."""

    async def fetch(self, request: Request) -> Response:
        await self.state.accept_websocket(request)
        return Response(status=101)

    async def websocket_message(self, ws: WebSocket, message: str | bytes) -> None:
        number = await self.state.get("messages", 0) + 1
        await self.state.put({"messages": number, f"message:{number:012d}": message})
        self.state.broadcast(message)


class Back(DurableObject):
    async def add(self) -> int:
        number: int = await self.state.get("count", 0) + 1
        await self.state.put("count", number)
        return number

    async def count(self) -> int:
        number: int = await self.state.get("count", 0)
        return number


class Front(DurableObject):
    """A counter whose number is kept by another object: POST is one call that writes, GET one that reads."""

    async def start(self) -> None:
        name, home = self.state.id.name, partition_of(f"Front/{self.state.id.name}", PARTITIONS)
        names = (f"{name}-{number}" for number in count())
        self.back = next(each for each in names if partition_of(f"Back/{each}", PARTITIONS) != home)

    async def fetch(self, request: Request) -> Response:
        back = self.env.BACKS.get(self.back)
        number = await (back.add() if request.method == "POST" else back.count())
        return Response.json({"count": number})


class Bell(DurableObject):
    """`POST ?at=MS` sets an alarm for that time, in ms since 1970; GET returns how often it has run."""

    async def fetch(self, request: Request) -> Response:
        if request.method == "POST":
            await self.state.set_alarm(int(request.query["at"]))
        return Response.json({"count": await self.state.get("rung", 0)})

    async def alarm(self) -> None:
        await self.state.put("rung", await self.state.get("rung", 0) + 1)


class Shelf(DurableObject):
    """`POST ?keys=N` puts N small values; GET reads all of them and returns their number."""

    async def fetch(self, request: Request) -> Response:
        if request.method == "POST":
            keys = int(request.query["keys"])
            await self.state.put({f"key:{number:06d}": f"value {number}" for number in range(keys)})
        return Response.json({"count": len(await self.state.items())})


class Busy(DurableObject):
    """Each fetch takes 20 ms of the processor."""

    done = 0  # by all of them in this process

    async def fetch(self, request: Request) -> Response:
        until_s = time.thread_time() + 0.02
        while time.thread_time() < until_s:
            pass
        Busy.done += 1
        return Response(status=204)


class Idle(DurableObject):
    """GET returns how many turns of busy objects the process has run."""

    async def fetch(self, request: Request) -> Response:
        return Response.json({"count": Busy.done})
