"""Tails without a broker: what they deliver, when they wait, and what ends them, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from tests.unit.test_kafka_fetch import PLACE, Batch, encoded, length

from perdure.schemas.errors import LogCorrupt
from perdure.streams.log.base import LogRecord
from perdure.streams.log.kafka.fetch import GONE_AFTER_S, OUT_OF_RANGE_AFTER_S
from perdure.streams.log.kafka.tails import BLOCKED_AFTER_S, KafkaTail, Tails
from perdure.streams.virtual_time import VirtualLoop

NOT_LEADER, UNKNOWN_TOPIC, OUT_OF_RANGE = 6, 3, 1


class Broker:
    """One partition's leader, as aiokafka's client shows it; the test says what goes wrong."""

    bootstrap = "broker:9092"

    def __init__(self) -> None:
        self.batches: list[tuple[int, bytes, int]] = []  # begin, bytes, end
        self.end = 0
        self.stable = -1  # where an open transaction begins; -1: there is none
        self.error_code = 0
        self.away = False
        self.leader: int | None = 1
        self.refreshed = 0
        self.cluster = SimpleNamespace(
            leader_for_partition=lambda place: self.leader,
            partitions_for_topic=lambda topic: {PLACE.partition},
        )

    def client(self, name: str) -> Broker:
        return self

    def append(self, *values: bytes) -> None:
        batch = Batch(values=values)
        self.batches.append((self.end, encoded(batch, self.end), self.end + length(batch)))
        self.end += length(batch)

    async def send(self, node: int, fetch: Any) -> Any:
        await asyncio.sleep(0.01)
        if self.away:
            raise KafkaConnectionError("no connection")
        ((topic, ((partition, offset, _),)),) = fetch.topics
        data = b"".join(data for _, data, end in self.batches if end > offset)
        high, stable = self.end, self.end if self.stable < 0 else self.stable
        part = (partition, self.error_code, high, stable, 0, [], -1, b"" if self.error_code else data)
        return SimpleNamespace(API_VERSION=11, topics=[(topic, [part])])

    async def force_metadata_update(self) -> None:
        self.refreshed += 1

    async def close(self) -> None: ...


class Story:
    """Tails of one broker, and what they have delivered."""

    def __init__(self) -> None:
        self.broker = Broker()
        self.stopped: list[BaseException] = []
        self.tails = Tails(self.broker, [PLACE.topic], self.stopped.append)  # type: ignore[arg-type]

    def open(self, start: int, deliver: Callable[[LogRecord], None]) -> KafkaTail:
        return self.tails.open(PLACE, start, deliver)

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(1000):
            while not true():  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.01)


def run(steps: Callable[[Story], Awaitable[None]]) -> None:
    async def main() -> None:
        story = Story()
        keeping = asyncio.create_task(story.tails.keep())
        await steps(story)
        keeping.cancel()
        await asyncio.wait((keeping,))
        assert keeping.cancelled()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


@pytest.mark.parametrize("seed", range(20))
def test_each_tail_delivers_each_record_once_and_in_order(seed: int) -> None:
    """They begin at different offsets, pause in the midst of a batch, and errors pass in between."""
    random = Random(seed)

    async def steps(story: Story) -> None:
        broker, seen = story.broker, dict[int, list[int]]()
        broker.append(b"0", b"1", b"2")
        tails = []
        for number in range(3):
            offsets = seen[number] = list[int]()

            def deliver(record: LogRecord, offsets: list[int] = offsets, number: int = number) -> None:
                offsets.append(record.offset)
                if random.random() < 0.3:
                    tails[number].pause()
                    asyncio.get_running_loop().call_later(random.random(), tails[number].resume)

            tails.append(story.open(number, deliver))
        for _ in range(20):
            roll = random.random()
            broker.away, broker.error_code = roll < 0.2, NOT_LEADER if 0.2 < roll < 0.4 else 0
            broker.leader = None if 0.4 < roll < 0.5 else 1
            broker.append(*(b"x" for _ in range(random.randrange(1, 6))))
            await asyncio.sleep(random.random())
        broker.away, broker.error_code, broker.leader = False, 0, 1
        await story.until(lambda: all(each.position == broker.end for each in tails))
        assert [seen[number] for number in range(3)] == [[*range(n, broker.end)] for n in range(3)]
        assert story.stopped == []
        assert broker.refreshed > 0

    run(steps)


def test_a_closed_tail_delivers_nothing_more() -> None:
    """Also of the batch in whose midst it was closed; the others go on."""

    async def steps(story: Story) -> None:
        first, second = list[int](), list[int]()

        def only_one(record: LogRecord) -> None:
            first.append(record.offset)
            tail.close()

        tail = story.open(0, only_one)
        story.open(0, lambda record: second.append(record.offset))
        story.broker.append(b"0", b"1", b"2")
        await story.until(lambda: len(second) == 3)
        assert (first, second) == ([0], [0, 1, 2])

    run(steps)


def test_a_broker_that_does_not_know_yet_that_another_one_leads_is_not_believed() -> None:
    """It lacks what the new leader has acknowledged: the metadata is read again, and nothing is lost."""

    async def steps(story: Story) -> None:
        got: list[LogRecord] = []
        tail = story.open(0, got.append)
        story.broker.error_code = OUT_OF_RANGE
        await asyncio.sleep(OUT_OF_RANGE_AFTER_S / 2)
        story.broker.error_code = NOT_LEADER
        await asyncio.sleep(OUT_OF_RANGE_AFTER_S)
        story.broker.error_code = OUT_OF_RANGE
        await asyncio.sleep(OUT_OF_RANGE_AFTER_S / 2)
        assert story.broker.refreshed > 1
        story.broker.error_code = 0
        story.broker.append(b"a", b"b")
        await story.until(lambda: len(got) == 2)
        assert not story.stopped
        assert not tail.closed

    run(steps)


def test_an_offset_that_is_gone_ends_the_tail_and_says_so() -> None:
    """Once brokers have said so for a while. Nothing is skipped."""

    async def steps(story: Story) -> None:
        story.broker.error_code = OUT_OF_RANGE
        tail = story.open(7, lambda record: None)
        await story.until(lambda: story.stopped)
        (error,) = story.stopped
        assert tail.closed
        assert isinstance(error, LogCorrupt)
        assert "offset 7 does not exist" in str(error)

    run(steps)


def test_a_topic_is_gone_only_after_a_while() -> None:
    """A broker that has just started does not know it yet; a record in between begins the time again."""

    async def steps(story: Story) -> None:
        now_s, seen = asyncio.get_running_loop().time, list[int]()
        story.broker.error_code = UNKNOWN_TOPIC
        story.open(0, lambda record: seen.append(record.offset))
        await asyncio.sleep(GONE_AFTER_S - 2)
        story.broker.error_code = 0
        story.broker.append(b"0")
        await story.until(lambda: seen)
        story.broker.error_code, began_s = UNKNOWN_TOPIC, now_s()
        await story.until(lambda: story.stopped)
        assert now_s() - began_s >= GONE_AFTER_S
        assert "is gone (next offset was 1)" in str(story.stopped[0])

    run(steps)


def test_an_open_transaction_blocks_a_partition_with_the_remedy_until_it_ends() -> None:
    """Only one that stays open: each that begins where another ended starts the time again."""

    async def steps(story: Story) -> None:
        broker = story.broker
        tail = story.open(0, lambda record: None)
        broker.append(b"0")
        for stable in (0, 1):
            broker.end, broker.stable = stable + 1, stable
            await asyncio.sleep(BLOCKED_AFTER_S * 0.8)
            assert tail.blocked == ""
        await asyncio.sleep(BLOCKED_AFTER_S * 0.4)
        assert "kafka-transactions.sh --bootstrap-server broker:9092 abort" in tail.blocked
        assert "--start-offset 1" in tail.blocked
        assert len([*story.tails.troubles()]) == 1
        broker.stable = -1
        await story.until(lambda: tail.blocked == "")
        assert [*story.tails.troubles()] == []

    run(steps)


def test_a_receiver_that_raises_stops_its_partition() -> None:
    """Others were in its hands, too."""

    async def steps(story: Story) -> None:
        def broken(record: LogRecord) -> None:
            raise ValueError("a fault of the receiver")

        story.open(0, broken)
        story.broker.append(b"0")
        await story.until(lambda: story.stopped)
        assert "a fault of the receiver" in str(story.stopped[0])

    run(steps)
