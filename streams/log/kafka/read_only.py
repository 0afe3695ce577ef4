"""An app's log on a Kafka cluster, only read: by commands and helpers that stand beside its nodes.

It has no producer and commits nothing, so the brokers see a reader like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from perdure.streams.log.base import Bounds, LogRecord, Stamped, Topic
from perdure.streams.log.kafka.clients import CUT_TIMEOUT_S, UNREACHED, Endpoint
from perdure.streams.log.kafka.probe import unreachable
from perdure.streams.log.kafka.reads import Reads

CONNECT_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 10.0  # of bounds and since


class KafkaReading:
    """An app's log on a Kafka cluster, for reading only: without a producer or
    tails. The parameters are those of `KafkaLog`.
    """

    exclusive = False

    def __init__(
        self, bootstrap: str, app: str, *, client_id: str, security: Mapping[str, Any] | None = None
    ) -> None:
        self._app = app
        self.partitions = 0  # known once it has started
        self._endpoint = Endpoint(bootstrap, client_id, security or {})
        self._reads = Reads(self._endpoint, [f"{app}.{topic.value}" for topic in Topic])
        self._consumer: Any = None

    async def start(self) -> None:
        """Connect. Raises `LogUnreachable`."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._reads.start()
                self.partitions = self._reads.partitions(f"{self._app}.{Topic.JOURNAL.value}")
        except UNREACHED as error:
            await self._reads.close()
            raise await unreachable(self._endpoint, error) from error

    async def _asking(self) -> Any:
        """The client that asks for bounds; it connects when it is first used."""
        if self._consumer is None:
            self._consumer = AIOKafkaConsumer(enable_auto_commit=False, **self._endpoint.options("bounds"))
            await self._consumer.start()
        return self._consumer

    async def bounds(self, topic: Topic, partition: int) -> Bounds:
        """See `Log.bounds`. Raises `LogUnreachable`."""
        place = TopicPartition(f"{self._app}.{topic.value}", partition)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                consumer = await self._asking()
                ends, starts = await asyncio.gather(
                    consumer.end_offsets([place]), consumer.beginning_offsets([place])
                )
        except UNREACHED as error:
            raise await unreachable(self._endpoint, error) from error
        return Bounds(starts[place], ends[place])

    async def since(self, topic: Topic, partition: int, time_ms: int) -> Stamped | None:
        """See `Log.since`. Raises `LogUnreachable`."""
        place = TopicPartition(f"{self._app}.{topic.value}", partition)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                offsets = await (await self._asking()).offsets_for_times({place: time_ms})
        except UNREACHED as error:
            raise await unreachable(self._endpoint, error) from error
        return None if (at := offsets[place]) is None else Stamped(at.offset, at.timestamp)

    def read(self, topic: Topic, partition: int, start: int, end: int) -> AsyncIterator[Sequence[LogRecord]]:
        """See `KafkaLog.read`."""
        return self._reads.read(TopicPartition(f"{self._app}.{topic.value}", partition), start, end)

    async def close(self) -> None:
        if self._consumer is not None:
            with contextlib.suppress(*UNREACHED):  # either way it is not used any more
                async with asyncio.timeout(CUT_TIMEOUT_S):
                    await self._consumer.stop()
        await self._reads.close()
