"""A counter: GET returns it, POST adds one. Also over RPC: `perdure call Counter/alice increment 2`."""

from __future__ import annotations

from perdure import DurableObject, Request, Response


class Counter(DurableObject):
    async def fetch(self, request: Request) -> Response:
        count = await self.state.get("count", 0)
        if request.method == "POST":
            count += 1
            await self.state.put("count", count)
        return Response.json({"count": count})

    async def increment(self, by: int = 1) -> int:
        """Add `by` and return the new count."""
        count: int = await self.state.get("count", 0) + by
        await self.state.put("count", count)
        return count
