"""Heartbeat: a member is alive; the answer reports a rebalance."""

from __future__ import annotations

from perdure.streams.wire.api import Answer, Api
from perdure.streams.wire.broker import Broker, KafkaCaller
from perdure.streams.wire.codec import Field, Message, structure
from perdure.streams.wire.errors import Code

REQUEST = structure(
    Field("group", "string"),
    Field("generation", "int32"),
    Field("member", "string"),
    Field("instance", "nullable string", 3),
)
RESPONSE = structure(Field("throttle_ms", "int32", 1), Field("error", "int16"))


def handle(broker: Broker, caller: KafkaCaller, request: Message, version: int) -> Answer:
    group = broker.groups.group(request["group"])
    if group is None:
        return {"error": Code.UNKNOWN_MEMBER_ID}
    return {"error": group.heartbeat(request["member"], request["generation"], request["instance"])}


API = Api(12, "Heartbeat", 0, 4, REQUEST, RESPONSE, handle, flexible=4)
