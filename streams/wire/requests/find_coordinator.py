"""FindCoordinator: this broker is the coordinator of every group; there is none for transactions."""

from __future__ import annotations

from typing import Any

from perdure.streams.wire.api import Answer, Api
from perdure.streams.wire.broker import NODE_ID, Broker, KafkaCaller
from perdure.streams.wire.codec import Array, Field, Message, array, structure
from perdure.streams.wire.errors import Code

GROUP = 0

REQUEST = structure(
    Field("key", "string", 0, 3),
    Field("key_type", "int8", 1, default=GROUP),
    Field("keys", Array("string"), 4),
)
RESPONSE = structure(
    Field("throttle_ms", "int32", 1),
    Field("error", "int16", 0, 3),
    Field("error_message", "nullable string", 1, 3),
    Field("node_id", "int32", 0, 3, default=-1),
    Field("host", "string", 0, 3),
    Field("port", "int32", 0, 3, default=-1),
    Field(
        "coordinators",
        array(
            Field("key", "string"),
            Field("node_id", "int32", default=-1),
            Field("host", "string"),
            Field("port", "int32", default=-1),
            Field("error", "int16"),
            Field("error_message", "nullable string"),
        ),
        4,
    ),
)


def handle(broker: Broker, caller: KafkaCaller, request: Message, version: int) -> Answer:
    place = _place(broker, caller, request["key_type"])
    if version < 4:
        return place
    return {"coordinators": [{"key": key, **place} for key in request["keys"]]}


def _place(broker: Broker, caller: KafkaCaller, key_type: int) -> dict[str, Any]:
    if key_type != GROUP:
        message = "transactions are not supported by the embedded log"
        return {"error": Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "error_message": message}
    host, port = broker.address(caller)
    return {"node_id": NODE_ID, "host": host, "port": port}


API = Api(10, "FindCoordinator", 0, 4, REQUEST, RESPONSE, handle, flexible=3)
