"""The app that is simulated: operations whose effects and answers a checker can tell apart.

What differs between two runs of one command (`token`, `maybe`) comes from the node that runs it, so an answer
from an owner that had no right to give it does not match the journal.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from random import Random
from typing import Any

from perdure import DurableObject, Refusal, Request, Response

MARK = "m:"


class Sample(DurableObject):
    """`POST /op/mark`; every operation that changes something leaves its mark behind."""

    async def fetch(self, request: Request) -> Response:
        _, op, mark = request.path.split("/")
        random: Random = self.env.random()
        return Response.json(await getattr(self, f"do_{op}")(mark, random))

    async def do_add(self, mark: str, random: Random) -> Any:
        count = await self.state.get("count", 0) + 1
        await self.state.put({"count": count, MARK + mark: True})
        return count

    async def do_token(self, mark: str, random: Random) -> Any:
        token = random.getrandbits(40)
        await self.state.put("token", token)
        await self.state.put(MARK + mark, True)
        return token

    async def do_maybe(self, mark: str, random: Random) -> Any:
        if random.random() < 0.5:
            return False
        return await self.do_token(mark, random)

    async def do_get(self, mark: str, random: Random) -> Any:
        return [await self.state.get("count", 0), await self.state.get("token")]

    async def do_marks(self, mark: str, random: Random) -> Any:
        return len((await self.state.list(prefix=MARK)).keys)

    async def do_slow(self, mark: str, random: Random) -> Any:
        count = await self.state.get("count", 0)
        await asyncio.sleep(random.random() * 0.2)
        await self.state.put({"count": count + 1, MARK + mark: True})
        return count + 1

    async def do_alarm(self, mark: str, random: Random) -> Any:
        await self.state.set_alarm(timedelta(milliseconds=random.randrange(2000)))
        await self.state.put(MARK + mark, True)
        return await self.state.get_alarm()

    async def alarm(self) -> None:
        random: Random = self.env.random()
        await self.state.put("rings", await self.state.get("rings", 0) + 1)
        if random.random() < 0.2:
            await asyncio.sleep(random.random() * 0.3)
        if random.random() < 0.2:
            raise ValueError("the alarm")

    async def do_fail(self, mark: str, random: Random) -> Any:
        await self.state.put("count", -1)
        raise ValueError(mark)

    async def do_refuse(self, mark: str, random: Random) -> Any:
        await self.state.put("count", -2)
        raise Refusal(mark)

    async def do_forget(self, mark: str, random: Random) -> Any:
        return await self.state.delete("token")


OPS = (
    ("add", 30),
    ("get", 20),
    ("token", 12),
    ("maybe", 12),
    ("slow", 10),
    ("marks", 4),
    ("fail", 5),
    ("refuse", 4),
    ("forget", 3),
    ("alarm", 6),
)
CHANGES_NOTHING = frozenset(("get", "marks"))
