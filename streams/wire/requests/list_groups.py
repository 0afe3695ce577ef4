"""ListGroups: the groups that have members, and those that have committed offsets."""

from __future__ import annotations

from perdure.streams.wire.api import Answer, Api
from perdure.streams.wire.broker import Broker, KafkaCaller
from perdure.streams.wire.codec import Array, Field, Message, array, structure
from perdure.streams.wire.errors import RequestRefused
from perdure.streams.wire.groups.group import GroupState

REQUEST = structure(Field("states", Array("string"), 4, default=()))
RESPONSE = structure(
    Field("throttle_ms", "int32", 1),
    Field("error", "int16"),
    Field(
        "groups",
        array(Field("group", "string"), Field("protocol_type", "string"), Field("state", "string", 4)),
    ),
)


def handle(broker: Broker, caller: KafkaCaller, request: Message, version: int) -> Answer:
    try:
        broker.check_group(caller)
    except RequestRefused as refused:
        return {"error": refused.code}
    groups = []
    for name in broker.groups.names():
        group = broker.groups.group(name)
        state = GroupState.EMPTY.value if group is None else group.state.value
        if not request["states"] or state in request["states"]:
            kind = "consumer" if group is None else group.protocol_type
            groups.append({"group": name, "protocol_type": kind, "state": state})
    return {"groups": groups}


API = Api(16, "ListGroups", 0, 4, REQUEST, RESPONSE, handle, flexible=3)
