"""The registry of a gateway's open WebSockets: delivers frames from objects to them, and appends their
events.

Owners pass frames to `frames`, directly or by the topic `{app}.replies`. Connections
(api/protocol/websocket.py) call `event` for each message and each end, which becomes a command for the
object.

Laws [test_gateway_sockets.py]
- A frame reaches only sockets of the object that sent it, in journal order. A frame at or below the journal
  position of the last one that a socket was sent is dropped: it was sent before (an owner emits frames again
  after a crash).
- Events are commands, numbered per socket and appended once. If it is not known that an append is durable,
  the socket closes with 1011, since the object must not take later messages for all of them.
- The event of a close is repeated until it is known to be on the log. The second one finds no row and does
  nothing.
- A gateway that has been declared dead closes all its sockets, whose objects already saw them close, and
  continues under a new name, so that no frame for an old socket reaches a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Protocol

import msgspec
import structlog
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode

from perdure.api.gateway import Gateway
from perdure.schemas.commands import NOBODY, SOCKET, Command, sealed_record
from perdure.schemas.effects import Out
from perdure.schemas.keys import partition_of, place_of
from perdure.schemas.seal import Seal
from perdure.schemas.sockets import (
    AUTO,
    CLOSE,
    CLOSED,
    ENDED_KIND,
    FRAME_KIND,
    HEARTBEAT_KIND,
    SERVICE_RESTART,
    TEXT,
    Frame,
    parse_frame,
    socket_id,
)
from perdure.streams.log.base import Log, LogRecord, Record, Topic
from perdure.streams.turns.run_queue import RunQueue

PING_S = 20.0  # a socket that is silent for one to two of these is closed
PINGED_AT_ONCE = 200  # a few ms; then other tasks run
AGAIN_S = 1.0
BEAT_S = 3.0  # owners declare a gateway dead after 10 s of silence
# the reply-to of events on an exclusive log, where the gateway is in the owner's process
SOCKETS = "sockets"
_KINDS = frozenset((FRAME_KIND, HEARTBEAT_KIND, ENDED_KIND))
_ENDED = "the node was silent for a while, and its sockets were declared dead"
_logger = structlog.get_logger("perdure")
_decode_pair = msgspec.msgpack.Decoder(tuple[str, str]).decode


class SocketConnection(Protocol):
    """One open WebSocket, as the registry sees it (implemented by api/protocol/websocket.py)."""

    key: str
    position: int
    auto: tuple[str, bytes] | None

    @property
    def principal(self) -> str:
        """The client that sends its messages; empty without access control."""

    def write(self, data: bytes) -> None:
        """Send the bytes of a frame."""

    def close(self, code: int, reason: str) -> None:
        """Close it at the request of its object."""

    def fail(self, code: int, reason: str) -> None:
        """Close it for a reason of the gateway; its object gets the event."""

    def ended(self) -> None:
        """The turn of one of its events has ended (on a shared log: the event is durable)."""

    def lost(self, error: BaseException) -> None:
        """It is not known if one of its events is on the log."""

    def ping(self) -> None:
        """Send a ping; close the socket if the client has been silent since the last one."""


class SocketRegistry:
    """The open WebSockets of one gateway.

    Args:
        gateway: the gateway; the registry makes itself known to it.
        log: events are appended to it.
        seal: signs the events.
        node: names this start of the process, and with it every socket.
        run_queue: shares the time of the loop between parsing and turns; one of its own by default.
    """

    def __init__(
        self, gateway: Gateway, log: Log, seal: Seal, *, node: str, run_queue: RunQueue | None = None
    ) -> None:
        self.gateway = gateway
        gateway.sockets, gateway.seal = self, seal
        self._log = log
        self._seal = seal
        self._place = place_of(
            f"gateway/{node}", log.partitions
        )  # the partition of `{app}.replies` that the gateway reads
        self._names = (f"{node}-{n}" for n in count(1))
        self._rename(node)
        self._open: dict[int, SocketConnection] = {}
        self._numbers = count()
        self._reply_to = SOCKETS if log.exclusive else NOBODY
        self._loop = asyncio.get_running_loop()
        self.run_queue = run_queue or RunQueue()

    def _rename(self, node: str) -> None:
        self._node = node
        self._key = f"gateway.{node}".encode()
        self.address = f"{self._place}/gateway.{node}"

    @property
    def count(self) -> int:
        """The number of open WebSockets."""
        return len(self._open)

    def new_id(self) -> tuple[int, str]:
        """A number that no socket of this gateway has had, and the id that is made of it."""
        number = next(self._numbers)
        return number, socket_id(self._node, number)

    def opened(self, number: int, id_: str, connection: SocketConnection) -> None:
        """Deliver frames for this number to `connection`, unless the name in `id_` was declared dead."""
        self._open[number] = connection
        if not id_.startswith(f"{self._node}."):
            connection.fail(SERVICE_RESTART, _ENDED)

    def closed(self, number: int) -> None:
        """Deliver no more frames for this number."""
        self._open.pop(number, None)

    # Frames out

    def frames(self, out: Out, partition: int, offset: int, n: int) -> bool:
        """See `Ingress.frames`. On a shared log all frames take the log; direct ones could overtake them."""
        if not self._log.exclusive or not out.headers or out.headers[0] != FRAME_KIND:
            return False
        if out.key == self._key:  # otherwise of a gateway that ended with its process
            self._deliver(parse_frame(out.value, out.headers), offset, n)
        return True

    def receive(self, record: LogRecord) -> bool:
        """See `FrameReceiver`. Unreadable records are ignored: any producer may write to the topic."""
        kind = record.headers[0] if record.headers else None
        if kind not in _KINDS:
            return False
        if record.key != self._key:
            return True
        if kind == ENDED_KIND:
            self._restart()
        elif kind == FRAME_KIND:
            with suppress(KeyError, ValueError):
                frame = parse_frame(record.value, record.headers)
                _, offset, n = dict(record.headers)["message-id"].decode().replace("/", ":").split(":")
                self._deliver(frame, int(offset), int(n))
        return True

    def _restart(self) -> None:
        _logger.warning(
            "owners declared this node's WebSockets dead: they are closed", sockets=len(self._open)
        )
        self._rename(next(self._names))
        for connection in list(self._open.values()):
            connection.fail(SERVICE_RESTART, _ENDED)

    def _deliver(self, frame: Frame, offset: int, n: int) -> None:
        position, key, open_sockets = offset << 20 | n, frame.key, self._open
        act = self._act(frame)
        for number in frame.sockets:
            connection = open_sockets.get(number)
            if connection is not None and connection.key == key and connection.position < position:
                connection.position = position
                act(connection)

    def _act(self, frame: Frame) -> Callable[[SocketConnection], None]:
        """What to do with this frame on each of its sockets, decided once for all."""
        if frame.type == CLOSE:
            code, reason = frame.code, frame.data.decode("utf-8", "replace")
            return lambda connection: connection.close(code, reason)
        if frame.type == AUTO:
            pair = None
            if frame.data:
                request, response = _decode_pair(frame.data)
                pair = request, wire(Opcode.TEXT, response.encode())
            return lambda connection: setattr(connection, "auto", pair)
        data = wire(Opcode.TEXT if frame.type == TEXT else Opcode.BINARY, frame.data)
        return lambda connection: connection.write(data)

    # Events in

    def event(
        self,
        connection: SocketConnection | None,
        key: str,
        id_: str,
        number: int,
        method: str,
        body: bytes,
        *facts: tuple[str, str],
    ) -> None:
        """Append an event of a socket.

        Args:
            connection: learns the outcome, by `ended` or `lost`; None if the socket is gone.
            key: the object, as NAMESPACE/NAME.
            id_: the socket's id.
            number: counts the events of the socket, from 1.
            method: the kind of event: `MESSAGE`, `CLOSED` or `ERROR` of schemas.sockets.
            body: the message, or the reason.
            facts: headers of the event, such as its type or the close code.
        """
        if self.gateway.closed is not None:
            return  # the node is stopping: the next owner sees that this gateway is gone
        headers = (*facts, ("n", str(number)), ("gateway", self.address))
        reply_to = self._reply_to if connection is not None else NOBODY
        principal = "" if connection is None else connection.principal
        command = Command(
            key, SOCKET, method, id_, headers, body, f"{id_}/{number}", reply_to, principal=principal
        )
        partition = partition_of(key, self._log.partitions)
        record = Record(*sealed_record(command, self._seal))
        receipt = self._log.append(Topic.COMMANDS, partition, record, command)
        if not self._log.exclusive:  # there a log that cannot append stops the process

            def appended(error: BaseException | None) -> None:
                if error is None:
                    if connection is not None:
                        connection.ended()
                elif method == CLOSED:
                    self._loop.call_later(AGAIN_S, self._close_again, key, id_, number, body, *facts)
                elif connection is not None:
                    connection.lost(error)

            receipt.when_durable(appended)

    def _close_again(self, key: str, id_: str, number: int, body: bytes, *facts: tuple[str, str]) -> None:
        self.event(None, key, id_, number, CLOSED, body, *facts)

    def ended(self, reply_to: str, id_: str) -> bool:
        """See `FrameReceiver`."""
        if reply_to != SOCKETS:
            return False
        node, _, rest = id_.rpartition("/")[0].rpartition(".")
        connection = self._open.get(int(rest, 16)) if node == self._node else None
        if connection is not None:
            connection.ended()
        return self._log.exclusive

    async def beat(self, every_s: float = BEAT_S) -> None:
        """On a shared log: send heartbeats while there are sockets, until cancelled."""
        place = int(self.address.partition("/")[0])
        while not self._log.exclusive:
            if self._open:
                self._log.append(Topic.REPLIES, place, Record(self._key, b"", (HEARTBEAT_KIND,)))
            await asyncio.sleep(every_s)

    async def keep_alive(self, every_s: float = PING_S) -> None:
        """Ping all sockets, until cancelled: a client that is gone is noticed within twice `every_s`."""
        while True:
            await asyncio.sleep(every_s)
            for at, (number, connection) in enumerate(list(self._open.items()), 1):
                if number in self._open:
                    connection.ping()
                if at % PINGED_AT_ONCE == 0:
                    await asyncio.sleep(0)


def wire(opcode: Opcode, data: bytes) -> bytes:
    """The bytes of a complete frame of a server."""
    return WireFrame(opcode, data).serialize(mask=False)
