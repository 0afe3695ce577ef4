"""The page `/readyz`: does this node serve all its partitions, and if not, which of them it does not and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from perdure.api.problems import Problem
from perdure.streams.log.base import Log
from perdure.streams.owner.owner import Owner
from perdure.streams.turns.ports import OwnerState

_JSON = [(b"content-type", b"application/json")]


def readiness(owners: Sequence[Owner], log: Log, serves: Callable[[], bool]) -> Problem:
    """200 if all owners serve, the log has no troubles and the node as a whole serves; else 503, and what is wrong.

    `partitions` are those that are not served, `topics` what is wrong with the topics on Kafka.
    """
    broken = [
        {"partition": owner.partition, "state": owner.state.value, "reason": str(owner.error or "")}
        for owner in owners
        if owner.state is not OwnerState.SERVING
    ]
    troubles = [trouble._asdict() for trouble in log.troubles]
    ready = not broken and not troubles and serves()
    told = {"status": "ready" if ready else "not ready", "partitions": broken}
    body = msgspec.json.encode(told | {"topics": troubles} if troubles else told)
    return 200 if ready else 503, _JSON, body
