"""The page `/readyz`: whether this node serves all its partitions, and why not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from perdure.api.problems import Problem
from perdure.streams.log.base import Log
from perdure.streams.owner.owner import Owner
from perdure.streams.turns.ports import OwnerState

_JSON = [(b"content-type", b"application/json")]


def readiness(owners: Sequence[Owner], log: Log, serves: Callable[[], bool]) -> Problem:
    """200 if all owners and the node as a whole serve and the log has no troubles.

    503 with the reasons otherwise.

    In the answer, `partitions` are those that are not served, and `topics` the faults of topics on Kafka.
    """
    broken = [
        {"partition": owner.partition, "state": owner.state.value, "reason": str(owner.error or "")}
        for owner in owners
        if owner.state is not OwnerState.SERVING
    ]
    troubles = [trouble._asdict() for trouble in log.troubles]
    ready = not broken and not troubles and serves()
    page = {"status": "ready" if ready else "not ready", "partitions": broken}
    body = msgspec.json.encode(page | {"topics": troubles} if troubles else page)
    return 200 if ready else 503, _JSON, body
