"""DescribeGroups: members, protocol and assignments of groups."""

from __future__ import annotations

from typing import Any

from perdure.streams.wire.api import Answer, Api
from perdure.streams.wire.broker import Broker, KafkaCaller
from perdure.streams.wire.codec import Array, Field, Message, array, structure
from perdure.streams.wire.errors import RequestRefused

NOT_REQUESTED = -(2**31)  # authorized operations
EMPTY, DEAD = "Empty", "Dead"  # the last: there is no such group

REQUEST = structure(Field("groups", Array("string")), Field("include_operations", "bool", 3))
RESPONSE = structure(
    Field("throttle_ms", "int32", 1),
    Field(
        "groups",
        array(
            Field("error", "int16"),
            Field("group", "string"),
            Field("state", "string"),
            Field("protocol_type", "string"),
            Field("protocol", "string"),
            Field(
                "members",
                array(
                    Field("member", "string"),
                    Field("instance", "nullable string", 4),
                    Field("client_id", "string"),
                    Field("host", "string"),
                    Field("metadata", "bytes"),
                    Field("assignment", "bytes"),
                ),
            ),
            Field("operations", "int32", 3, default=NOT_REQUESTED),
        ),
    ),
)


def handle(broker: Broker, caller: KafkaCaller, request: Message, version: int) -> Answer:
    return {"groups": [_group(broker, caller, name) for name in request["groups"]]}


def _group(broker: Broker, caller: KafkaCaller, name: str) -> dict[str, Any]:
    try:
        broker.check_group(caller)
    except RequestRefused as refused:
        return {"group": name, "error": refused.code}
    group = broker.groups.group(name)
    if group is None:
        return {"group": name, "state": EMPTY if broker.groups.offsets.of(name) else DEAD}
    return {
        "group": name,
        "state": group.state.value,
        "protocol_type": group.protocol_type,
        "protocol": group.protocol,
        "members": [
            {
                "member": each.id,
                "instance": each.instance,
                "client_id": each.client_id,
                "host": each.host,
                "metadata": each.metadata(group.protocol),
                "assignment": each.assignment,
            }
            for each in group.members.values()
        ],
    }


API = Api(15, "DescribeGroups", 0, 5, REQUEST, RESPONSE, handle, flexible=5)
