"""Every system as an example, over real HTTP and WebSockets, on both logs, with a
SIGKILL while all are in use.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.acceptance import stories, stories_live
from tests.acceptance.systems import QUOTA_WINDOW_S, Systems, deploy_examples
from tests.kafka import or_skip, session_kafka

STORIES: list[Callable[[Systems], Awaitable[None]]] = [
    stories.counter,
    stories.rate_limiter,
    stories.analytics,
    stories.session_manager,
    stories.coordinator,
    stories.event_log,
    stories.safe_object,
    stories.metered_object,
    stories.session_cache,
    stories.ledger,
    stories.routing,
    stories.cleanup_object,
    stories.scheduled_object,
    stories_live.distributed_cache,
    stories_live.document,
    stories_live.echo,
]


@pytest.fixture(scope="module", params=["embedded", "kafka"])
def failures(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, BaseException]:
    """What went wrong, by story: they were all told at once."""
    log = "embedded"
    if request.param == "kafka":
        log = f"kafka://{or_skip(session_kafka).bootstrap}"
    path: Path = tmp_path_factory.mktemp("systems")
    origin = socket.create_server(("127.0.0.1", 0))
    variables: dict[str, Any] = {
        "QUOTA_WINDOW_S": QUOTA_WINDOW_S,
        "SESSION_S": 2,
        "LOCK_S": 6,
        "ITEM_S": 2,
        "ALARM_S": 1,
        "HIGH_USAGE": 10,
        "ORIGIN_URL": f"http://127.0.0.1:{origin.getsockname()[1]}/",
    }
    deployment = deploy_examples(path, log=log, name=f"t{uuid4().hex[:12]}", **variables)
    return asyncio.run(Systems(deployment, origin).run(STORIES))


@pytest.mark.parametrize("story", STORIES, ids=[story.__name__ for story in STORIES])
def test_a_system_keeps_its_promise_across_a_crash(
    failures: dict[str, BaseException], story: Callable[[Systems], Awaitable[None]]
) -> None:
    """See the story."""
    if story.__name__ in failures:
        raise failures[story.__name__]
