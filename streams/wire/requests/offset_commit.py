"""OffsetCommit: what a group has read; the answer waits until it is durable.

A commit with generation -1 is one outside of a group: it counts as long as the group has no members.
"""

from __future__ import annotations

from typing import Any

from perdure.streams.log.base import durable
from perdure.streams.wire.api import Api, by_partition
from perdure.streams.wire.broker import Broker, KafkaCaller
from perdure.streams.wire.codec import Field, Message, array, structure
from perdure.streams.wire.errors import Code, RequestRefused
from perdure.streams.wire.groups.group import GroupState
from perdure.streams.wire.groups.offsets import Committed, Offsets, TopicPartition

MAX_METADATA_CHARS = 4096

REQUEST = structure(
    Field("group", "string"),
    Field("generation", "int32", 1, default=-1),
    Field("member", "string", 1, default=""),
    Field("instance", "nullable string", 7),
    Field("retention_ms", "int64", 2, 4),
    Field(
        "topics",
        array(
            Field("name", "string"),
            Field(
                "partitions",
                array(
                    Field("index", "int32"),
                    Field("offset", "int64"),
                    Field("leader_epoch", "int32", 6, default=-1),
                    Field("metadata", "nullable string"),
                ),
            ),
        ),
    ),
)
RESPONSE = structure(
    Field("throttle_ms", "int32", 3),
    Field(
        "topics",
        array(
            Field("name", "string"),
            Field("partitions", array(Field("index", "int32"), Field("error", "int16"))),
        ),
    ),
)


async def handle(broker: Broker, caller: KafkaCaller, request: Message, version: int) -> Message:
    whole = _check_group(broker, caller, request)
    commits: dict[TopicPartition, Committed] = {}

    def answer(name: str, part: Message, result: dict[str, Any]) -> None:
        result["error"] = code = whole or _check(broker, name, part)
        if not code:
            commits[name, part["index"]] = Committed(
                part["offset"], part["leader_epoch"], part["metadata"] or "", broker.clock_ms()
            )

    topics = by_partition(request, answer)
    if commits:
        await durable(broker.log.put(Offsets.rows(request["group"], commits)))
        broker.groups.offsets.keep(request["group"], commits)
    return {"topics": topics}


def _check_group(broker: Broker, caller: KafkaCaller, request: Message) -> Code:
    group = broker.groups.group(request["group"])
    try:
        broker.check_group(caller)
    except RequestRefused as refused:
        return refused.code
    if not broker.groups.offsets.room_for(sum(len(topic["partitions"]) for topic in request["topics"])):
        return Code.INVALID_COMMIT_OFFSET_SIZE
    if request["generation"] < 0 and (group is None or group.state is GroupState.EMPTY):
        return Code.NONE
    if group is None:
        return Code.ILLEGAL_GENERATION
    code = group.check(request["member"], request["generation"], request["instance"])
    return Code.REBALANCE_IN_PROGRESS if not code and group.state is GroupState.COMPLETING else code


def _check(broker: Broker, name: str, part: Message) -> Code:
    if not 0 <= part["index"] < (broker.partitions(name) or 0):
        return Code.UNKNOWN_TOPIC_OR_PARTITION
    if len(part["metadata"] or "") > MAX_METADATA_CHARS:
        return Code.OFFSET_METADATA_TOO_LARGE
    return Code.NONE


API = Api(8, "OffsetCommit", 2, 8, REQUEST, RESPONSE, handle, flexible=8)
