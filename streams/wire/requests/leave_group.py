"""LeaveGroup: members leave; the others rebalance at once."""

from __future__ import annotations

from perdure.streams.wire.api import Answer, Api
from perdure.streams.wire.broker import Broker, KafkaCaller
from perdure.streams.wire.codec import Field, Message, array, structure
from perdure.streams.wire.errors import Code

REQUEST = structure(
    Field("group", "string"),
    Field("member", "string", 0, 2),
    Field("members", array(Field("member", "string"), Field("instance", "nullable string")), 3),
)
RESPONSE = structure(
    Field("throttle_ms", "int32", 1),
    Field("error", "int16"),
    Field(
        "members",
        array(Field("member", "string"), Field("instance", "nullable string"), Field("error", "int16")),
        3,
    ),
)


def handle(broker: Broker, caller: KafkaCaller, request: Message, version: int) -> Answer:
    group = broker.groups.group(request["group"])
    if group is None:
        return {"error": Code.UNKNOWN_MEMBER_ID}
    if version < 3:
        return {"error": group.leave(request["member"])}
    return {
        "members": [
            each | {"error": group.leave(each["member"], each["instance"])} for each in request["members"]
        ]
    }


API = Api(13, "LeaveGroup", 0, 4, REQUEST, RESPONSE, handle, flexible=4)
