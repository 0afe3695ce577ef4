"""The app of the WebSocket tests: a room in handler style, an echo in listener style."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from perdure import DurableObject, Request, Response, WebSocket, WebSocketPair


class Room(DurableObject):
    """Does what a JSON text says, sends other messages back, and keeps what it hears of ends."""

    async def fetch(self, request: Request) -> Response:
        if request.path == "/told":
            return Response.json(await self.state.get("told", []))
        if request.path == "/open":
            return Response.json({ws.id: list(ws.tags) for ws in self.state.websockets()})
        if request.path == "/flood":
            for _ in range(int(request.query["frames"])):
                self.state.broadcast("x" * int(request.query["size"]))
            return Response()
        if request.path == "/no":
            return Response("not today", 403, {"x-why": "closed"})
        if request.path == "/half":
            await self.state.accept_websocket(request)
            return Response("accepted, or what?")
        ws = await self.state.accept_websocket(request, tags=[*request.query.get("tags", "").split(",")])
        ws.serialize_attachment({"count": 0})
        protocol = request.headers.get("sec-websocket-protocol")
        return Response.upgrade({"sec-websocket-protocol": protocol} if protocol else None)

    async def websocket_message(self, ws: WebSocket, message: str | bytes) -> None:
        if isinstance(message, str) and message.startswith("{"):
            await self.obey(ws, json.loads(message))
        else:
            ws.send(message)

    async def obey(self, ws: WebSocket, asked: dict[str, Any]) -> None:
        match asked:
            case {"say": text, "tag": tag}:
                self.state.broadcast(text, tag)
            case {"say": text}:
                number = await self.state.get("said", 0) + 1
                await self.state.put("said", number)
                self.state.broadcast(f"{number} {text}", exclude=[ws] if asked.get("others") else [])
            case {"count": _}:
                ws.serialize_attachment({"count": ws.deserialize_attachment()["count"] + 1})
                ws.send(str(ws.deserialize_attachment()["count"]))
            case {"slow": seconds}:
                await asyncio.sleep(seconds)
                ws.send("awake")
            case {"close": code}:
                ws.close(code, asked.get("reason", ""))
            case {"auto": [request, response]}:
                self.state.set_websocket_auto_response(request, response)
                ws.send("set")
            case {"fail": text}:
                self.state.broadcast(text)
                ws.serialize_attachment("of a turn that failed")
                raise ValueError(text)

    async def websocket_close(self, ws: WebSocket, code: int, reason: str, was_clean: bool) -> None:
        await self.tell(["close", code, reason, was_clean, ws.deserialize_attachment()])

    async def websocket_error(self, ws: WebSocket, error: Exception) -> None:
        await self.tell(["error", type(error).__name__])

    async def tell(self, what: list[Any]) -> None:
        await self.state.put("told", [*await self.state.get("told", []), what])


class Listener(DurableObject):
    """Echoes in listener style; it fails when told `fail`."""

    async def fetch(self, request: Request) -> Response:
        if request.path == "/told":
            return Response.json(await self.state.get("told", []))
        if request.path == "/fail":
            raise ValueError("as asked")
        client, server = WebSocketPair()
        server.accept()
        heard = 0

        async def message(event: Any) -> None:
            nonlocal heard
            heard += 1
            if isinstance(event.data, bytes):
                server.send(event.data)
            else:
                server.send(f"{heard} {event.data}")
            if event.data == "bye":
                server.close(4001, "as you like")

        async def closed(event: Any) -> None:
            await self.state.put("told", [event.code, event.reason, event.was_clean])

        server.add_event_listener("message", message)
        server.add_event_listener("close", closed)
        server.send("hello")
        return Response(None, status=101, web_socket=client)
