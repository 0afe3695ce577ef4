"""perdure: durable objects for Python on a Kafka-style log.

Four nouns to begin with: a `DurableObject` is a class whose instances are always there, one turn at a time, with
durable `State`; it is asked with a `Request` and answers with a `Response`, or says no with a `Refusal`.
"""

from perdure.objects.durable import DurableObject, Env
from perdure.objects.http import Request, Response
from perdure.objects.pairs import WebSocketPair
from perdure.objects.sockets import WebSocket
from perdure.objects.state import State
from perdure.schemas.errors import PerdureError, Refusal, TurnEnded

__all__ = [
    "DurableObject",
    "Env",
    "PerdureError",
    "Refusal",
    "Request",
    "Response",
    "State",
    "TurnEnded",
    "WebSocket",
    "WebSocketPair",
]
