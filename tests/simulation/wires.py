"""The far ends of WebSockets: what was sent to each, and how it speaks. The
gateway's side of them is the real one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perdure.api.replies import PlacedReply, ReplyFuture
from perdure.api.sockets.registry import SocketRegistry
from perdure.schemas.errors import OutcomeUnknown
from perdure.schemas.keys import partition_of
from perdure.schemas.sockets import CLOSED, MESSAGE, TEXT

if TYPE_CHECKING:
    from tests.simulation.world import Node

_HEAD_BYTES = 2  # of a frame as a server sends it, under 126 bytes of data


class Wire:
    """One connection, as api/protocol/websocket.py makes one; `got` is what was
    sent: (position, text or close).
    """

    def __init__(self, node: Node, sockets: SocketRegistry, key: str) -> None:
        self.node = node
        self.sockets = sockets
        self.key = key
        self.principal = ""
        self.number, self.id = sockets.new_id()
        self.gateway = sockets.address.partition("/")[2]
        self.position = -1
        self.auto: tuple[str, bytes] | None = None
        self.got: list[tuple[int, str]] = []
        self.joined = False
        self.gone = False
        self.heard: asyncio.Future[None] | None = None
        self._events = 0

    @property
    def asked(self) -> str:
        """What makes a request one for this socket."""
        return f"{self.id} {self.sockets.address}"

    # What the client does

    def speak(self) -> asyncio.Future[None]:
        """Send a message; ends when its turn has ended, or nothing more is heard of it."""
        self._events += 1
        self.heard = asyncio.get_running_loop().create_future()
        text = f"{self.number}.{self._events}".encode()
        self.sockets.event(self, self.key, self.id, self._events, MESSAGE, text, ("type", TEXT))
        return self.heard

    def leave(self) -> None:
        """Close it; its object is told."""
        if self.gone:
            return
        self._over()
        self._events += 1
        facts = ("code", "1006"), ("clean", "0")
        self.sockets.event(None, self.key, self.id, self._events, CLOSED, b"", *facts)

    def cut(self) -> None:
        """The gateway's process is gone."""
        self.gone = True
        self.ended()

    def _over(self) -> None:
        self.gone = True
        self.sockets.closed(self.number)
        self.ended()

    # See `perdure.api.sockets.registry.SocketConnection`

    def write(self, data: bytes) -> None:
        self._sent(data[_HEAD_BYTES:].decode())

    def close(self, code: int, reason: str) -> None:
        self._sent(f"{code} {reason}")
        self._over()

    def fail(self, code: int, reason: str) -> None:
        self.leave()

    def _sent(self, what: str) -> None:
        run = self.node.run
        if self.node.alive:
            partition = partition_of(self.key, run.broker.partitions)
            run.auditor.about_to_send(partition, self.position >> 20, what)
            self.got.append((self.position, what))

    def ended(self) -> None:
        if self.heard is not None and not self.heard.done():
            self.heard.set_result(None)

    def lost(self, error: BaseException) -> None:
        self.node.run.counts["socket events lost"] += 1
        self.leave()

    def ping(self) -> None:
        """Nobody asks here."""


class Joining(ReplyFuture):
    """Who waits for a socket to be accepted: frames may follow the answer at once."""

    __slots__ = ("wire",)

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self.wire = wire

    def answered(self, answer: PlacedReply) -> None:
        wire = self.wire
        if wire.node.alive and answer.reply.status == 101:
            wire.joined = True
            wire.sockets.opened(wire.number, wire.id, wire)
        super().answered(answer)

    def failed(self, error: BaseException) -> None:
        if isinstance(error, OutcomeUnknown):
            self.wire.leave()
        super().failed(error)
