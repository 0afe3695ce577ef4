"""The listener for Kafka clients: a socket, the connections to it, and what they share."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import structlog

from perdure.streams.log.embedded.client_access import ClientAccess
from perdure.streams.wire.admission import Admission
from perdure.streams.wire.broker import Broker
from perdure.streams.wire.connection import ClientConnection
from perdure.streams.wire.groups.coordinator import Coordinator
from perdure.streams.wire.groups.offsets import ROWS as OFFSET_ROWS
from perdure.streams.wire.groups.offsets import Offsets
from perdure.streams.wire.producers import ROWS as PRODUCER_ROWS
from perdure.streams.wire.producers import Producers
from perdure.streams.wire.requests import APIS

CONNECTIONS = 1_000
SWEEP_S = 10.0
_SASL = (17, 36)

_logger = structlog.get_logger(__name__)


class KafkaListener:
    """The listener of an embedded log for Kafka clients: `start` it when the partitions serve, and `close` it
    before the log.

    Args:
        app: the app's name, which its topics begin with.
        access: what clients may reach of the log, which was started.
        clock_ms: the wall clock.
        keep_ms: how long records of clients' topics are kept; None is forever.
        advertised: the address that clients connect to; None: the one that each has reached first.
        admission: access control; None if everything is allowed.
    """

    def __init__(
        self,
        app: str,
        access: ClientAccess,
        *,
        clock_ms: Callable[[], int],
        keep_ms: int | None,
        advertised: tuple[str, int] | None = None,
        admission: Admission | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        apis = {
            key: (api.first, api.last)
            for key, api in APIS.items()
            if admission is not None or key not in _SASL
        }
        producers = Producers(access.rows(PRODUCER_ROWS))
        groups = Coordinator(loop, Offsets(access.rows(OFFSET_ROWS)))
        self.broker = Broker(
            app, access, clock_ms, advertised, admission, producers, groups, loop, keep_ms, apis
        )
        self._connections: set[ClientConnection] = set()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, listener: socket.socket) -> None:
        """Accept connections on a socket that is bound."""
        self._server = await self.broker.loop.create_server(self._accept, sock=listener)
        self._sweeper = self.broker.loop.create_task(self._sweep())

    async def close(self) -> None:
        """Close the socket and every connection."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._server is not None:
            self._server.close()
        for connection in self.all:
            connection.close()
        self.broker.groups.close()

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    @property
    def all(self) -> tuple[ClientConnection, ...]:
        """The connections."""
        return tuple(self._connections)

    def _accept(self) -> asyncio.Protocol:
        full = len(self._connections) >= CONNECTIONS
        connection = ClientConnection(self.broker, self._connections.discard, turned_away=full)
        if full:
            _logger.warning(
                "too many Kafka clients are connected: one is turned away", connections=CONNECTIONS
            )
        else:
            self._connections.add(connection)
        return connection

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep(self.broker.loop.time())
            self.trim()

    def sweep(self, now_s: float) -> None:
        """Close connections on which nothing has happened for too long."""
        for connection in self.all:
            connection.sweep(now_s)

    def trim(self) -> None:
        """Remove what is too old from clients' topics, and groups that are not used any more."""
        broker = self.broker
        broker.groups.forget_idle()
        if forgotten := broker.groups.offsets.forget_old(broker.clock_ms(), broker.groups.groups):
            broker.log.put(forgotten)
        if broker.keep_ms is None:
            return
        before_ms = broker.clock_ms() - broker.keep_ms
        for topic in broker.log.topics.values():
            for stream in topic.streams if not topic.compacted else ():
                if stream.start < stream.durable:
                    first = broker.log.first_since(stream, before_ms)
                    broker.log.trim(stream, stream.durable if first is None else first.offset)
