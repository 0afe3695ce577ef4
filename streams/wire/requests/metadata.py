"""Metadata: this one broker, and the topics that the caller may see.

An empty list means no topics, null means all (version 0: an empty list means all). A request never creates a
topic.
"""

from __future__ import annotations

from typing import Any

from perdure.streams.wire.api import Answer, Api
from perdure.streams.wire.broker import NODE_ID, Broker, KafkaCaller
from perdure.streams.wire.codec import Array, Field, Message, array, structure
from perdure.streams.wire.errors import Code

NOT_REQUESTED = -(2**31)  # authorized operations

REQUEST = structure(
    Field("topics", array(Field("name", "string"), nullable=True)),
    Field("allow_auto_topic_creation", "bool", 4),
    Field("include_cluster_operations", "bool", 8, 10),
    Field("include_topic_operations", "bool", 8),
)
RESPONSE = structure(
    Field("throttle_ms", "int32", 3),
    Field(
        "brokers",
        array(
            Field("node_id", "int32"),
            Field("host", "string"),
            Field("port", "int32"),
            Field("rack", "nullable string", 1),
        ),
    ),
    Field("cluster_id", "nullable string", 2),
    Field("controller_id", "int32", 1),
    Field(
        "topics",
        array(
            Field("error", "int16"),
            Field("name", "string"),
            Field("is_internal", "bool", 1),
            Field(
                "partitions",
                array(
                    Field("error", "int16"),
                    Field("index", "int32"),
                    Field("leader_id", "int32"),
                    Field("leader_epoch", "int32", 7),
                    Field("replicas", Array("int32")),
                    Field("in_sync", Array("int32")),
                    Field("offline", Array("int32"), 5),
                ),
            ),
            Field("operations", "int32", 8, default=NOT_REQUESTED),
        ),
    ),
    Field("cluster_operations", "int32", 8, 10, default=NOT_REQUESTED),
)


def handle(broker: Broker, caller: KafkaCaller, request: Message, version: int) -> Answer:
    wanted = request["topics"]
    if wanted is None or (version == 0 and not wanted):
        names = [name for name in broker.names() if broker.sees(caller, name)]
    else:
        names = [topic["name"] for topic in wanted]
    host, port = broker.address(caller)
    return {
        "brokers": [{"node_id": NODE_ID, "host": host, "port": port}],
        "cluster_id": f"perdure-{broker.app}",
        "controller_id": NODE_ID,
        "topics": [_topic(broker, caller, name) for name in names],
    }


def _topic(broker: Broker, caller: KafkaCaller, name: str) -> dict[str, Any]:
    partitions = broker.partitions(name)
    if partitions is None:
        return {"error": Code.UNKNOWN_TOPIC_OR_PARTITION, "name": name}
    if not broker.sees(caller, name):
        return {"error": Code.TOPIC_AUTHORIZATION_FAILED, "name": name}
    one = (NODE_ID,)
    return {
        "name": name,
        "partitions": [
            {"index": index, "leader_id": NODE_ID, "replicas": one, "in_sync": one}
            for index in range(partitions)
        ],
    }


API = Api(3, "Metadata", 0, 9, REQUEST, RESPONSE, handle, flexible=9)
