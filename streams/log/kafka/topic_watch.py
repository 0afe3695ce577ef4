"""Watches an app's topics while a node runs: they may be deleted, created again, or given more partitions.

Laws
- A topic that is not the one of the node's start stops the node: the state was not made of its records, and a
  reader that was paused meanwhile would go on in it silently.
- Added partitions do not stop the node, but it is not ready: clients that see them place keys by them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from random import Random

import structlog

from perdure.schemas.backoff import Backoff
from perdure.schemas.errors import LogCorrupt
from perdure.streams.log.base import Trouble, recreated
from perdure.streams.log.kafka.clients import UNREACHED
from perdure.streams.log.kafka.metadata import Described
from perdure.streams.log.kafka.topics import Topics, partitions_added

WATCH_S = 5.0
GONE_AFTER_S = 10.0  # a broker that has just started may not know a topic yet

_logger = structlog.get_logger(__name__)


class TopicWatch:
    """Describes the topics every `WATCH_S`. `troubles` are the problems with which the node goes on."""

    def __init__(self, topics: Topics, partitions: int, stopped: Callable[[BaseException], None]) -> None:
        self._topics = topics
        self._partitions = partitions
        self._stopped = stopped
        self._gone_since_s: float | None = None
        self.troubles: tuple[Trouble, ...] = ()

    async def keep(self) -> None:
        """Run until cancelled, or until the node is to stop."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(WATCH_S, 4 * WATCH_S, Random())
        while True:
            await asyncio.sleep(backoff.failed())
            try:
                async with asyncio.timeout(WATCH_S):
                    topics = await self._topics.described()
            except UNREACHED:
                continue  # tails and the producer say so
            backoff.reset()
            error = self.look(topics, loop.time())
            if error is not None:
                self._stopped(error)
                return

    def look(self, topics: Mapping[str, Described], now_s: float) -> LogCorrupt | None:
        """The error that ends the node, if there is one; sets `troubles`."""
        ids = self._topics.ids
        for name, id_ in ids.items():
            if name in topics and topics[name].id not in ("", id_):
                return LogCorrupt(recreated(name.rpartition(".")[2], id_, topics[name].id))
        gone = [name for name in ids if name not in topics]
        if not gone:
            self._gone_since_s = None
        elif self._gone_since_s is None:
            self._gone_since_s = now_s
        elif now_s - self._gone_since_s >= GONE_AFTER_S:
            return LogCorrupt(
                f"topic {gone[0]} is gone: it was deleted while this node ran. Restore the topic."
            )
        more = {
            name: len(each.leaders) for name, each in topics.items() if len(each.leaders) > self._partitions
        }
        troubles = tuple(
            Trouble(name, None, "partitions added", partitions_added(name, self._partitions, count))
            for name, count in more.items()
        )
        for trouble in set(troubles) - set(self.troubles):
            _logger.error("partitions were added to a topic", topic=trouble.topic, reason=trouble.reason)
        self.troubles = troubles
        return None
