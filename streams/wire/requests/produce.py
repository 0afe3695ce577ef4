"""Produce: append batches, each to its partition, by one call to the log; the answer waits until all are
durable.

A record for `commands` becomes a command by the same way as one on a broker: its owner reads it from the log,
with the time of the log's clock. Versions 0 to 2 carry formats that Kafka 4 refuses too; they are advertised
because old librdkafka reads features out of the low end.
"""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.schemas.errors import OverQuota, PerdureError
from perdure.streams.log.base import Receipt, Topic, size_bytes
from perdure.streams.wire.api import Answer, Api, by_partition
from perdure.streams.wire.batches import HEAD, MAX_PARTS, ProducedBatch, read_batch
from perdure.streams.wire.broker import Broker, KafkaCaller, PartitionPlace
from perdure.streams.wire.codec import Field, Message, array, structure
from perdure.streams.wire.errors import Code, RequestRefused

MAX_RECORD_BYTES = 10 * 1024 * 1024  # as on Kafka, where the topics' `max.message.bytes` says so

REQUEST = structure(
    Field("transactional_id", "nullable string", 3),
    Field("acks", "int16"),
    Field("timeout_ms", "int32"),
    Field(
        "topics",
        array(
            Field("name", "string"),
            Field("partitions", array(Field("index", "int32"), Field("records", "nullable bytes"))),
        ),
    ),
)
RESPONSE = structure(
    Field(
        "topics",
        array(
            Field("name", "string"),
            Field(
                "partitions",
                array(
                    Field("index", "int32"),
                    Field("error", "int16"),
                    Field("base_offset", "int64", default=-1),
                    Field("log_append_time_ms", "int64", 2, default=-1),
                    Field("log_start_offset", "int64", 5, default=-1),
                    Field(
                        "record_errors",
                        array(Field("index", "int32"), Field("message", "nullable string")),
                        8,
                    ),
                    Field("error_message", "nullable string", 8),
                ),
            ),
        ),
    ),
    Field("throttle_ms", "int32", 1),
)


class _Pending:
    """The answer to one request, until every batch of it is durable."""

    def __init__(self, loop: asyncio.AbstractEventLoop, response: Message | None) -> None:
        self.future: asyncio.Future[Message | None] = loop.create_future()
        self._response = response
        self._left = 1

    def wait_for(self, receipt: Receipt, result: dict[str, Any]) -> None:
        self._left += 1

        def durable(error: BaseException | None) -> None:
            if error is not None:
                result.update(error=Code.KAFKA_STORAGE_ERROR, base_offset=-1, error_message=str(error))
                if not isinstance(error, PerdureError) and not self.future.done():
                    self.future.set_exception(error)
            self.one_less()

        receipt.when_durable(durable)

    def one_less(self) -> None:
        self._left -= 1
        if not self._left and not self.future.done():
            self.future.set_result(self._response)


def handle(broker: Broker, caller: KafkaCaller, request: Message, version: int) -> Answer:
    due = _charges(request) if broker.admission is not None else []
    try:
        _charge(broker, caller, due)
    except OverQuota as over:
        return _when_charged(broker, caller, request, due, over.retry_after_s)
    return _append(broker, caller, request)


def _charges(request: Message) -> list[int]:
    """What a quota counts: a request for each record, with the bytes of its batch at the first of them."""
    charges = []
    for topic in request["topics"]:
        for each in topic["partitions"]:
            data = each["records"] or b""
            count = int.from_bytes(data[HEAD.size - 4 : HEAD.size], "big")
            charges += [len(data), *[0] * (min(count, MAX_PARTS) - 1)]
    return charges


def _charge(broker: Broker, caller: KafkaCaller, due: list[int]) -> None:
    """Count what is due, and take it from the list. Raises `OverQuota`; the rest is due then."""
    while due:
        assert broker.admission is not None
        assert caller.grant is not None
        broker.admission.charge(caller.grant, 1, due[-1])
        due.pop()


async def _when_charged(
    broker: Broker, caller: KafkaCaller, request: Message, due: list[int], wait_s: float
) -> Message | None:
    """Append once the quota has room, as a broker throttles; the connection is not read meanwhile."""
    while due:
        await asyncio.sleep(wait_s)
        try:
            _charge(broker, caller, due)
        except OverQuota as over:
            wait_s = over.retry_after_s
    return await _append(broker, caller, request)


def _append(broker: Broker, caller: KafkaCaller, request: Message) -> asyncio.Future[Message | None]:
    response: Message = {}
    pending = _Pending(broker.loop, None if request["acks"] == 0 else response)

    def answer(name: str, each: Message, result: dict[str, Any]) -> None:
        _check_request(request)
        place = broker.place(name, each["index"])
        _append_batch(broker, caller, place, read_batch(each["records"] or b""), result, pending)

    response["topics"] = by_partition(request, answer)
    pending.one_less()
    return pending.future


def _check_request(request: Message) -> None:
    if request["acks"] not in (-1, 0, 1):
        raise RequestRefused(Code.INVALID_REQUIRED_ACKS, f"acks is -1, 0 or 1, not {request['acks']}")
    if request["transactional_id"] is not None:
        raise RequestRefused(
            Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "transactions are not supported by the embedded log"
        )


def _append_batch(
    broker: Broker,
    caller: KafkaCaller,
    place: PartitionPlace,
    batch: ProducedBatch,
    result: dict[str, Any],
    pending: _Pending,
) -> None:
    broker.check_write(caller, place, batch.records)
    stream, count, producer = place.stream, len(batch.records), batch.producer_id
    rows: dict[bytes, bytes | None] = {}
    if place.topic is Topic.COMMANDS and max(map(size_bytes, batch.records)) > MAX_RECORD_BYTES:
        raise RequestRefused(Code.MESSAGE_TOO_LARGE, f"a record has at most {MAX_RECORD_BYTES} bytes")
    if producer >= 0:
        numbers = stream.prefix, producer, batch.producer_epoch, batch.first_sequence, count
        if (before := broker.producers.repeated(*numbers)) is not None:
            result.update(base_offset=before[0])
            if before[1] is not None:
                pending.wait_for(before[1], result)
            return
        rows = broker.producers.appended(*numbers, stream.next)
    appended = broker.log.append(stream, batch.records, rows)
    result.update(
        base_offset=appended.first_offset,
        log_append_time_ms=appended.time_ms,
        log_start_offset=stream.start,
    )
    if producer >= 0:
        broker.producers.under_way(stream.prefix, producer, appended.first_offset, appended.receipt)
    pending.wait_for(appended.receipt, result)


API = Api(0, "Produce", 0, 8, REQUEST, RESPONSE, handle, in_flight=True)
