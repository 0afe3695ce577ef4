"""The page `/readyz`: whether this node serves all its partitions, and why not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from perdure.api.problems import Problem
from perdure.streams.log.base import Log
from perdure.streams.owner.owner import Owner
from perdure.streams.owner.whereabouts import seat_facts
from perdure.streams.turns.ports import OwnerState

_JSON = [(b"content-type", b"application/json")]


def readiness(owners: Sequence[Owner], log: Log, serves: Callable[[], bool]) -> Problem:
    """200 if all owners and the node as a whole serve and the log has no troubles.

    503 with the reasons otherwise.

    In the answer, `partitions` are those that are not served, and `topics` the faults of topics on Kafka. On
    a log that nodes share, `owners` says which node serves each partition; one that another node serves is
    served.
    """
    broken = [
        {"partition": owner.partition, "state": owner.state.value, "reason": str(owner.error or "")}
        for owner in owners
        if not _is_served(owner)
    ]
    troubles = [trouble._asdict() for trouble in log.troubles]
    ready = not broken and not troubles and serves()
    page: dict[str, object] = {"status": "ready" if ready else "not ready", "partitions": broken}
    if any(owner.whereabouts.placed for owner in owners):
        page["owners"] = [
            {"partition": owner.partition} | seat_facts(owner.whereabouts.seat) for owner in owners
        ]
    body = msgspec.json.encode(page | {"topics": troubles} if troubles else page)
    return 200 if ready else 503, _JSON, body


def _is_served(owner: Owner) -> bool:
    if owner.state is not OwnerState.ELSEWHERE:
        return owner.state is OwnerState.SERVING
    return owner.whereabouts.remote and owner.whereabouts.seat is not None
