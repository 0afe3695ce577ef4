"""An object that counts its requests in its own state (`metrics:requests`), and
notices when they become too many.

`/metrics` has the same per namespace, from outside.
"""

from __future__ import annotations

from perdure import DurableObject, Request, Response


class MeteredObject(DurableObject):
    async def fetch(self, request: Request) -> Response:
        requests = await self.state.get("metrics:requests", 0) + 1
        await self.state.put("metrics:requests", requests)
        if requests == getattr(self.env, "HIGH_USAGE", 1_000_000):
            await self.high_usage(requests)
        return Response.json({"requests": requests})

    async def high_usage(self, requests: int) -> None:
        """Called once, when the bound is reached: consider splitting the object."""
        await self.state.put("metrics:high_usage_at", self.state.now)
