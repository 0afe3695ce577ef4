"""perdure: durable objects for Python on a Kafka-style log.

Four nouns to begin with: a `DurableObject` is a class whose instances are always there, one turn at a time, with
durable `State`; it is asked with a `Request` and answers with a `Response`, or says no with a `Refusal`. `fetch` asks
the world outside; `FetchFailed` says that it did not answer.
"""

from perdure.objects.durable import DurableObject, Env
from perdure.objects.http import Request, Response
from perdure.objects.outgoing import fetch
from perdure.objects.state import State
from perdure.schemas.errors import FetchFailed, PerdureError, Refusal, TurnEnded

__all__ = [
    "DurableObject",
    "Env",
    "FetchFailed",
    "PerdureError",
    "Refusal",
    "Request",
    "Response",
    "State",
    "TurnEnded",
    "fetch",
]
