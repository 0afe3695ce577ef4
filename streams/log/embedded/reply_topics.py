"""Replies to topics that clients of the Kafka listener created, if their sender named one and may.

The output gate hands a reply over here. The topic lies on the log itself, so the reply shares a commit with
the rest of the output.

Laws [tests/unit/test_wire_log.py]
- The outcome is reported once, after the reply is durable; a topic that does not exist is an error at once.
- A reply without a partition goes to that of its key, as Java's clients place keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from perdure.schemas.errors import Unavailable
from perdure.schemas.keys import murmur2
from perdure.streams.log.base import Record
from perdure.streams.log.embedded.client_access import ClientAccess


class EmbeddedReplyTopics:
    """The port `ReplyTopics` of the embedded log, over the topics of `access`."""

    def __init__(self, access: ClientAccess) -> None:
        self.access = access

    def append(
        self, topic: str, partition: int | None, record: Record, then: Callable[[BaseException | None], None]
    ) -> None:
        """See `ReplyTopics.append`."""
        loop = asyncio.get_running_loop()
        there = self.access.topics.get(topic)
        if there is None or (partition is not None and partition >= len(there.streams)):
            where = topic if partition is None else f"{topic} with a partition {partition}"
            loop.call_soon(then, Unavailable(f"there is no topic {where}: a Kafka client has to create it"))
            return
        if partition is None:
            partition = (murmur2(record.key or b"") & 0x7FFFFFFF) % len(there.streams)
        receipt = self.access.append(there.streams[partition], [record], {}).receipt

        def durable(error: BaseException | None) -> None:
            loop.call_soon(then, error)

        receipt.when_durable(durable)
