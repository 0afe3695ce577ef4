"""SyncGroup: a member gets its assignment; the answer waits until the leader has sent all of them."""

from __future__ import annotations

from perdure.streams.wire.api import Answer, Api
from perdure.streams.wire.broker import Broker, KafkaCaller
from perdure.streams.wire.codec import Field, Message, array, structure
from perdure.streams.wire.errors import Code

REQUEST = structure(
    Field("group", "string"),
    Field("generation", "int32"),
    Field("member", "string"),
    Field("instance", "nullable string", 3),
    Field("assignments", array(Field("member", "string"), Field("assignment", "bytes"))),
)
RESPONSE = structure(
    Field("throttle_ms", "int32", 1),
    Field("error", "int16"),
    Field("assignment", "bytes"),
)


def handle(broker: Broker, caller: KafkaCaller, request: Message, version: int) -> Answer:
    group = broker.groups.group(request["group"])
    return {"error": Code.UNKNOWN_MEMBER_ID} if group is None else group.sync(request)


API = Api(14, "SyncGroup", 0, 4, REQUEST, RESPONSE, handle, flexible=4)
