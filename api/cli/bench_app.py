"""The app `perdure bench` serves: the smallest durable counter."""

from __future__ import annotations

from perdure.objects.durable import DurableObject
from perdure.objects.http import Request, Response


class Counter(DurableObject):
    """A counter: GET returns it, POST adds one."""

    async def fetch(self, request: Request) -> Response:
        count = await self.state.get("count", 0)
        if request.method == "POST":
            count += 1
            await self.state.put("count", count)
        return Response.json({"count": count})
