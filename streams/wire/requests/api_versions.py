"""ApiVersions: which requests this listener answers, in which versions.

A version above ours is answered in version 0 with an error and our range; clients then send one from it.
"""

from __future__ import annotations

from perdure.streams.wire.api import API_VERSIONS, Answer, Api
from perdure.streams.wire.broker import Broker, KafkaCaller
from perdure.streams.wire.codec import Field, Message, array, structure
from perdure.streams.wire.errors import Code

REQUEST = structure(Field("software_name", "string", 3), Field("software_version", "string", 3))
RESPONSE = structure(
    Field("error", "int16"),
    Field("apis", array(Field("key", "int16"), Field("first", "int16"), Field("last", "int16"))),
    Field("throttle_ms", "int32", 1),
)


def handle(broker: Broker, caller: KafkaCaller, request: Message, version: int) -> Answer:
    return {
        "apis": [
            {"key": key, "first": first, "last": last} for key, (first, last) in sorted(broker.apis.items())
        ]
    }


def unsupported() -> Message:
    """The answer, in version 0, to a version that is too new."""
    return {
        "error": Code.UNSUPPORTED_VERSION,
        "apis": [{"key": API.key, "first": API.first, "last": API.last}],
    }


API = Api(API_VERSIONS, "ApiVersions", 0, 3, REQUEST, RESPONSE, handle, flexible=3, open=True)
