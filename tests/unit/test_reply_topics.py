"""Replies to topics of other systems on Kafka, without a broker: how they are sent, and when given up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, UnknownTopicOrPartitionError

from perdure.schemas.errors import Unavailable
from perdure.streams.log.base import Record
from perdure.streams.log.kafka import reply_topics
from perdure.streams.log.kafka.clients import Endpoint
from perdure.streams.log.kafka.reply_topics import GIVE_UP_S, REST_S, KafkaReplyTopics
from perdure.streams.virtual_time import VirtualLoop

REPLY = Record(b"Cart/a", b"{}", (("correlation-id", b"7"),))


class Producer:
    """As aiokafka's, as far as it is used; a topic acknowledges as `topics` says, by default at once."""

    made: list[Producer]
    starts = True
    topics: dict[str, Callable[[], Awaitable[None]]]

    def __init__(self, **options: Any) -> None:
        self.options, self.sent, self.stopped = options, [], False
        self.made.append(self)

    async def start(self) -> None:
        if not self.starts:
            raise KafkaConnectionError("no broker")

    async def send(self, topic: str, value: bytes, **more: Any) -> Awaitable[None]:
        self.sent.append((topic, value, more))
        return self.topics.get(topic, acknowledged)()

    async def stop(self) -> None:
        self.stopped = True


async def acknowledged() -> None:
    pass


async def refused() -> None:
    raise UnknownTopicOrPartitionError


async def never() -> None:
    await asyncio.Event().wait()


@pytest.fixture
def producer(monkeypatch: pytest.MonkeyPatch) -> type[Producer]:
    """A class of its own for each test."""
    made = type("Producer", (Producer,), {"made": [], "topics": {}})
    monkeypatch.setattr(reply_topics, "AIOKafkaProducer", made)
    return made


class Outcomes(list[BaseException | None]):
    """The outcome of each reply, in the order of their reports."""

    def __call__(self, error: BaseException | None) -> None:
        self.append(error)


def story(run: Callable[[KafkaReplyTopics, Outcomes], Awaitable[None]]) -> None:
    async def main() -> None:
        topics = KafkaReplyTopics(Endpoint("127.0.0.1:1", "app", {}))
        await run(topics, Outcomes())
        await topics.close()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def test_replies_share_a_producer_that_connects_when_the_first_is_sent(producer: type[Producer]) -> None:
    """Each goes as it is to its topic and partition; no outcome is reported from within `append`."""

    async def run(topics: KafkaReplyTopics, outcomes: Outcomes) -> None:
        assert not producer.made
        topics.append("first", 3, REPLY, outcomes)
        topics.append("second", None, REPLY, outcomes)
        assert not outcomes
        await asyncio.sleep(0.1)
        assert outcomes == [None, None]
        (one,) = producer.made
        more = {"key": REPLY.key, "headers": list(REPLY.headers)}
        assert one.sent == [
            ("first", b"{}", {**more, "partition": 3}),
            ("second", b"{}", {**more, "partition": None}),
        ]
        assert (one.options["acks"], one.options["enable_idempotence"]) == ("all", True)
        await topics.close()
        assert one.stopped

    story(run)


def test_a_topic_that_failed_rests_and_the_others_go_on(producer: type[Producer]) -> None:
    """Until `REST_S` later; then one success is enough."""
    producer.topics["gone"] = refused

    async def run(topics: KafkaReplyTopics, outcomes: Outcomes) -> None:
        topics.append("gone", None, REPLY, outcomes)
        await asyncio.sleep(0.1)
        topics.append("gone", None, REPLY, outcomes)
        topics.append("there", None, REPLY, outcomes)
        await asyncio.sleep(0.1)
        assert isinstance(outcomes[0], UnknownTopicOrPartitionError)
        assert {type(each) for each in outcomes[1:]} == {Unavailable, type(None)}
        assert [topic for topic, *_ in producer.made[0].sent] == ["gone", "there"]
        del producer.topics["gone"]
        await asyncio.sleep(REST_S)
        for _ in range(2):
            topics.append("gone", None, REPLY, outcomes)
            await asyncio.sleep(0.1)
        assert outcomes[3:] == [None, None]

    story(run)


def test_a_reply_that_is_never_acknowledged_is_given_up(producer: type[Producer]) -> None:
    """`GIVE_UP_S` after it was handed over, once."""
    producer.topics["silent"] = never

    async def run(topics: KafkaReplyTopics, outcomes: Outcomes) -> None:
        topics.append("silent", None, REPLY, outcomes)
        await asyncio.sleep(GIVE_UP_S - 0.1)
        assert not outcomes
        await asyncio.sleep(GIVE_UP_S)
        assert [type(each) for each in outcomes] == [TimeoutError]

    story(run)


def test_no_more_than_so_many_are_under_way(
    producer: type[Producer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is reported as undelivered, and its topic does not rest for that."""
    monkeypatch.setattr(reply_topics, "UNDER_WAY", 2)
    producer.topics["silent"] = never

    async def run(topics: KafkaReplyTopics, outcomes: Outcomes) -> None:
        for topic in ("silent", "silent", "there"):
            topics.append(topic, None, REPLY, outcomes)
        await asyncio.sleep(0.1)
        assert [str(each) for each in outcomes] == ["topic there: 2 replies are under way"]
        await asyncio.sleep(GIVE_UP_S)
        topics.append("there", None, REPLY, outcomes)
        await asyncio.sleep(0.1)
        assert outcomes[-1] is None

    story(run)


def test_a_producer_that_did_not_start_is_stopped_and_another_is_made(producer: type[Producer]) -> None:
    """Its reply is undelivered."""
    producer.starts = False

    async def run(topics: KafkaReplyTopics, outcomes: Outcomes) -> None:
        topics.append("first", None, REPLY, outcomes)
        await asyncio.sleep(0.1)
        assert isinstance(outcomes[0], KafkaConnectionError)
        assert producer.made[0].stopped
        producer.starts = True
        topics.append("second", None, REPLY, outcomes)
        await asyncio.sleep(0.1)
        assert outcomes[1] is None
        assert len(producer.made) == 2

    story(run)


def test_nothing_is_reported_after_the_end(producer: type[Producer]) -> None:
    """What was under way may be written; its owner has ended, too."""
    producer.topics["silent"] = never

    async def run(topics: KafkaReplyTopics, outcomes: Outcomes) -> None:
        topics.append("silent", None, REPLY, outcomes)
        await asyncio.sleep(0.1)
        await topics.close()
        await asyncio.sleep(2 * GIVE_UP_S)
        assert not outcomes
        assert producer.made[0].stopped

    story(run)
