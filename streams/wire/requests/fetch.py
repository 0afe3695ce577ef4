"""Fetch: durable records from given offsets on; a request that finds too few waits until there are more.

Laws
- Readers see durable records only: the last stable offset is the high watermark, so `read_committed` changes
  nothing.
- Fetch sessions do not exist: the answer always has session 0.
- An answer has at most `MAX_BYTES`, and a larger record alone.
"""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.streams.log.embedded.tail import EmbeddedStream
from perdure.streams.wire.api import Api, by_partition
from perdure.streams.wire.batches import write_batch
from perdure.streams.wire.broker import Broker, KafkaCaller
from perdure.streams.wire.codec import Array, Field, Message, array, structure
from perdure.streams.wire.errors import Code, RequestRefused

MAX_BYTES = 4 * 1024 * 1024
MAX_WAIT_MS = 60_000

REQUEST = structure(
    Field("replica_id", "int32"),
    Field("max_wait_ms", "int32"),
    Field("min_bytes", "int32"),
    Field("max_bytes", "int32", 3),
    Field("isolation", "int8", 4),
    Field("session_id", "int32", 7),
    Field("session_epoch", "int32", 7),
    Field(
        "topics",
        array(
            Field("name", "string"),
            Field(
                "partitions",
                array(
                    Field("index", "int32"),
                    Field("current_leader_epoch", "int32", 9, default=-1),
                    Field("offset", "int64"),
                    Field("last_fetched_epoch", "int32", 12, default=-1),
                    Field("log_start_offset", "int64", 5),
                    Field("max_bytes", "int32"),
                ),
            ),
        ),
    ),
    Field("forgotten", array(Field("name", "string"), Field("partitions", Array("int32"))), 7),
    Field("rack_id", "string", 11),
)
RESPONSE = structure(
    Field("throttle_ms", "int32"),
    Field("error", "int16", 7),
    Field("session_id", "int32", 7),
    Field(
        "topics",
        array(
            Field("name", "string"),
            Field(
                "partitions",
                array(
                    Field("index", "int32"),
                    Field("error", "int16"),
                    Field("high_watermark", "int64", default=-1),
                    Field("last_stable_offset", "int64", 4, default=-1),
                    Field("log_start_offset", "int64", 5, default=-1),
                    Field("aborted", array(Field("producer_id", "int64"), Field("first_offset", "int64")), 4),
                    Field("preferred_read_replica", "int32", 11, default=-1),
                    Field("records", "nullable bytes", default=b""),
                ),
            ),
        ),
    ),
)


async def handle(broker: Broker, caller: KafkaCaller, request: Message, version: int) -> Message:
    wait_s = max(0, min(request["max_wait_ms"], MAX_WAIT_MS)) / 1000
    until_s = broker.loop.time() + wait_s
    while True:
        response, size, streams, failed = _gather(broker, caller, request)
        left_s = until_s - broker.loop.time()
        if size >= request["min_bytes"] or failed or left_s <= 0:
            return response
        if not await _moved(broker, streams, left_s):
            return _gather(broker, caller, request)[0]


async def _moved(broker: Broker, streams: list[EmbeddedStream], wait_s: float) -> bool:
    """Wait until one of the partitions has more durable records; False if it took too long."""
    moved: asyncio.Future[bool] = broker.loop.create_future()

    def wake(more: bool = True) -> None:
        if not moved.done():
            moved.set_result(more)

    end = broker.log.watch(streams, wake)
    timer = broker.loop.call_later(wait_s, wake, False)
    try:
        return await moved
    finally:
        timer.cancel()
        end()


def _gather(
    broker: Broker, caller: KafkaCaller, request: Message
) -> tuple[Message, int, list[EmbeddedStream], bool]:
    """The response as of now, the bytes of its records, the partitions to wait for, and if a part was
    refused.
    """
    limit = min(request["max_bytes"] or MAX_BYTES, MAX_BYTES)
    streams, size = [], 0

    def answer(name: str, wanted: Message, result: dict[str, Any]) -> None:
        nonlocal size
        stream = _readable(broker, caller, name, wanted)
        streams.append(stream)
        end = stream.durable
        result.update(high_watermark=end, last_stable_offset=end, log_start_offset=stream.start)
        if wanted["offset"] < end and size < limit:
            room = max(0, min(wanted["max_bytes"], limit - size))
            records = broker.log.read(stream, wanted["offset"], room)
            result["records"] = data = write_batch(records)
            size += len(data)

    topics = by_partition(request, answer)
    failed = any("error" in result for topic in topics for result in topic["partitions"])
    return {"topics": topics}, size, streams, failed


def _readable(broker: Broker, caller: KafkaCaller, name: str, wanted: Message) -> EmbeddedStream:
    if not broker.may_read(caller, name):
        raise RequestRefused(Code.TOPIC_AUTHORIZATION_FAILED, name)
    stream = broker.place(name, wanted["index"]).stream
    if wanted["current_leader_epoch"] > 0:
        raise RequestRefused(Code.UNKNOWN_LEADER_EPOCH, "the epoch is always 0")
    if not stream.start <= wanted["offset"] <= stream.durable:
        raise RequestRefused(Code.OFFSET_OUT_OF_RANGE, f"the log has {stream.start} up to {stream.durable}")
    return stream


API = Api(1, "Fetch", 4, 12, REQUEST, RESPONSE, handle, flexible=12)
