"""The gateway watch: closes sockets whose gateway has ended, each by an event in its object's mailbox.

A node has one `GatewayWatch` for all its partitions, on a log that other nodes share.

Laws
- Sockets whose gateway ended are closed by an event in their object's mailbox, 1006, once: without its row
  the event does nothing. So are, with 1012, those of listener style whose instance is gone.
- On an exclusive log every gateway but this process's own has ended. On a shared log one has ended if no
  heartbeat of it is added to the log within `SILENT_S`; offsets decide that, no clocks are compared.
- A gateway that is declared dead is notified before its sockets are closed here: if it lives, it closes them
  too. [test_a_gateway_that_falls_silent_is_told_once_and_its_sockets_close_in_all_partitions]
- One look reads each partition of `replies` once at most, for all gateways with heartbeats there and all
  partitions of this node, and lists the rows of sockets in bounded steps.
  [test_each_place_is_read_once_in_a_look_for_all_partitions]
- A look that cannot read or append concludes nothing: the next one begins from scratch.
  [test_a_look_that_fails_concludes_nothing_and_stops_no_partition]
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import islice
from typing import NamedTuple

from perdure.objects.registry import Registry
from perdure.schemas.effects import SocketRow
from perdure.schemas.errors import PerdureError
from perdure.schemas.keys import namespace_of
from perdure.schemas.sockets import CLOSED, ENDED_KIND, GONE, HEARTBEAT_KIND, SETTINGS
from perdure.streams.log.base import Log, Record, Topic, durable
from perdure.streams.state.tables import Tables
from perdure.streams.turns.ports import SocketNotifier, Transport
from perdure.streams.turns.supervision.internal_faults import report

SILENT_S = 10.0
LISTED_AT_ONCE = 500  # rows in one step of the event loop


async def each_socket(tables: Tables) -> AsyncIterator[tuple[str, str, SocketRow]]:
    """(object key, id, row) of every WebSocket of a partition, `LISTED_AT_ONCE` in one step of the loop.

    What changes between two steps may be seen or not.
    """
    last = None
    while True:
        some = list(islice(tables.sockets.all(last), LISTED_AT_ONCE))
        for each in some:
            yield each
        if len(some) < LISTED_AT_ONCE:
            return
        last = some[-1][:2]
        await asyncio.sleep(0)


async def close_lost(transport: Transport, registry: Registry, tables: Tables, gone: SocketNotifier) -> None:
    """Close what was lost before the owner began to serve.

    No instance is in memory, and some gateways have ended.
    """
    async for key, id_, row in each_socket(tables):
        if id_ == SETTINGS or namespace_of(key) not in registry.types:
            continue  # a class that has left the app gets no events; its migration removes the rows
        if transport.log.exclusive and not transport.ingress.holds(row.gateway):
            gone.notify(key, id_, CLOSED)
        elif row.listener:
            gone.notify(key, id_, GONE)
        await gone.room()


class _Watched(NamedTuple):
    """A partition that this node serves."""

    transport: Transport
    registry: Registry
    tables: Tables
    gone: SocketNotifier


class GatewayWatch:
    """The watch for silent gateways; closes the sockets that objects of this node have there."""

    def __init__(self) -> None:
        self._partitions: dict[int, _Watched] = {}
        self._task: asyncio.Task[None] | None = None
        self._ends: dict[str, int] = {}  # where `replies` ended for each gateway at the last look

    def begin(self, transport: Transport, registry: Registry, tables: Tables, gone: SocketNotifier) -> None:
        """See `RemoteGateways.begin`."""
        self._partitions[tables.partition] = _Watched(transport, registry, tables, gone)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._watch(transport.log))

    def end(self, partition: int) -> None:
        """The partition is not served any more; the watch ends with the last one."""
        self._partitions.pop(partition, None)
        if not self._partitions and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _watch(self, log: Log) -> None:
        self._ends = {}
        while True:
            try:
                await self._look(log)
            except PerdureError:
                self._ends = {}  # a node that cannot read receives no heartbeats
            except Exception as error:  # noqa: BLE001 - a fault of perdure's own must not end the watch
                self._ends = {}
                report(error, "a look at the gateways of other nodes ended")
            await asyncio.sleep(SILENT_S)

    async def _look(self, log: Log) -> None:
        named = set()
        for watched in tuple(self._partitions.values()):
            holds = watched.transport.ingress.holds
            async for _, id_, row in each_socket(watched.tables):
                if id_ != SETTINGS and row.gateway not in named and not holds(row.gateway):
                    named.add(row.gateway)
        silent = await self._silent(log, named)
        for gateway in silent:
            place, name = _place_of(gateway)
            await durable(log.append(Topic.REPLIES, place, Record(name, b"", (ENDED_KIND,))))
        if silent:
            for watched in tuple(self._partitions.values()):
                await self._close(watched, silent)

    async def _close(self, watched: _Watched, silent: set[str]) -> None:
        kinds, gone = watched.registry.types, watched.gone
        async for key, id_, row in each_socket(watched.tables):
            if row.gateway in silent and id_ != SETTINGS and namespace_of(key) in kinds:
                gone.notify(key, id_, CLOSED)
                await gone.room()
            if self._partitions.get(watched.tables.partition) is not watched:
                return  # its epoch has ended

    async def _silent(self, log: Log, named: set[str]) -> set[str]:
        """Those of `named` that have added no heartbeat since the last look."""
        at: dict[int, set[str]] = {}
        for gateway in named:
            at.setdefault(_place_of(gateway)[0], set()).add(gateway)
        before, ends, silent = self._ends, dict[str, int](), set[str]()
        for place, gateways in at.items():
            bounds = await log.bounds(Topic.REPLIES, place)
            ends.update(dict.fromkeys(gateways, bounds.end))
            known = gateways & before.keys()
            if known:
                start = max(min(before[each] for each in known), bounds.start)
                silent |= await _unheard(log, place, known, start, bounds.end)
        self._ends = ends
        return silent


def _place_of(gateway: str) -> tuple[int, bytes]:
    """(partition of `replies`, name) of a gateway's address."""
    place, _, name = gateway.partition("/")
    return int(place), name.encode()


async def _unheard(log: Log, place: int, gateways: set[str], start: int, end: int) -> set[str]:
    """The gateways without a heartbeat from `start` to `end`; no more is read once all are heard."""
    waited_for = {_place_of(each)[1]: each for each in gateways}
    if start < end:
        async with aclosing(log.read(Topic.REPLIES, place, start, end)) as chunks:  # type: ignore[type-var]  # all are generators
            async for chunk in chunks:
                for record in chunk:
                    if record.key in waited_for and HEARTBEAT_KIND in record.headers:
                        del waited_for[record.key]
                if not waited_for:
                    break
    return set(waited_for.values())
