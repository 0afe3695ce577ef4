"""A WebSocket echo, in both styles: `/listener` with event listeners, all other paths with methods.

The listener style keeps its sockets with the instance; the methods' sockets outlive
eviction and restarts of the object.
"""

from __future__ import annotations

from perdure import DurableObject, Request, Response, WebSocket, WebSocketPair


class Echo(DurableObject):
    async def fetch(self, request: Request) -> Response:
        if request.headers.get("upgrade", "").lower() != "websocket":
            return Response("this object speaks WebSocket", 426, {"upgrade": "websocket"})
        if request.path == "/listener":
            client, server = WebSocketPair()
            server.accept()
            server.add_event_listener("message", lambda event: server.send(event.data))
            return Response(status=101, web_socket=client)
        await self.state.accept_websocket(request)
        return Response(status=101)

    async def websocket_message(self, ws: WebSocket, message: str | bytes) -> None:
        if message == "bye":
            ws.close(4000, "bye")
        else:
            ws.send(message)
