"""An app's log on Kafka, followed by a process that is not a node: bounds and reads, no consumer group."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from perdure.schemas.errors import LogUnreachable
from perdure.streams.log.base import Bounds, Topic
from perdure.streams.log.kafka.clients import CUT_TIMEOUT_S, UNREACHED
from perdure.streams.log.kafka.read_only import KafkaReading


class KafkaFollowing(KafkaReading):
    """The log of an app on a Kafka cluster, followed. The other parameters are those of `KafkaReading`.

    partitions: how many the app has.
    """

    def __init__(
        self,
        bootstrap: str,
        app: str,
        partitions: int,
        *,
        client_id: str,
        security: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(bootstrap, app, client_id=client_id, security=security)
        self.partitions = partitions
        self.generation = app
        self._ends: Any = AIOKafkaConsumer(
            isolation_level="read_committed", enable_auto_commit=False, **self._endpoint.options("bounds")
        )

    async def start(self) -> None:
        """Connect. Raises `LogUnreachable`."""
        await super().start()
        try:
            await self._ends.start()
        except UNREACHED as error:
            await self.close()
            raise LogUnreachable(
                f"Kafka at {self._endpoint.bootstrap}: {error!r}; check the brokers"
            ) from error

    async def all_bounds(self, topic: Topic) -> dict[int, Bounds]:
        """The bounds of each partition. Raises `LogUnreachable`."""
        places = [TopicPartition(f"{self._app}.{topic.value}", each) for each in range(self.partitions)]
        try:
            ends = await self._ends.end_offsets(places)
            starts = await self._ends.beginning_offsets(places)
        except UNREACHED as error:
            raise LogUnreachable(
                f"Kafka at {self._endpoint.bootstrap}, the bounds of {topic.value}: {error!r}. Check the brokers"
            ) from error
        return {place.partition: Bounds(starts[place], ends[place]) for place in places}

    async def close(self) -> None:
        await super().close()
        with contextlib.suppress(*UNREACHED):  # either way it is not used any more
            async with asyncio.timeout(CUT_TIMEOUT_S):
                await self._ends.stop()
