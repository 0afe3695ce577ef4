"""aiokafka as the Kafka log uses it: the options of its clients, and a producer
whose batches can be taken back.

`queues.py` and the writers send through a `Producer`, which `producer.py` makes and replaces. aiokafka is
pinned below 0.15, because `_message_accumulator`, `_sender`, `_topics` and parts of `BatchBuilder`, which are
used here, are its private parts.

Laws
- Every client of a log is made from one `Endpoint`: the same address, time-outs and credentials.
- A `Producer` sends nothing more from the moment `cut` returns.
- `Producer.touched` is True of every batch of which a byte may have left this process.
- No call waits for a broker longer than its docstring says.
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

from perdure.streams.log.base import Record
from perdure.streams.log.kafka.wire import Produce

MAX_MESSAGE_BYTES = 10 * 1024 * 1024  # `max.message.bytes` of the topics: one batch, headers and all
REQUEST_TIMEOUT_MS = 4000  # for so long a hung broker stalls a partition; aiokafka's default is 40 s
RETRY_BACKOFF_MS = 50
METADATA_MAX_AGE_MS = 30_000
CUT_TIMEOUT_S = 2.0

UNREACHED = (KafkaError, OSError, TimeoutError)  # what aiokafka raises if a broker cannot be reached


class Endpoint(NamedTuple):
    """The address of a Kafka cluster and the options of its clients; `security` is
    made by `security_options`.
    """

    bootstrap: str
    client_id: str
    security: Mapping[str, Any]

    def __repr__(self) -> str:
        """Without `security`, which holds the password."""
        return f"Endpoint({self.bootstrap!r}, {self.client_id!r})"

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

    def client(self, role: str) -> Any:
        """A client without a producer or consumer, for our own requests."""
        return AIOKafkaClient(**self.options(role))


def named(place: TopicPartition) -> str:
    """A partition as log lines and errors name it."""
    return f"{place.topic.rpartition('.')[2]} partition {place.partition} (topic {place.topic})"


async def close_client(client: Any) -> None:
    """Close a client; at the latest after `CUT_TIMEOUT_S`, whatever its brokers do."""
    with contextlib.suppress(*UNREACHED):  # either way it is not used any more
        async with asyncio.timeout(CUT_TIMEOUT_S):
            await client.close()


class Producer:
    """An idempotent producer, used until its first error.

    After an error a producer may leave a silent gap (its sequence numbers go on without the lost batch), so
    it is never used again: `cut` it, `drop` it, and make a new one.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._aiokafka: Any = AIOKafkaProducer(
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=MAX_MESSAGE_BYTES,
            max_request_size=MAX_MESSAGE_BYTES,
            **endpoint.options("producer"),
        )
        self._accumulator: Any = self._aiokafka._message_accumulator
        # Otherwise batches of a partition without a leader would expire after the request time-out, and fail
        # the whole producer; our own time-out withdraws them one by one.
        self._accumulator._batch_ttl = float("inf")
        self._send_request = self._aiokafka.client.send
        self._aiokafka.client.send = self._send_marked
        self._touched: set[TopicPartition] = set()
        self._cut = False

    async def start(self, topics: Sequence[str], timeout_s: float) -> None:
        """Connect and fetch the metadata of the topics. Raises one of `UNREACHED`;
        then `drop` the producer.
        """
        async with asyncio.timeout(timeout_s):
            await self._aiokafka.start()
            self._aiokafka.client.set_topics(topics)
            for topic in topics:
                await self._aiokafka.partitions_for(topic)

    def batch(self, records: Sequence[Record], time_ms: int | None) -> Any:
        """A batch (an aiokafka `BatchBuilder`) of records; together they have `MAX_MESSAGE_BYTES` at most.

        `time_ms` stamps them until the broker does; None for now. The same as the builder's own `append` for
        each, at half the cost.
        """
        batch = self._aiokafka.create_batch()
        append = batch._builder.append
        for number, record in enumerate(records):
            fits = append(number, time_ms, record.key, record.value, list(record.headers))
            assert fits is not None, f"a batch of more than {MAX_MESSAGE_BYTES} bytes"
        batch._relative_offset = len(records)
        return batch

    def send(self, batch: Any, place: TopicPartition) -> asyncio.Future[Any]:
        """Hand a batch over; at most one may be in flight for each partition. The
        result has the base `offset`.

        The same as aiokafka's `send_batch`, without its two awaits, which have nothing to wait for once the
        topics are known and no other batch of the partition is in flight. Raises `KafkaError` if the producer
        has failed.
        """
        assert not self._cut, "a batch was handed to a producer that had been dropped"
        if self._accumulator._exception is not None:
            raise KafkaError(f"the producer has died: {self._accumulator._exception!r}")
        self._touched.discard(place)
        batch.close()
        future: asyncio.Future[Any] = self._accumulator._append_batch(batch, place).future
        return future

    async def _send_marked(self, node: int, request: Any, *, group: Any = ConnectionGroup.DEFAULT) -> Any:
        """Replaces the client's `send`: records which batches are sent, and stops them after `cut`."""
        if isinstance(request, ProduceRequest):
            if not await self._aiokafka.client.ready(node, group=group) or self._cut:
                raise NodeNotReadyError(f"node {node} is not connected")
            for topic, partitions in request._topics:
                self._touched.update(TopicPartition(topic, partition) for partition, _ in partitions)
            request = Produce.of(request)
        return await self._send_request(node, request, group=group)

    def touched(self, place: TopicPartition) -> bool:
        """True if the batch last handed over for this partition may have left this process."""
        return place in self._touched

    def withdraw(self, place: TopicPartition) -> bool:
        """Take back the batch of this partition if it was never sent (so that no
        sequence number was used for it).
        """
        batches = self._accumulator._batches.get(place)
        if not batches or batches[0].retry_count > 0:
            return False
        del self._accumulator._batches[place]
        return True

    def cut(self) -> None:
        """Send nothing more, from now on."""
        self._cut = True
        self._aiokafka._closed = True  # `stop` would wait for the brokers; this only silences its finalizer
        task = self._aiokafka._sender.sender_task
        if task is not None and not task.done():
            task.cancel()

    async def drop(self) -> None:
        """Close the connections and end the tasks; at the latest after a few
        seconds, whatever the brokers do.
        """
        self.cut()
        await asyncio.sleep(0)
        task = self._aiokafka._sender.sender_task
        if task is not None and not task.done():
            task.cancel()  # the first made it leave its loop and wait for its requests; this one ends the wait
        await close_client(self._aiokafka.client)
        if task is not None:
            await asyncio.wait([task], timeout=CUT_TIMEOUT_S)
