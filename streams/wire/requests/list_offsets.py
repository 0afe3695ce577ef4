"""ListOffsets: the first and the next offset of partitions, and the first one since a time."""

from __future__ import annotations

from typing import Any

from perdure.streams.wire.api import Answer, Api, by_partition
from perdure.streams.wire.broker import Broker, KafkaCaller
from perdure.streams.wire.codec import Field, Message, array, structure
from perdure.streams.wire.errors import Code, RequestRefused

LATEST, EARLIEST, NEWEST = -1, -2, -3  # in place of a time; the last: of the record with the latest time

REQUEST = structure(
    Field("replica_id", "int32"),
    Field("isolation", "int8", 2),
    Field(
        "topics",
        array(
            Field("name", "string"),
            Field(
                "partitions",
                array(
                    Field("index", "int32"),
                    Field("current_leader_epoch", "int32", 4, default=-1),
                    Field("timestamp", "int64"),
                ),
            ),
        ),
    ),
)
RESPONSE = structure(
    Field("throttle_ms", "int32", 2),
    Field(
        "topics",
        array(
            Field("name", "string"),
            Field(
                "partitions",
                array(
                    Field("index", "int32"),
                    Field("error", "int16"),
                    Field("timestamp", "int64", 1, default=-1),
                    Field("offset", "int64", 1, default=-1),
                    Field("leader_epoch", "int32", 4),
                ),
            ),
        ),
    ),
)


def handle(broker: Broker, caller: KafkaCaller, request: Message, version: int) -> Answer:
    def answer(name: str, wanted: Message, result: dict[str, Any]) -> None:
        result.update(_offset(broker, caller, name, wanted["index"], wanted["timestamp"]))

    return {"topics": by_partition(request, answer)}


def _offset(broker: Broker, caller: KafkaCaller, name: str, index: int, timestamp: int) -> dict[str, int]:
    stream = broker.place(name, index).stream
    if not broker.sees(caller, name):
        raise RequestRefused(Code.TOPIC_AUTHORIZATION_FAILED, name)
    if timestamp == LATEST:
        return {"offset": stream.durable}
    if timestamp == EARLIEST:
        return {"offset": stream.start}
    if timestamp == NEWEST:
        if stream.start == stream.durable:
            return {}
        last = broker.log.read(stream, stream.durable - 1, 1)[0]
        return {"offset": last.offset, "timestamp": last.time_ms}
    record = broker.log.first_since(stream, timestamp)
    return {} if record is None else {"offset": record.offset, "timestamp": record.time_ms}


API = Api(2, "ListOffsets", 1, 5, REQUEST, RESPONSE, handle)
