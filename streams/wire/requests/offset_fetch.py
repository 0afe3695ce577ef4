"""OffsetFetch: what groups have committed; -1 where they have committed nothing."""

from __future__ import annotations

from typing import Any

from perdure.streams.wire.api import Answer, Api
from perdure.streams.wire.broker import Broker, KafkaCaller
from perdure.streams.wire.codec import Array, Field, Message, array, structure
from perdure.streams.wire.errors import RequestRefused

_WANTED = array(Field("name", "string"), Field("partitions", Array("int32")), nullable=True)
_TOPICS = array(
    Field("name", "string"),
    Field(
        "partitions",
        array(
            Field("index", "int32"),
            Field("offset", "int64", default=-1),
            Field("leader_epoch", "int32", 5, default=-1),
            Field("metadata", "nullable string", default=""),
            Field("error", "int16"),
        ),
    ),
)

REQUEST = structure(
    Field("group", "string", 0, 7),
    Field("topics", _WANTED, 0, 7),
    Field("groups", array(Field("group", "string"), Field("topics", _WANTED)), 8),
    Field("require_stable", "bool", 7),
)
RESPONSE = structure(
    Field("throttle_ms", "int32", 3),
    Field("topics", _TOPICS, 0, 7),
    Field("error", "int16", 2, 7),
    Field("groups", array(Field("group", "string"), Field("topics", _TOPICS), Field("error", "int16")), 8),
)


def handle(broker: Broker, caller: KafkaCaller, request: Message, version: int) -> Answer:
    if version < 8:
        return _group(broker, caller, request)
    return {
        "groups": [{"group": each["group"], **_group(broker, caller, each)} for each in request["groups"]]
    }


def _group(broker: Broker, caller: KafkaCaller, wanted: Message) -> dict[str, Any]:
    try:
        broker.check_group(caller)
    except RequestRefused as refused:
        return {"error": refused.code, "topics": []}
    committed = broker.groups.offsets.of(wanted["group"])
    topics = wanted["topics"]
    if topics is None:
        named: dict[str, list[int]] = {}
        for name, partition in committed:
            named.setdefault(name, []).append(partition)
        topics = [{"name": name, "partitions": partitions} for name, partitions in named.items()]
    return {
        "topics": [
            {
                "name": topic["name"],
                "partitions": [
                    _partition(committed.get((topic["name"], each)), each) for each in topic["partitions"]
                ],
            }
            for topic in topics
        ]
    }


def _partition(commit: Any, index: int) -> dict[str, Any]:
    if commit is None:
        return {"index": index}
    return {
        "index": index,
        "offset": commit.offset,
        "leader_epoch": commit.leader_epoch,
        "metadata": commit.metadata,
    }


API = Api(9, "OffsetFetch", 1, 8, REQUEST, RESPONSE, handle, flexible=6)
