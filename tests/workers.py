"""Which tests share a worker process when several run at once (`make test`).

Laws
- A file's tests run in one worker, in their order: they share its module's servers.
- All tests on the session's Kafka run in one: there is one broker then, and nobody kills another's.
- What takes longest begins first. Most of it waits for processes, disks and brokers; the random runs only
  compute (at a low priority) and fill the gaps.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

KAFKA = ("tests/acceptance/test_kafka", "tests/integration/test_kafka", "[kafka")
# one test each that takes as long as files do
ALONE = ("tests/simulation/",)
LONGEST_FIRST = ("kafka", "tests/simulation/test_simulation.py::test_every_invariant", "tests/acceptance/")


def group_of(nodeid: str) -> str:
    """The group whose tests share a worker."""
    if any(part in nodeid for part in KAFKA):
        return "kafka"
    if nodeid.startswith(ALONE):
        return nodeid
    return nodeid.partition("::")[0]


class Groups(LoadScopeScheduling):
    """Hands groups to workers as they become free, the longest first."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # by number of tests, which says nothing here

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def rank(nodeid: str) -> int:
    """Sorts what takes longest to the front; the rest keeps its order."""
    group = group_of(nodeid)
    return next((at for at, first in enumerate(LONGEST_FIRST) if group.startswith(first)), len(LONGEST_FIRST))
