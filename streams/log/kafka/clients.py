"""aiokafka as the Kafka log uses it; with wire.py all that reaches into aiokafka's inside.

Laws
- Every client of a log is made from one `Endpoint`: same address, same time-outs, same credentials.
- A dropped `Link` puts nothing more on a wire, from the moment `cut` returns.
- `Link.touched` never says no about a batch of which a byte may have left this process.
- No call waits for a broker longer than it says.

aiokafka is pinned below 0.15: `_message_accumulator`, `_sender` and `_topics` are its private parts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.errors import KafkaError, NodeNotReadyError
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.structs import TopicPartition

from perdure.schemas.errors import LogUnreachable
from perdure.streams.log.kafka.wire import Produce

MAX_MESSAGE_BYTES = 10 * 1024 * 1024  # `max.message.bytes` of the topics: one batch, headers and all
REQUEST_TIMEOUT_MS = 4000  # a hung broker stalls for this long; aiokafka's default is 40 s
RETRY_BACKOFF_MS = 50
METADATA_MAX_AGE_MS = 30_000
CUT_TIMEOUT_S = 2.0

UNREACHED = (KafkaError, OSError, TimeoutError)  # what a broker that cannot be reached makes aiokafka raise


class Endpoint(NamedTuple):
    """Where Kafka is and how to speak to it; `security` goes to aiokafka as it is (SASL, TLS)."""

    bootstrap: str
    client_id: str
    security: Mapping[str, Any]

    def options(self, role: str) -> dict[str, Any]:
        """Keyword arguments for any of aiokafka's clients; `role` tells them apart in the broker's log."""
        return {
            "bootstrap_servers": self.bootstrap,
            "client_id": f"{self.client_id}-{role}",
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "retry_backoff_ms": RETRY_BACKOFF_MS,
            "metadata_max_age_ms": METADATA_MAX_AGE_MS,
            **self.security,
        }

    def unreachable(self, error: BaseException) -> LogUnreachable:
        """What an error of `UNREACHED` at the start of a client is to whoever runs perdure."""
        return LogUnreachable(f"Kafka at {self.bootstrap}: {error!r}. Check the brokers.")

    def client(self, role: str) -> Any:
        """A bare client, for requests of our own."""
        return AIOKafkaClient(**self.options(role))


def named(place: TopicPartition) -> str:
    """How messages call a partition."""
    return f"{place.topic.rpartition('.')[2]} partition {place.partition} (topic {place.topic})"


async def close_client(client: Any) -> None:
    """Close a bare client; at the latest after `CUT_TIMEOUT_S`, whatever its brokers do."""
    with contextlib.suppress(*UNREACHED):  # it is gone for us either way
        async with asyncio.timeout(CUT_TIMEOUT_S):
            await client.close()


class Link:
    """One idempotent producer, from its start to the first thing that goes wrong with it.

    After an error a producer may leave a silent gap (its sequence numbers go on without the lost batch), so
    it is never used again: `cut`, `drop`, and make a new one.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._producer: Any = AIOKafkaProducer(
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=MAX_MESSAGE_BYTES,
            max_request_size=MAX_MESSAGE_BYTES,
            **endpoint.options("producer"),
        )
        self._accumulator: Any = self._producer._message_accumulator
        # Its batches would otherwise expire after the request time-out while their partition has no leader,
        # and take the whole producer with them; our own time-out withdraws them one by one.
        self._accumulator._batch_ttl = float("inf")
        self._send_request = self._producer.client.send
        self._producer.client.send = self._send_marked
        self._touched: set[TopicPartition] = set()
        self._cut = False

    async def start(self, topics: Sequence[str], timeout_s: float) -> None:
        """Connect and learn where the topics are. Raises one of `UNREACHED`; `drop` it then."""
        async with asyncio.timeout(timeout_s):
            await self._producer.start()
            self._producer.client.set_topics(topics)
            for topic in topics:
                await self._producer.partitions_for(topic)

    def batch(self) -> Any:
        """An empty batch (an aiokafka `BatchBuilder`) of up to `MAX_MESSAGE_BYTES`."""
        return self._producer.create_batch()

    def send(self, batch: Any, place: TopicPartition) -> asyncio.Future[Any]:
        """Hand a batch over; at most one for a place may be under way. The result has the base `offset`.

        The same as aiokafka's `send_batch`, whose two awaits have nothing to wait for once the topics are
        known and no other batch of the place is under way. Raises `KafkaError` if the producer is dead.
        """
        assert not self._cut, "a batch was handed to a producer that had been dropped"
        if self._accumulator._exception is not None:
            raise KafkaError(f"the producer has died: {self._accumulator._exception!r}")
        self._touched.discard(place)
        batch.close()
        future: asyncio.Future[Any] = self._accumulator._append_batch(batch, place).future
        return future

    async def _send_marked(self, node: int, request: Any, *, group: Any = ConnectionGroup.DEFAULT) -> Any:
        """In place of the client's `send`: notes which batches go on a wire, and stops them after `cut`."""
        if isinstance(request, ProduceRequest):
            if not await self._producer.client.ready(node, group=group) or self._cut:
                raise NodeNotReadyError(f"node {node} is not connected")
            for topic, partitions in request._topics:
                self._touched.update(TopicPartition(topic, partition) for partition, _ in partitions)
            request = Produce.of(request)
        return await self._send_request(node, request, group=group)

    def touched(self, place: TopicPartition) -> bool:
        """May the batch last handed over for this place have left this process?"""
        return place in self._touched

    def withdraw(self, place: TopicPartition) -> bool:
        """Take back the batch of this place if its turn never came (no sequence number was spent on it)."""
        batches = self._accumulator._batches.get(place)
        if not batches or batches[0].retry_count > 0:
            return False
        del self._accumulator._batches[place]
        return True

    def cut(self) -> None:
        """Send nothing more, from now on."""
        self._cut = True
        self._producer._closed = True  # `stop` would wait for the brokers; this only silences its finaliser
        task = self._producer._sender.sender_task
        if task is not None and not task.done():
            task.cancel()

    async def drop(self) -> None:
        """Let go of everything; at the latest after a few seconds, whatever the brokers do."""
        self.cut()
        await asyncio.sleep(0)
        task = self._producer._sender.sender_task
        if task is not None and not task.done():
            task.cancel()  # the first made it leave its loop and wait for its requests; this cuts them
        await close_client(self._producer.client)
        if task is not None:
            await asyncio.wait([task], timeout=CUT_TIMEOUT_S)
