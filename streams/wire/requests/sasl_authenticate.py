"""SaslAuthenticate: a step of the exchange; with the last one the connection has its rights.

A connection whose exchange has failed is answered and closed.
"""

from __future__ import annotations

from math import inf

from perdure.schemas.errors import Unauthenticated, Unavailable
from perdure.streams.wire.api import Api
from perdure.streams.wire.broker import Broker, KafkaCaller
from perdure.streams.wire.codec import Field, Message, structure
from perdure.streams.wire.errors import Code

REQUEST = structure(Field("data", "bytes"))
RESPONSE = structure(
    Field("error", "int16"),
    Field("error_message", "nullable string"),
    Field("data", "bytes"),
    Field("session_lifetime_ms", "int64", 1),
)


async def handle(broker: Broker, caller: KafkaCaller, request: Message, version: int) -> Message:
    if caller.exchange is None:
        caller.turned_away = True
        return {"error": Code.ILLEGAL_SASL_STATE, "error_message": "a handshake comes first"}
    try:
        step = await caller.exchange.step(request["data"])
    except (Unauthenticated, Unavailable) as error:
        caller.exchange, caller.turned_away = None, True
        return {
            "error": Code.SASL_AUTHENTICATION_FAILED,
            "error_message": str(error) or "authentication failed",
        }
    if step.grant is None:
        return {"data": step.answer}
    caller.exchange, caller.grant, caller.credentials = None, step.grant, step.credentials
    left_s = step.grant.expires_s - broker.clock_ms() / 1000
    return {"data": step.answer, "session_lifetime_ms": 0 if left_s == inf else max(1, int(left_s * 1000))}


API = Api(36, "SaslAuthenticate", 0, 2, REQUEST, RESPONSE, handle, flexible=2, open=True)
