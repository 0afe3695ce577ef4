"""The WebSockets of this gateway: which there are, the frames that objects send to them, and what happens on them.

Laws
- A frame reaches only sockets of the object that sent it, in journal order; one at or below the last journal position that
  a socket was sent is dropped, for it was sent before (an owner lets out again after a crash).
- Events are commands, numbered per socket and appended once. Where an append is not known to be durable, the socket
  closes with 1011: what came after it must not be taken for all there was.
- A close is told until it is known to be on the log: told twice, it finds no row and does nothing.
- A gateway that hears that it was taken for ended closes all its sockets, since their objects saw them go, and goes on
  under another name: no frame for those before reaches those after.
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
from perdure.schemas.keys import partition_of
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
PINGED_AT_ONCE = 200  # a few ms; then the loop goes on
AGAIN_S = 1.0
BEAT_S = 3.0  # owners take a gateway that was silent for 10 s for dead
SOCKETS = (
    "sockets"  # reply-to of events on a log that nobody else writes: the gateway is in the owner's process
)
_KINDS = frozenset((FRAME_KIND, HEARTBEAT_KIND, ENDED_KIND))
_ENDED = "the node was not heard for a while, and its sockets were taken for gone"
_logger = structlog.get_logger("perdure")
_decode_pair = msgspec.msgpack.Decoder(tuple[str, str]).decode


class SocketConnection(Protocol):
    """One open WebSocket, as the gateway's sockets know it (api/protocol/websocket.py has it)."""

    key: str
    position: int
    auto: tuple[str, bytes] | None

    @property
    def principal(self) -> str:
        """Who sends its messages, where access is guarded."""

    def write(self, data: bytes) -> None:
        """Send a frame as it goes over the wire."""

    def close(self, code: int, reason: str) -> None:
        """Close it because its object says so."""

    def fail(self, code: int, reason: str) -> None:
        """Close it for a reason of the gateway's own, and tell its object."""

    def ended(self) -> None:
        """An event of it has had its turn (or, on a shared log, is durable)."""

    def lost(self, error: BaseException) -> None:
        """An event of it is not known to be on the log."""

    def ping(self) -> None:
        """Ask whether somebody is there; close it if nothing was heard since the last time."""


class SocketRegistry:
    """All of one gateway. `node` names this start of the process, and with it every socket.

    What sockets read is parsed by way of `run_queue`, which they share with the turns (one of their own by default).
    """

    def __init__(
        self, gateway: Gateway, log: Log, seal: Seal, *, node: str, run_queue: RunQueue | None = None
    ) -> None:
        self.gateway = gateway
        gateway.sockets, gateway.seal = self, seal
        self._log = log
        self._seal = seal
        self._place = partition_of(f"gateway/{node}", log.partitions)  # where the gateway reads
        self._names = (f"{node}-{n}" for n in count(1))
        self._is(node)
        self._open: dict[int, SocketConnection] = {}
        self._numbers = count()
        self._reply_to = SOCKETS if log.exclusive else NOBODY
        self._loop = asyncio.get_running_loop()
        self.run_queue = run_queue or RunQueue()

    def _is(self, node: str) -> None:
        self._node = node
        self._key = f"gateway.{node}".encode()
        self.address = f"{self._place}/gateway.{node}"

    @property
    def count(self) -> int:
        return len(self._open)

    def new_id(self) -> tuple[int, str]:
        """A number that no socket of this gateway had, and the id that goes with it."""
        number = next(self._numbers)
        return number, socket_id(self._node, number)

    def opened(self, number: int, id_: str, connection: SocketConnection) -> None:
        """Frames for socket `id_` of this number go to that connection, if it is not of a gateway that has ended."""
        self._open[number] = connection
        if not id_.startswith(f"{self._node}."):
            connection.fail(SERVICE_RESTART, _ENDED)

    def closed(self, number: int) -> None:
        """No more frames for this number."""
        self._open.pop(number, None)

    # Frames out

    def frames(self, out: Out, partition: int, offset: int, n: int) -> bool:
        """See `Ingress.frames`. On a shared log all frames take the log: they would overtake those that did."""
        if not self._log.exclusive or not out.headers or out.headers[0] != FRAME_KIND:
            return False
        if out.key == self._key:  # else of a gateway that ended with its process
            self._deliver(parse_frame(out.value, out.headers), offset, n)
        return True

    def receive(self, record: LogRecord) -> bool:
        """See `FrameReceiver`. What is for others, or is no frame, is nothing to us: anybody may write there."""
        kind = record.headers[0] if record.headers else None
        if kind not in _KINDS:
            return False
        if record.key != self._key:
            return True
        if kind == ENDED_KIND:
            self._begin_anew()
        elif kind == FRAME_KIND:
            with suppress(KeyError, ValueError):
                frame = parse_frame(record.value, record.headers)
                _, offset, n = dict(record.headers)["message-id"].decode().replace("/", ":").split(":")
                self._deliver(frame, int(offset), int(n))
        return True

    def _begin_anew(self) -> None:
        _logger.warning(
            "owners took this node's WebSockets for gone: they are closed", sockets=len(self._open)
        )
        self._is(next(self._names))
        for connection in list(self._open.values()):
            connection.fail(SERVICE_RESTART, _ENDED)

    def _deliver(self, frame: Frame, offset: int, n: int) -> None:
        position, key, found = offset << 20 | n, frame.key, self._open
        act = self._act(frame)
        for number in frame.sockets:
            connection = found.get(number)
            if connection is not None and connection.key == key and connection.position < position:
                connection.position = position
                act(connection)

    def _act(self, frame: Frame) -> Callable[[SocketConnection], None]:
        """What this frame means for each of its sockets, made once for all."""
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
        """Append the `number`-th event of socket `id_`; `connection` hears what becomes of it."""
        if self.gateway.closed is not None:
            return  # the node stops: whoever begins next sees that this gateway is gone
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

            def told(error: BaseException | None) -> None:
                if error is None:
                    if connection is not None:
                        connection.ended()
                elif method == CLOSED:
                    self._loop.call_later(AGAIN_S, self._close_again, key, id_, number, body, *facts)
                elif connection is not None:
                    connection.lost(error)

            receipt.when_durable(told)

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
        """On a shared log: say that this gateway lives, as long as it has sockets; until cancelled."""
        place = int(self.address.partition("/")[0])
        while not self._log.exclusive:
            if self._open:
                self._log.append(Topic.REPLIES, place, Record(self._key, b"", (HEARTBEAT_KIND,)))
            await asyncio.sleep(every_s)

    async def keep_alive(self, every_s: float = PING_S) -> None:
        """Ping all, for ever: who is not there any more is found out within twice that time."""
        while True:
            await asyncio.sleep(every_s)
            for at, (number, connection) in enumerate(list(self._open.items()), 1):
                if number in self._open:
                    connection.ping()
                if at % PINGED_AT_ONCE == 0:
                    await asyncio.sleep(0)


def wire(opcode: Opcode, data: bytes) -> bytes:
    """A whole frame as a server sends it."""
    return WireFrame(opcode, data).serialize(mask=False)
