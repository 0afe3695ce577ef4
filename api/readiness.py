"""The page `/readyz`: does this node serve all its partitions, and if not, which of them it does not and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from perdure.api.problems import Problem
from perdure.streams.owner import Owner
from perdure.streams.owning import OwnerState

_JSON = [(b"content-type", b"application/json")]


def readiness(owners: Sequence[Owner], serves: Callable[[], bool]) -> Problem:
    """200 if all owners serve and the node as a whole does (`serves`), else 503 with the partitions that are not served."""
    broken = [
        {"partition": owner.partition, "state": owner.state.value, "reason": str(owner.error or "")}
        for owner in owners
        if owner.state is not OwnerState.SERVING
    ]
    ready = not broken and serves()
    body = msgspec.json.encode({"status": "ready" if ready else "not ready", "partitions": broken})
    return 200 if ready else 503, _JSON, body
