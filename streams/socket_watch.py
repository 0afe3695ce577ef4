"""The watch over gateways: sockets whose gateway has ended are closed, each by an event in its object's mailbox.

Laws
- Sockets whose gateway ended are closed by an event in their object's mailbox, 1006, once: the event finds the row or
  does nothing. So are, 1012, those of listener style whose instance is gone.
- On an exclusive log every gateway but this process's own has ended. On a shared log one has ended if no heartbeat of it
  is added to the log within `SILENT_S`: offsets tell, no clocks are compared.
- A gateway that is taken for ended is told so before its sockets are closed here: if it lives, it closes them too.
"""

from __future__ import annotations

import asyncio

from perdure.schemas.errors import LogUnreachable, OutcomeUnknown, Unavailable
from perdure.schemas.keys import namespace_of
from perdure.schemas.replies import Pairs
from perdure.schemas.sockets import ABNORMAL, CLOSED, ENDED_KIND, GONE, HEARTBEAT_KIND, SETTINGS
from perdure.streams.log import Log, Record, Topic, durable
from perdure.streams.owning import Ports
from perdure.streams.sockets import tell_object
from perdure.streams.tables import Tables

SILENT_S = 10.0
APPENDS_AT_ONCE = 500  # events for sockets that are gone, in one step of the loop
LOST: Pairs = (("code", str(ABNORMAL)), ("clean", "0"))


async def watch_gateways(ports: Ports, tables: Tables) -> None:
    """On a shared log: tell objects of sockets whose gateway has fallen silent; until cancelled."""
    log, ends = ports.log, dict[str, int]()
    while True:
        held = [
            (key, id_, row) for key, id_, row in tables.all_sockets() if not ports.doors.holds(row.gateway)
        ]
        try:
            ends, silent = await _silent(log, {row.gateway for _, id_, row in held if id_ != SETTINGS}, ends)
            for gateway in silent:
                place, _, name = gateway.partition("/")
                await durable(
                    log.append(Topic.REPLIES, int(place), Record(name.encode(), b"", (ENDED_KIND,)))
                )
        except (LogUnreachable, OutcomeUnknown, Unavailable):
            ends, silent = {}, set()  # whoever cannot read hears nobody, and they may not be heard: look anew
        for key, id_, row in held:
            if row.gateway in silent and namespace_of(key) in ports.registry.kinds:
                tell_object(ports, tables.partition, key, CLOSED, id_, LOST, b"the gateway is gone")
        await asyncio.sleep(SILENT_S)


async def _silent(log: Log, gateways: set[str], before: dict[str, int]) -> tuple[dict[str, int], set[str]]:
    """(where the log ends for each gateway, those that have added no heartbeat since it ended at `before`)."""
    ends, silent = {}, set()
    for gateway in gateways:
        place, _, name = gateway.partition("/")
        bounds = await log.bounds(Topic.REPLIES, int(place))
        ends[gateway] = bounds.end
        if gateway in before:
            start = max(before[gateway], bounds.start)
            if not await _heard(log, int(place), name.encode(), start, bounds.end):
                silent.add(gateway)
    return ends, silent


async def _heard(log: Log, place: int, name: bytes, start: int, end: int) -> bool:
    async for chunk in log.read(Topic.REPLIES, place, start, end):
        if any(each.key == name and HEARTBEAT_KIND in each.headers for each in chunk):
            return True
    return False


async def close_lost(ports: Ports, tables: Tables) -> None:
    """The owner begins to serve: no instance is in memory, and some gateways are no more. Appends a bounded number at once."""
    for n, (key, id_, row) in enumerate(list(tables.all_sockets()), 1):
        if n % APPENDS_AT_ONCE == 0:
            await asyncio.sleep(0)
        if id_ == SETTINGS or namespace_of(key) not in ports.registry.kinds:
            continue  # a class that has left the app is told nothing; its migration removes the rows
        if ports.log.exclusive and not ports.doors.holds(row.gateway):
            tell_object(ports, tables.partition, key, CLOSED, id_, LOST, b"the gateway is gone")
        elif row.listener:
            tell_object(ports, tables.partition, key, GONE, id_)
