"""CreateTopics: an ordinary topic beside perdure's own, on the embedded log.

For topics that clients need themselves: a reply topic, a framework's bookkeeping. Records are kept for as
long as commands (`keep_commands`), those of a topic with `cleanup.policy=compact` forever; nothing is
compacted.
"""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.streams.log.base import durable
from perdure.streams.wire.api import Api
from perdure.streams.wire.broker import Broker, KafkaCaller
from perdure.streams.wire.codec import Array, Field, Message, array, structure
from perdure.streams.wire.errors import Code, RequestRefused

DEFAULT_PARTITIONS = 1

REQUEST = structure(
    Field(
        "topics",
        array(
            Field("name", "string"),
            Field("partitions", "int32"),
            Field("replication_factor", "int16"),
            Field("assignments", array(Field("index", "int32"), Field("brokers", Array("int32")))),
            Field("configs", array(Field("name", "string"), Field("value", "nullable string"))),
        ),
    ),
    Field("timeout_ms", "int32"),
    Field("validate_only", "bool", 1),
)
RESPONSE = structure(
    Field("throttle_ms", "int32", 2),
    Field(
        "topics",
        array(Field("name", "string"), Field("error", "int16"), Field("error_message", "nullable string", 1)),
    ),
)


async def handle(broker: Broker, caller: KafkaCaller, request: Message, version: int) -> Message:
    results, receipts = [], []
    for topic in request["topics"]:
        result: dict[str, Any] = {"name": topic["name"]}
        results.append(result)
        try:
            partitions, compacted = _checked(broker, caller, topic)
        except RequestRefused as refused:
            result.update(error=refused.code, error_message=str(refused))
            continue
        if not request["validate_only"]:
            receipts.append(durable(broker.log.create(topic["name"], partitions, compacted=compacted)))
    await asyncio.gather(*receipts)
    return {"topics": results}


def _checked(broker: Broker, caller: KafkaCaller, topic: Message) -> tuple[int, bool]:
    if not broker.may_create(caller):
        raise RequestRefused(Code.CLUSTER_AUTHORIZATION_FAILED, "creating a topic needs the right admin")
    if topic["replication_factor"] not in (-1, 1) and not topic["assignments"]:
        raise RequestRefused(
            Code.INVALID_REPLICATION_FACTOR, "there is one broker: the replication factor is 1"
        )
    partitions = len(topic["assignments"]) or topic["partitions"]
    partitions = DEFAULT_PARTITIONS if partitions == -1 else partitions
    broker.check_new(topic["name"], partitions)
    policy = next((each["value"] for each in topic["configs"] if each["name"] == "cleanup.policy"), None)
    return partitions, "compact" in (policy or "")


API = Api(19, "CreateTopics", 2, 4, REQUEST, RESPONSE, handle)
