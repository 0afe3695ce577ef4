"""WebSockets as an object sees them: the gateway has the connection, and the object a row for it.

Laws
- What is sent, closed, tagged or attached belongs to the turn: it counts if the
  turn commits, and leaves after that.
- An event of a socket that the object does not have (any more) reaches no user code.
- Handler style lives in rows alone, so the object may leave memory. Listener style has functions in memory:
  when the instance goes, its sockets of that style are closed with 1012.
- Sending to a closed socket does nothing: any socket may close at any moment. [test_sockets.py]
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.objects.effects import AT_ONCE, Effects, SentFrame
from perdure.schemas.commands import Command
from perdure.schemas.effects import SocketChange, SocketRow, socket_row
from perdure.schemas.errors import ObjectError, Refusal, TooLarge
from perdure.schemas.sockets import (
    AUTO,
    BINARY,
    CLOSE,
    CLOSED,
    ERROR,
    GONE,
    MESSAGE,
    SERVICE_RESTART,
    SETTINGS,
    TEXT,
    number_of,
    upgrade_of,
)
from perdure.schemas.statuses import UPGRADE_REQUIRED
from perdure.schemas.values import decode_value, encode_value

if TYPE_CHECKING:
    from perdure.objects.http import Request
    from perdure.objects.overlay import Overlay, View
    from perdure.objects.socket_events import Event

MAX_ATTACHMENT_BYTES = 16 * 1024
MAX_TAGS = 10
MAX_TAG_CHARS = 256
MAX_REASON_BYTES = 123  # RFC 6455 §5.5: a control frame carries 125 bytes, two of them the code
_REPORTED_ONLY = {1005: 1000, 1006: 1001, 1015: 1001}  # RFC 6455 §7.4.1: never sent -> the nearest code
_encode = msgspec.msgpack.Encoder().encode
_decode_pair = msgspec.msgpack.Decoder(tuple[str, str]).decode


class WebSocket:
    """A WebSocket that the object has accepted. It outlives the object's memory,
    but not the server's process.

    Its methods raise `TurnEnded` outside a turn of the object. What they do happens
    once the turn has committed.

    Attributes:
        id: the socket's id, which no other socket ever has.
    """

    __slots__ = ("_last", "_number", "_state", "id")

    def __init__(self, state: SocketMethods | None, id_: str) -> None:
        self._state = state
        self.id = id_
        self._number = number_of(id_) if id_ else -1
        self._last: SocketRow | None = None  # of one that has just been closed

    def __repr__(self) -> str:
        return f"<WebSocket {self.id}>"

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags given to `accept_websocket`."""
        row = self._row()
        return () if row is None else row.tags

    def send(self, data: str | bytes) -> Awaitable[None]:
        """Send a text (str) or binary (bytes) message. It need not be awaited; to a
        closed socket it does nothing.
        """
        state = self._bound()
        row = state._socket_row(self.id)
        type_, data = _frame_of(data)
        if row is not None:
            state._effects().send(type_, data, row.gateway, self._number)
        return AT_ONCE

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the socket. The object receives no further event of it; on a closed socket it does nothing.

        code: 1000, or 3000 to 4999 for one of the app's own. 1005 is sent as 1000, 1006 and 1015 as 1001.
        reason: at most 123 bytes of UTF-8.

        Raises ValueError for a code that cannot be sent and for a longer reason.
        """
        if (state := self._bound())._socket_row(self.id) is None:
            return
        code = _REPORTED_ONLY.get(code, code)
        if not (1000 <= code <= 1014 and code != 1004) and not 3000 <= code <= 4999:
            raise ValueError(f"the close code {code} cannot be sent: take 1000, or one from 3000 to 4999")
        if len(reason.encode()) > MAX_REASON_BYTES:
            raise ValueError(f"the reason of a close has at most {MAX_REASON_BYTES} bytes of UTF-8")
        state._close(self.id, self._number, code, reason)

    def serialize_attachment(self, value: Any) -> None:
        """Store a value with the socket, at most 16 KiB encoded. Raises `TooLarge`, `UnstorableValue`."""
        encoded = encode_value("the attachment of a WebSocket", value)
        if len(encoded) > MAX_ATTACHMENT_BYTES:
            raise TooLarge(
                f"the attachment of a WebSocket has at most {MAX_ATTACHMENT_BYTES} bytes, this one has "
                f"{len(encoded)}: put it into the state and attach its name"
            )
        state = self._bound()
        row = state._socket_row(self.id)
        if row is not None:
            change = SocketChange(self.id, row.gateway, row.tags, encoded, row.listener)
            state._effects().sockets[self.id] = change

    def deserialize_attachment(self) -> Any:
        """A copy of the value stored with the socket; None if there is none."""
        row = self._row()
        return decode_value(row.attachment) if row is not None and row.attachment else None

    def _bound(self) -> SocketMethods:
        if self._state is None:
            raise ObjectError("this WebSocket belongs to no object yet: accept() it first")
        return self._state

    def _row(self) -> SocketRow | None:
        return self._bound()._socket_row(self.id) or self._last


class ListenerSocket(WebSocket):
    """A WebSocket whose events go to listeners: the server's end of a `WebSocketPair`."""

    __slots__ = ("_listeners",)

    def __init__(self) -> None:
        super().__init__(None, "")
        self._listeners: list[tuple[str, Callable[[Any], Any]]] = []

    def add_event_listener(self, type_: str, listener: Callable[[Any], Any]) -> None:
        """Call `listener(event)`, a function or coroutine function, for each event of the type.

        type_: `message` (`event.data` is str or bytes), `close` (`event.code`,
            `reason`, `was_clean`) or `error`.
        """
        if type_ not in (MESSAGE, CLOSED, ERROR):
            raise ValueError(f"a WebSocket has the events message, close and error, not {type_!r}")
        self._listeners.append((type_, listener))

    async def dispatch(self, event: Event) -> None:
        for type_, listener in tuple(self._listeners):
            if type_ == event.type:
                await awaited(listener(event))

    def bind(self, state: SocketMethods, id_: str) -> None:
        self._state, self.id, self._number = state, id_, number_of(id_)


async def awaited(result: Any) -> None:
    """Await what a handler or listener returned, if it is a coroutine."""
    if inspect.isawaitable(result):
        await result


def _frame_of(data: str | bytes) -> tuple[str, str | bytes]:
    if isinstance(data, str):
        return TEXT, data
    if isinstance(data, (bytes, bytearray, memoryview)):
        return BINARY, bytes(data)
    raise TypeError(f"a WebSocket sends str or bytes, not {type(data).__name__}: json.dumps() it first")


class SocketMethods:
    """The part of `State` that concerns WebSockets."""

    if not TYPE_CHECKING:  # the slots are the state's
        __slots__ = ()
    else:
        _view: View
        _turn: Any
        _overlay: Overlay
        _sockets: dict[str, WebSocket] | None
        _listening: dict[str, ListenerSocket] | None

        inside: Callable[[], Overlay]
        _writable: Callable[[], Overlay]

    async def accept_websocket(self, request: Request, tags: Iterable[str] = ()) -> WebSocket:
        """Accept the WebSocket that the request asks for; `fetch` then returns `Response.upgrade()`.

        Its events go to `websocket_message`, `websocket_close` and `websocket_error` of the object.

        request: the request of this turn.
        tags: words by which `websockets` and `broadcast` find it; at most 10, of at most 256 characters each.

        Raises `Refusal` (code `upgrade-required`, HTTP 426) if the request does not ask for a WebSocket.
        """
        del request  # the turn's own command says it: a turn cannot accept for another request
        id_, gateway = self._requested_upgrade()
        named = tuple(tags)
        if len(named) > MAX_TAGS or not all(type(tag) is str and len(tag) <= MAX_TAG_CHARS for tag in named):
            raise ValueError(f"a WebSocket has at most {MAX_TAGS} tags, each a str up to {MAX_TAG_CHARS}")
        self._accept(SocketChange(id_, gateway, named))
        return self._socket(id_)

    def websockets(self, tag: str | None = None) -> list[WebSocket]:
        """The object's open WebSockets, or those with a tag; without those of a `WebSocketPair`."""
        return [self._socket(id_) for id_, _ in self._chosen(tag)]

    get_websockets = websockets

    def broadcast(
        self, data: str | bytes, tag: str | None = None, exclude: Iterable[WebSocket] = ()
    ) -> Awaitable[None]:
        """Send one message to all WebSockets of the object, in one order for all,
        once the turn has committed.

        data: str for a text message, bytes for a binary one.
        tag: only to sockets with this tag.
        exclude: not to these sockets.
        """
        type_, data = _frame_of(data)
        left_out = {socket.id for socket in exclude}
        chosen = [(id_, row) for id_, row in self._chosen(tag) if id_ not in left_out]
        if chosen:
            frame = self._effects().send_all(SentFrame(type_, data))
            for id_, row in chosen:
                frame.to(row.gateway, number_of(id_))
        return AT_ONCE

    def set_websocket_auto_response(self, request: str | None, response: str = "") -> None:
        """Answer the text message `request` with `response` without running the object; None ends it.

        Raises `TooLarge` if both together have over 16 KiB.
        """
        pair = b"" if request is None else _encode((request, response))
        if len(pair) > MAX_ATTACHMENT_BYTES:
            raise TooLarge(f"request and response have {len(pair)} bytes; {MAX_ATTACHMENT_BYTES} are allowed")
        chosen = self._chosen(None)
        effects = self._effects()
        effects.sockets[SETTINGS] = SocketChange(SETTINGS, "" if request is None else "auto", (), pair)
        if chosen:
            frame = effects.send_all(SentFrame(AUTO, pair))
            for id_, row in chosen:
                frame.to(row.gateway, number_of(id_))

    def get_websocket_auto_response(self) -> tuple[str, str] | None:
        """The pair given to `set_websocket_auto_response`; None if there is none."""
        row = self._socket_row(SETTINGS)
        return None if row is None else _decode_pair(row.attachment)

    # For pairs, the turn and its owner

    def accept_pair(self, server: ListenerSocket) -> None:
        """Accept the turn's request for the server's end of a pair. Raises as `accept_websocket` does."""
        id_, gateway = self._requested_upgrade()
        server.bind(self, id_)
        self._accept(SocketChange(id_, gateway, listener=True))
        effects = self._effects()
        effects.listeners = (effects.listeners or {}) | {id_: server}

    def concerns(self, command: Command) -> bool:
        """True if an instance is needed for this event, while none is in memory.
        Otherwise the event is handled here.
        """
        row = self._socket_row(command.path)
        if row is not None and row.listener:
            self.heard(command)
        return row is not None and not row.listener

    def heard(self, command: Command) -> WebSocket | None:
        """The socket whose event this is; None if no code receives it. Closed
        sockets leave the object here.
        """
        row = self._socket_row(command.path) if command.path else None
        if row is None:
            return None
        socket: WebSocket | None = self._socket(command.path)
        assert socket is not None
        if row.listener and not isinstance(socket, ListenerSocket):  # the instance that listened is gone
            socket, restarted = None, self._socket(command.path)
            if command.method != CLOSED:
                self._close(restarted.id, restarted._number, SERVICE_RESTART, "the object was restarted")
        if command.method == CLOSED:
            if socket is not None:
                socket._last = row
            self._effects().sockets[command.path] = SocketChange(command.path, "")
        return None if command.method == GONE else socket

    def kept(self, sockets: dict[str, SocketChange], listeners: dict[str, ListenerSocket] | None) -> None:
        """Take over the changes of a turn that has committed."""
        if listeners:
            self._listening = (self._listening or {}) | listeners
        for id_, change in sockets.items():
            if not change.gateway:
                for known in (self._sockets, self._listening):
                    if known is not None:
                        known.pop(id_, None)

    def instance_gone(self) -> list[str]:
        """The instance has left memory; returns the ids of the sockets that it listened to."""
        lost, self._listening = list(self._listening or ()), None
        return lost

    def _effects(self) -> Effects:
        return self._writable().effect()

    def _requested_upgrade(self) -> tuple[str, str]:
        effects = self.inside().effects
        upgrade = upgrade_of(self._turn.command)
        if upgrade is None:
            text = "this is a WebSocket: connect with ws://, or send Upgrade: websocket"
            raise Refusal(text, code=UPGRADE_REQUIRED)
        if effects is not None and effects.accepted:
            raise ObjectError("the request's WebSocket has been accepted already: one request is one socket")
        return upgrade

    def _accept(self, change: SocketChange) -> None:
        settings = self._socket_row(SETTINGS)
        effects = self._effects()
        effects.sockets[change.id] = change
        effects.accepted = change.id
        if settings is not None:
            frame = effects.send_all(SentFrame(AUTO, settings.attachment))
            frame.to(change.gateway, number_of(change.id))

    def _close(self, id_: str, number: int, code: int, reason: str) -> None:
        row = self._socket_row(id_)
        if row is not None:
            effects = self._effects()
            effects.send_all(SentFrame(CLOSE, reason, code)).to(row.gateway, number)
            effects.sockets[id_] = SocketChange(id_, "")

    def _socket(self, id_: str) -> WebSocket:
        effects = self._overlay.effects
        for listening in (self._listening, None if effects is None else effects.listeners):
            if listening is not None and id_ in listening:
                return listening[id_]
        known = self._sockets
        if known is None:
            known = self._sockets = {}
        socket = known.get(id_)
        if socket is None:
            socket = WebSocket(self, id_)
            if id_ in self._view.sockets():  # one that this turn accepts is remembered once it has committed
                known[id_] = socket
        return socket

    def _committed_rows(self) -> Mapping[str, SocketRow]:
        overlay = self.inside()
        try:
            return self._view.sockets()
        except Exception as error:
            overlay.failure = error
            raise

    def _socket_row(self, id_: str) -> SocketRow | None:
        rows, effects = self._committed_rows(), self._overlay.effects
        if effects is not None and id_ in effects.sockets:
            return socket_row(effects.sockets[id_])
        return rows.get(id_)

    def _socket_rows(self) -> Mapping[str, SocketRow]:
        rows, effects = self._committed_rows(), self._overlay.effects
        if effects is None or not effects.sockets:
            return rows
        mine = {id_: socket_row(change) for id_, change in effects.sockets.items()}
        return {id_: row for id_, row in {**rows, **mine}.items() if row is not None}

    def _chosen(self, tag: str | None) -> list[tuple[str, SocketRow]]:
        rows = self._socket_rows()
        return [
            (id_, row)
            for id_, row in rows.items()
            if id_ and not row.listener and (tag is None or tag in row.tags)
        ]
