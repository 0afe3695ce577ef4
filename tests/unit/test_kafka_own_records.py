"""Records that a node appends itself reach its tails by their acknowledgement: each once, and in order.

The time is that of a `VirtualLoop`.
"""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from tests.unit.test_kafka_fetch import PLACE
from tests.unit.test_kafka_tails import Story, run

from perdure.streams.log.base import LogRecord, Record
from perdure.streams.log.kafka.queues import KafkaReceipt, QueuedRecord
from perdure.streams.log.kafka.tails import OWN_S, SHARED_S

STAMP_MS = 7


def own(story: Story, *values: bytes) -> tuple[int, list[QueuedRecord]]:
    """A batch of this node's, on the broker but not acknowledged yet: its offset and its records."""
    base = story.broker.end
    story.broker.append(*values)
    return base, [QueuedRecord(Record(b"k", each), each, KafkaReceipt(0, 0.0)) for each in values]


def acknowledge(story: Story, batch: tuple[int, list[QueuedRecord]], time_ms: int = STAMP_MS) -> None:
    story.tails.acknowledged(PLACE, batch[0], time_ms, batch[1])


@pytest.mark.parametrize("seed", range(30))
def test_own_and_other_records_come_once_and_in_order(seed: int) -> None:
    """Acknowledgements come before or after the fetch that has the same records; tails pause in between."""
    random = Random(seed)

    async def steps(story: Story) -> None:
        seen = dict[int, list[int]]()
        tails = []
        for number in range(2):
            offsets = seen[number] = list[int]()

            def deliver(record: LogRecord, offsets: list[int] = offsets, number: int = number) -> None:
                offsets.append(record.offset)
                if random.random() < 0.1:
                    tails[number].pause()
                    asyncio.get_running_loop().call_later(random.random() / 10, tails[number].resume)

            tails.append(story.open(number, deliver))
        others = random.choice((0.0, 0.1, 0.5))
        for _ in range(60):
            values = [b"x"] * random.randrange(1, 4)
            if random.random() < others:
                story.broker.append(*values)
            else:
                batch = own(story, *values)
                await asyncio.sleep(random.random() * random.choice((0.0, 0.002, 0.03)))
                acknowledge(story, batch)
            await asyncio.sleep(random.random() * random.choice((0.0, 0.002, 0.03)))
        await story.until(lambda: all(each.position == story.broker.end for each in tails))
        assert [seen[number] for number in range(2)] == [[*range(n, story.broker.end)] for n in range(2)]

    run(steps)


def test_an_acknowledged_batch_is_delivered_at_once_with_time_and_memo() -> None:
    """The time is the broker's, for each record of the batch."""

    async def steps(story: Story) -> None:
        seen = list[LogRecord]()
        story.open(0, seen.append)
        acknowledge(story, own(story, b"a", b"b"))
        assert [(each.offset, each.time_ms, each.value, each.memo) for each in seen] == [
            (0, STAMP_MS, b"a", b"a"),
            (1, STAMP_MS, b"b", b"b"),
        ]

    run(steps)


def test_a_batch_behind_another_clients_is_left_to_the_fetch() -> None:
    """So is one that the broker has given no time of its own."""

    async def steps(story: Story) -> None:
        seen = list[LogRecord]()
        story.open(0, seen.append)
        story.broker.append(b"other")
        acknowledge(story, own(story, b"own"))
        acknowledge(story, own(story, b"own"), time_ms=-1)
        assert seen == []
        await story.until(lambda: len(seen) == 3)
        assert [each.memo for each in seen] == [None] * 3

    run(steps)


def test_what_is_all_this_nodes_own_is_hardly_fetched() -> None:
    """Another client's record is delivered all the same, and then its partition is fetched all the time."""

    async def steps(story: Story) -> None:
        loop, fetches, seen = asyncio.get_running_loop(), list[float](), list[bytes | None]()
        send = story.broker.send

        async def counted(node: int, fetch: object) -> object:
            fetches.append(loop.time())
            return await send(node, fetch)

        story.broker.send = counted  # type: ignore[method-assign]
        story.open(0, lambda record: seen.append(record.value))

        async def append_for(seconds: float) -> int:
            fetches.clear()
            until_s = loop.time() + seconds
            while loop.time() < until_s:
                acknowledge(story, own(story, b"own"))
                await asyncio.sleep(OWN_S / 10)
            return len(fetches)

        await append_for(SHARED_S)
        assert await append_for(SHARED_S) <= 2
        story.broker.append(b"other")
        shared = await append_for(SHARED_S)
        assert shared > 10
        assert b"other" in seen
        story.broker.append(b"alone")
        await story.until(lambda: b"alone" in seen)

    run(steps)


def test_a_tail_that_is_behind_catches_up_while_its_node_goes_on_appending() -> None:
    """Its partition is fetched, though every batch follows the one before."""

    async def steps(story: Story) -> None:
        seen = list[int]()
        tail = story.open(0, lambda record: seen.append(record.offset))
        tail.pause()
        acknowledge(story, own(story, b"own"))
        tail.resume()
        for _ in range(100):
            acknowledge(story, own(story, b"own"))
            await asyncio.sleep(OWN_S / 10)
        assert len(seen) > 50

    run(steps)


def test_a_receiver_that_raises_stops_the_log_and_not_the_producer() -> None:
    """As one that raises while it takes what was fetched."""

    async def steps(story: Story) -> None:
        error = ValueError("a receiver's fault")

        def fail(record: LogRecord) -> None:
            raise error

        story.open(0, fail)
        acknowledge(story, own(story, b"a"))
        assert story.stopped == [error]

    run(steps)
