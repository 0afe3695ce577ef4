"""InitProducerId: a number for an idempotent producer, by which its batches are recognized (producers.py)."""

from __future__ import annotations

from perdure.streams.wire.api import Answer, Api
from perdure.streams.wire.broker import Broker, KafkaCaller
from perdure.streams.wire.codec import Field, Message, structure
from perdure.streams.wire.errors import Code

REQUEST = structure(
    Field("transactional_id", "nullable string"),
    Field("timeout_ms", "int32"),
    Field("producer_id", "int64", 3, default=-1),
    Field("producer_epoch", "int16", 3, default=-1),
)
RESPONSE = structure(
    Field("throttle_ms", "int32"),
    Field("error", "int16"),
    Field("producer_id", "int64", default=-1),
    Field("producer_epoch", "int16", default=-1),
)


def handle(broker: Broker, caller: KafkaCaller, request: Message, version: int) -> Answer:
    if request["transactional_id"] is not None:
        return {"error": Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED}
    return {"producer_id": broker.producers.new_id(), "producer_epoch": 0}


API = Api(22, "InitProducerId", 0, 3, REQUEST, RESPONSE, handle, flexible=2)
