"""An app with an object that is asked for more than a processor can do; what it
does is counted for the whole process.
"""

from __future__ import annotations

import time

from perdure import DurableObject, Request, Response, WebSocket

done = {"turns": 0, "messages": 0}


class Hot(DurableObject):
    """A turn of `toil` takes 20 ms of the processor."""

    async def fetch(self, request: Request) -> Response:
        await self.state.accept_websocket(request)
        return Response.upgrade()

    async def toil(self) -> int:
        until = time.perf_counter() + 0.02
        while time.perf_counter() < until:
            pass
        done["turns"] += 1
        return done["turns"]

    async def websocket_message(self, ws: WebSocket, message: str | bytes) -> None:
        done["messages"] += 1
        await self.state.put("messages", done["messages"])


class Cold(DurableObject):
    """Says how much the hot one has done meanwhile."""

    async def look(self) -> dict[str, int]:
        return done

    async def write(self) -> dict[str, int]:
        await self.state.put("writes", await self.state.get("writes", 0) + 1)
        return done
