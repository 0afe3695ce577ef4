"""`WebSocketPair`: WebSockets in listener style, as on Cloudflare Workers.

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
    """The end of a `WebSocketPair` that the object keeps."""

    __slots__ = ()

    def accept(self) -> None:
        """Accept the WebSocket, so that listeners receive its events.

        Raises `ObjectError` outside a turn, `Refusal` (code `upgrade-required`) if
        the request does not ask for one.
        """
        state = getattr(current_turn.get(None), "state", None)
        if not isinstance(state, State):
            raise ObjectError("accept() a WebSocket inside the object's fetch")
        state.accept_pair(self)


class ClientEnd:
    """The end of a `WebSocketPair` that goes to the client: `Response(None,
    status=101, web_socket=client)`.
    """

    __slots__ = ("server",)

    def __init__(self, server: ServerEnd) -> None:
        self.server = server


class WebSocketPair(tuple[ClientEnd, ServerEnd]):
    """The two ends of a WebSocket in listener style: `client, server = WebSocketPair()`.

    The listeners are functions in memory, so these sockets close with 1012 when the object leaves it.
    """

    __slots__ = ()

    def __new__(cls) -> Self:
        server = ServerEnd()
        return super().__new__(cls, (ClientEnd(server), server))
