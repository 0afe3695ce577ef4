"""A document that many edit at once: each edit is stored, then shown to everyone, in one order for all.

An edit is any JSON object, sent over a WebSocket. `GET` returns the edits (`?after=N` those behind the Nth).
Each lies under a name of its own, so that the ten-thousandth costs what the first did.
"""

from __future__ import annotations

import json
from typing import Any

from perdure import DurableObject, Request, Response, WebSocket


class Document(DurableObject):
    async def fetch(self, request: Request) -> Response:
        if request.headers.get("upgrade", "").lower() == "websocket":
            await self.state.accept_websocket(request)
            return Response(status=101)
        after = int(request.query.get("after", "0"))
        edits = await self.state.items(prefix="edit:", start_after=_name(after))
        return Response.json({"edits": list(edits.values())})

    async def websocket_message(self, ws: WebSocket, message: str | bytes) -> None:
        try:
            edit = json.loads(message)
        except ValueError:
            ws.close(1007, "an edit is JSON")
            return
        await self._add(edit)

    async def _add(self, edit: Any) -> None:
        number = await self.state.get("edits", 0) + 1
        await self.state.put({"edits": number, _name(number): edit})
        self.state.broadcast(json.dumps(edit))


def _name(number: int) -> str:
    return f"edit:{number:012d}"
