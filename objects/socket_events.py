"""A WebSocket's events on their way to the object: a `websocket_…` method, or the listeners of a pair.

Laws
- An event of a socket that the object does not have reaches no user code (`SocketMethods.heard`).
- A handler or listener may be async or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from perdure.objects.sockets import ListenerSocket, awaited
from perdure.schemas.commands import Command
from perdure.schemas.errors import BadFrame
from perdure.schemas.sockets import CLOSED, ERROR, MESSAGE, TEXT

if TYPE_CHECKING:
    from perdure.objects.durable import DurableObject


class Event(msgspec.Struct, frozen=True):
    """An event of a WebSocket, as its listeners receive it."""

    type: str
    data: str | bytes | None = None
    code: int = 0
    reason: str = ""
    was_clean: bool = False
    error: Exception | None = None


async def handle_event(instance: DurableObject, command: Command) -> None:
    """Handle a socket command: call the object's method, or its listeners, for the event."""
    socket = instance.state.heard(command)
    if socket is None:
        return
    facts = dict(command.headers)
    if command.method == MESSAGE:
        data = command.body.decode() if facts.get("type") == TEXT else command.body
        event = Event(MESSAGE, data)
    elif command.method == CLOSED:
        event = Event(
            CLOSED,
            code=int(facts.get("code", "1005")),
            reason=command.body.decode("utf-8", "replace"),
            was_clean=facts.get("clean") == "1",
        )
    else:
        event = Event(ERROR, error=BadFrame(command.body.decode("utf-8", "replace")))
    if isinstance(socket, ListenerSocket):
        await socket.dispatch(event)
    elif event.type == MESSAGE:
        assert event.data is not None
        await awaited(instance.websocket_message(socket, event.data))
    elif event.type == CLOSED:
        await awaited(instance.websocket_close(socket, event.code, event.reason, event.was_clean))
    else:
        assert event.error is not None
        await awaited(instance.websocket_error(socket, event.error))
