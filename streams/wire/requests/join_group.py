"""JoinGroup: a member joins its group; the answer waits until all members have joined.

From version 4 on a new member is only given an id, with which it joins again.
"""

from __future__ import annotations

from perdure.streams.wire.api import Answer, Api
from perdure.streams.wire.broker import Broker, KafkaCaller
from perdure.streams.wire.codec import Field, Message, array, structure
from perdure.streams.wire.errors import Code, RequestRefused

SESSION_MS = (1_000, 30 * 60 * 1_000)
ID_FIRST = 4

REQUEST = structure(
    Field("group", "string"),
    Field("session_timeout_ms", "int32"),
    Field("rebalance_timeout_ms", "int32", 1),
    Field("member", "string"),
    Field("instance", "nullable string", 5),
    Field("protocol_type", "string"),
    Field("protocols", array(Field("name", "string"), Field("metadata", "bytes"))),
)
RESPONSE = structure(
    Field("throttle_ms", "int32", 2),
    Field("error", "int16"),
    Field("generation", "int32", default=-1),
    Field("protocol", "string"),
    Field("leader", "string"),
    Field("member", "string"),
    Field(
        "members",
        array(Field("member", "string"), Field("instance", "nullable string", 5), Field("metadata", "bytes")),
    ),
)


def handle(broker: Broker, caller: KafkaCaller, request: Message, version: int) -> Answer:
    least, most = SESSION_MS
    try:
        broker.check_group(caller)
        if not least <= request["session_timeout_ms"] <= most:
            raise RequestRefused(Code.INVALID_SESSION_TIMEOUT, f"{least} to {most} ms")
        group = broker.groups.joined(request["group"])
    except RequestRefused as refused:
        return {"error": refused.code, "member": request["member"]}
    return group.join(request, caller.client_id, caller.peer, needs_id=version >= ID_FIRST)


API = Api(11, "JoinGroup", 0, 6, REQUEST, RESPONSE, handle, flexible=6)
