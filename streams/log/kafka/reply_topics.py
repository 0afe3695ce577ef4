"""Replies to topics that are not the app's: those that a sender named and the configuration allows.

The output gate hands a reply over here. It goes through a producer of its own, so that a topic that is
missing, full or forbidden delays no record of the app.

Laws [test_foreign.py]
- The outcome is reported once, `GIVE_UP_S` after a reply was handed over at the latest.
- A topic that failed is not tried again for `REST_S`: its replies are reported as undelivered at once.
- At most `UNDER_WAY` replies are under way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaProducer

from perdure.schemas.errors import Unavailable
from perdure.streams.log.base import Record
from perdure.streams.log.kafka.clients import CUT_TIMEOUT_S, MAX_MESSAGE_BYTES, UNREACHED, Endpoint

GIVE_UP_S = 15.0
REST_S = 10.0
UNDER_WAY = 10_000

Then = Callable[[BaseException | None], None]


class KafkaReplyTopics:
    """Sends replies to foreign topics of one cluster; connects when the first is sent."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._producer: Any = None
        self._starting = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed_s: dict[str, float] = {}

    def append(self, topic: str, partition: int | None, record: Record, then: Then) -> None:
        """Send a reply; `then` is called with None or the error, never from in here.

        Args:
            topic: its name.
            partition: None to choose one by the key, as Java's clients do.
            record: the reply.
            then: receives the outcome.
        """
        loop = asyncio.get_running_loop()
        rests = loop.time() - self._failed_s.get(topic, -REST_S) < REST_S
        if rests or len(self._tasks) >= UNDER_WAY:
            reason = "it failed a moment ago" if rests else f"{UNDER_WAY} replies are under way"
            loop.call_soon(then, Unavailable(f"topic {topic}: {reason}"))
            return
        task = loop.create_task(self._send(topic, partition, record, then))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, topic: str, partition: int | None, record: Record, then: Then) -> None:
        try:
            async with asyncio.timeout(GIVE_UP_S):
                producer = await self._started()
                sent = await producer.send(
                    topic, record.value, key=record.key, partition=partition, headers=list(record.headers)
                )
                await sent
        except Exception as error:  # noqa: BLE001 - of a topic that is not ours, whatever it is
            self._failed_s[topic] = asyncio.get_running_loop().time()
            then(error)
        else:
            self._failed_s.pop(topic, None)
            then(None)

    async def _started(self) -> Any:
        async with self._starting:
            if self._producer is None:
                producer: Any = AIOKafkaProducer(
                    acks="all",
                    enable_idempotence=True,
                    max_request_size=MAX_MESSAGE_BYTES,
                    **self._endpoint.options("replies"),
                )
                try:
                    await producer.start()
                except BaseException:
                    with contextlib.suppress(Exception):
                        await producer.stop()
                    raise
                self._producer = producer
        return self._producer

    async def close(self) -> None:
        """Send nothing more. What is under way may still be written, and is not reported."""
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._producer is not None:
            with contextlib.suppress(*UNREACHED):
                async with asyncio.timeout(CUT_TIMEOUT_S):
                    await self._producer.stop()
