"""SaslHandshake: the mechanism of the exchange that follows (sasl_authenticate.py)."""

from __future__ import annotations

from perdure.streams.wire.api import Answer, Api
from perdure.streams.wire.broker import Broker, KafkaCaller
from perdure.streams.wire.codec import Array, Field, Message, structure
from perdure.streams.wire.errors import Code
from perdure.streams.wire.sasl import MECHANISMS, Exchange

REQUEST = structure(Field("mechanism", "string"))
RESPONSE = structure(Field("error", "int16"), Field("mechanisms", Array("string")))


def handle(broker: Broker, caller: KafkaCaller, request: Message, version: int) -> Answer:
    assert broker.admission is not None, "it is not answered without access control"
    if request["mechanism"] not in MECHANISMS:
        return {"error": Code.UNSUPPORTED_SASL_MECHANISM, "mechanisms": MECHANISMS}
    caller.exchange = Exchange(broker.admission, request["mechanism"])
    return {"mechanisms": MECHANISMS}


API = Api(17, "SaslHandshake", 1, 1, REQUEST, RESPONSE, handle, open=True)
