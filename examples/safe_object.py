"""An object that answers even if its storage fails: 503, and the reason. Such a
turn never commits anything.
"""

from __future__ import annotations

from perdure import DurableObject, Request, Response, StorageFailed


class SafeObject(DurableObject):
    async def fetch(self, request: Request) -> Response:
        try:
            if request.method == "POST":
                await self.state.put("data", await request.json())
            return Response.json(await self.state.get("data"))
        except StorageFailed as error:
            return Response.json({"error": "Service unavailable", "reason": str(error)}, 503)
