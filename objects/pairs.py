"""`WebSocketPair`: WebSockets in listener style, for those who come from Cloudflare.

    client, server = WebSocketPair()
    server.accept()
    server.add_event_listener("message", heard)
    return Response(None, status=101, web_socket=client)

Law: the server's end is accepted in the turn whose request asks for it, and answered with its client's end.
"""

from __future__ import annotations

from typing import Self

from perdure.objects.overlay import current_turn
from perdure.objects.sockets import ListenerSocket
from perdure.objects.state import State
from perdure.schemas.errors import ObjectError


class ServerEnd(ListenerSocket):
    """What the object keeps of a pair."""

    __slots__ = ()

    def accept(self) -> None:
        """Begin to hear events. Raises `ObjectError` outside a turn, `Refusal` if the request is no upgrade."""
        state = getattr(current_turn.get(None), "state", None)
        if not isinstance(state, State):
            raise ObjectError("accept() a WebSocket inside the object's fetch")
        state.accept_pair(self)


class ClientEnd:
    """What the object gives away, in `Response(None, status=101, web_socket=…)`."""

    __slots__ = ("server",)

    def __init__(self, server: ServerEnd) -> None:
        self.server = server


class WebSocketPair(tuple[ClientEnd, ServerEnd]):
    """The two ends of a WebSocket: `client, server = WebSocketPair()`, or `pair[0]`, `pair[1]`."""

    __slots__ = ()

    def __new__(cls) -> Self:
        server = ServerEnd()
        return super().__new__(cls, (ClientEnd(server), server))
