"""Bounded reads of Kafka partitions.

Recovery and rebuilds read the journal through these. Law: a request that gets no answer is repeated, with
back-off, for at most `READ_TIMEOUT_S` without progress.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from random import Random

from aiokafka.errors import for_code
from aiokafka.structs import TopicPartition

from perdure.schemas.backoff import Backoff
from perdure.schemas.errors import LogUnreachable
from perdure.streams.log.base import LogRecord
from perdure.streams.log.kafka.clients import UNREACHED, Endpoint, close_client, named
from perdure.streams.log.kafka.fetch import (
    READ_BYTES,
    READ_TIMEOUT_S,
    RETRY_S,
    UNKNOWN_TOPIC,
    Fetched,
    answers,
    fatal,
    request,
    unpack,
)

FEW = 256  # records: so short a read requests fewer bytes, as brokers send records behind it too
FEW_BYTES = 64 * 1024


class Reads:
    """Bounded reads, on a client of their own, so that a tail's long poll does not delay them."""

    def __init__(self, endpoint: Endpoint, topics: Sequence[str]) -> None:
        self._client = endpoint.client("read")
        self._topics = topics
        self._loop = asyncio.get_running_loop()

    async def start(self) -> None:
        """Connect. Raises one of `UNREACHED`."""
        await self._client.bootstrap()
        await self._client.set_topics(self._topics)

    def partitions(self, topic: str) -> int:
        """How many partitions one of the topics has; 0: there is none of that name."""
        return len(self._client.cluster.partitions_for_topic(topic) or ())

    async def read(self, place: TopicPartition, start: int, end: int) -> AsyncIterator[Sequence[LogRecord]]:
        """See `Log.read`. Raises `LogCorrupt`, `LogUnreachable`, `ConfigError`."""
        if start >= end:
            return
        max_bytes = READ_BYTES if end - start > FEW else FEW_BYTES
        ahead = self._loop.create_task(self._fetch(place, start, max_bytes))
        try:
            while True:
                fetched, position = await ahead
                records, after = unpack(fetched, position)
                if after < end:
                    ahead = self._loop.create_task(self._fetch(place, after, max_bytes))
                elif records and records[-1].offset >= end:
                    records = [record for record in records if record.offset < end]
                if records:
                    yield records
                if after >= end:
                    return
        finally:
            ahead.cancel()

    async def _fetch(self, place: TopicPartition, position: int, max_bytes: int) -> tuple[Fetched, int]:
        """The records at a position; repeats the request until there are some."""
        cluster = self._client.cluster
        started_s, backoff = self._loop.time(), Backoff(*RETRY_S, Random())
        last_code, since_s = 0, started_s
        last = "no leader"
        while (now_s := self._loop.time()) - started_s < READ_TIMEOUT_S:
            leader = cluster.leader_for_partition(place)
            error_code = UNKNOWN_TOPIC if cluster.partitions_for_topic(place.topic) is None else 0
            if leader is not None and leader != -1:
                try:
                    response = await self._client.send(leader, request([(place, position)], max_bytes))
                except UNREACHED as error:
                    last = repr(error)
                else:
                    fetched = answers(response)[0]
                    if fetched.error_code == 0:
                        if fetched.data:
                            return fetched, position
                        last = f"the log ends at {fetched.end}"
                        continue  # the broker has waited already
                    error_code = fetched.error_code
                    last = for_code(error_code).__name__
            if error_code != last_code:
                last_code, since_s = error_code, now_s
            problem = fatal(place, error_code, position, now_s - since_s)
            if problem is not None:
                raise problem
            await asyncio.sleep(backoff.failed())
            await self._client.force_metadata_update()
        raise LogUnreachable(
            f"{named(place)}: nothing could be read at offset {position} for {READ_TIMEOUT_S:.0f} s: {last}. "
            f"Check the brokers."
        )

    async def close(self) -> None:
        await close_client(self._client)
