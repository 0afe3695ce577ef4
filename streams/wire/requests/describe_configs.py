"""DescribeConfigs: how topics are kept, in the words of a broker."""

from __future__ import annotations

from typing import Any

from perdure.streams.log.base import Topic
from perdure.streams.wire.api import Answer, Api
from perdure.streams.wire.broker import Broker, KafkaCaller
from perdure.streams.wire.codec import Array, Field, Message, array, structure
from perdure.streams.wire.errors import Code
from perdure.streams.wire.requests.produce import MAX_RECORD_BYTES

TOPIC, BROKER = 2, 4
_DYNAMIC_TOPIC, _DEFAULT = 1, 5  # sources of a value

REQUEST = structure(
    Field(
        "resources",
        array(Field("type", "int8"), Field("name", "string"), Field("keys", Array("string", nullable=True))),
    ),
    Field("include_synonyms", "bool", 1),
)
RESPONSE = structure(
    Field("throttle_ms", "int32"),
    Field(
        "results",
        array(
            Field("error", "int16"),
            Field("error_message", "nullable string"),
            Field("type", "int8"),
            Field("name", "string"),
            Field(
                "configs",
                array(
                    Field("name", "string"),
                    Field("value", "nullable string"),
                    Field("read_only", "bool"),
                    Field("source", "int8", 1),
                    Field("is_sensitive", "bool"),
                    Field(
                        "synonyms",
                        array(
                            Field("name", "string"),
                            Field("value", "nullable string"),
                            Field("source", "int8"),
                        ),
                        1,
                    ),
                ),
            ),
        ),
    ),
)


def handle(broker: Broker, caller: KafkaCaller, request: Message, version: int) -> Answer:
    return {"results": [_resource(broker, caller, each) for each in request["resources"]]}


def _resource(broker: Broker, caller: KafkaCaller, wanted: Message) -> dict[str, Any]:
    result: dict[str, Any] = {"type": wanted["type"], "name": wanted["name"]}
    if wanted["type"] == BROKER:
        return result | {"configs": []}
    if wanted["type"] != TOPIC:
        return result | {
            "error": Code.INVALID_REQUEST,
            "error_message": "topics and the broker have settings",
        }
    if broker.partitions(wanted["name"]) is None:
        return result | {"error": Code.UNKNOWN_TOPIC_OR_PARTITION}
    if not broker.sees(caller, wanted["name"]):
        return result | {"error": Code.TOPIC_AUTHORIZATION_FAILED}
    return result | {
        "configs": [
            {"name": name, "value": value, "read_only": True, "source": _DYNAMIC_TOPIC}
            for name, value in _settings(broker, wanted["name"]).items()
            if wanted["keys"] is None or name in wanted["keys"]
        ]
    }


def _settings(broker: Broker, name: str) -> dict[str, str]:
    own, keep_ms = broker.own(name), broker.keep_ms
    compacted = own is None and broker.log.topics[name].compacted
    for_ever = keep_ms is None or compacted or own is Topic.JOURNAL
    return {
        "cleanup.policy": "compact" if compacted else "delete",
        "retention.ms": "-1" if for_ever else str(keep_ms),
        "retention.bytes": "-1",
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(MAX_RECORD_BYTES),
        "min.insync.replicas": "1",
        "compression.type": "uncompressed",
    }


API = Api(32, "DescribeConfigs", 1, 2, REQUEST, RESPONSE, handle)
