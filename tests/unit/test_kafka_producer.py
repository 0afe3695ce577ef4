"""What becomes of batches that are handed to Kafka's producer: `producer.py` and
`queues.py` without a broker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.structs import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.schemas.errors import OutcomeUnknown, StorageFailed, Unavailable
from perdure.streams.log.base import Record
from perdure.streams.log.kafka.clients import Endpoint, Producer
from perdure.streams.log.kafka.producer import ProducerManager
from perdure.streams.log.kafka.queues import MAX_RECORD_BYTES, Appends, KafkaReceipt
from perdure.streams.virtual_time import VirtualLoop

TIMEOUT_S = 10.0
COMMANDS, JOURNAL = TopicPartition("app.commands", 0), TopicPartition("app.journal", 0)
RECORD = Record(b"Thing/a", b"{}")


class Acked(NamedTuple):
    """As aiokafka's metadata of a record, as far as it is read."""

    offset: int
    timestamp: int = 1_000


class Batch(list[bytes]):
    """A batch of records that have a value alone."""


class Scripted:
    """A producer whose connection is a list: the test says what reaches the broker, and what it answers.

    As aiokafka's accumulator it sends a batch later than it is handed over, so a
    batch can be withdrawn until then.
    """

    def __init__(self, starts: bool = True) -> None:
        self.starts = starts
        self.handed: dict[TopicPartition, tuple[Batch, asyncio.Future[Acked]]] = {}
        self.on_wire: set[TopicPartition] = set()
        self.alive = True
        self.dropped = False

    async def start(self, topics: Sequence[str], timeout_s: float) -> None:
        if not self.starts:
            raise KafkaConnectionError("no broker")

    def batch(self, records: Sequence[Record], time_ms: int | None) -> Batch:
        return Batch(record.value or b"" for record in records)

    def send(self, batch: Batch, place: TopicPartition) -> asyncio.Future[Acked]:
        assert self.alive, "a batch for a producer that was cut"
        assert place not in self.handed, "two batches of one partition"
        future: asyncio.Future[Acked] = asyncio.get_running_loop().create_future()
        self.handed[place] = (batch, future)
        return future

    def reach(self, place: TopicPartition) -> None:
        """The batch of a partition leaves the process."""
        self.on_wire.add(place)

    def ack(self, place: TopicPartition, offset: int) -> None:
        self.handed.pop(place)[1].set_result(Acked(offset))

    def fail(self, place: TopicPartition) -> None:
        self.handed.pop(place)[1].set_exception(KafkaError("the broker does not like it"))

    def touched(self, place: TopicPartition) -> bool:
        return place in self.on_wire

    def withdraw(self, place: TopicPartition) -> bool:
        return place not in self.on_wire and self.handed.pop(place, None) is not None

    def cut(self) -> None:
        self.alive = False

    async def drop(self) -> None:
        self.cut()
        self.dropped = True


class Source:
    """A journal of one record at a time."""

    def __init__(self, *records: Record) -> None:
        self.records = list(records)
        self.acked_at: list[int] = []
        self.failures: list[BaseException] = []

    def fill(self, max_bytes: int) -> Sequence[Record]:
        records, self.records = self.records, []
        return records

    def acked(self, first_offset: int) -> None:
        self.acked_at.append(first_offset)

    def failed(self, error: BaseException) -> None:
        self.failures.append(error)


class Node:
    """A manager with its queues; `producers` are those that were made, the next
    ones start as `starts` says.
    """

    def __init__(self) -> None:
        self.producers: list[Scripted] = []
        self.starts = True
        self.manager = ProducerManager(
            Endpoint("kafka:9092", "n", {}), ["app.commands"], lambda: 0, TIMEOUT_S, self._make
        )
        self.appends = Appends(self.manager, lambda place, offset, time_ms, records: None)

    def _make(self, endpoint: Endpoint) -> Any:
        assert all(each.dropped for each in self.producers), (
            "the last producer was not dropped before the next"
        )
        self.producers.append(Scripted(self.starts))
        return self.producers[-1]

    async def append(self) -> Outcome:
        """Append a record, and let the queue hand it over."""
        outcome = Outcome(self.appends.append(COMMANDS, RECORD))
        await asyncio.sleep(0)
        return outcome


class Outcome:
    """What a receipt reports, and how often."""

    def __init__(self, receipt: KafkaReceipt) -> None:
        self.receipt = receipt
        self.heard: list[BaseException | None] = []
        receipt.when_durable(self.heard.append)


def with_node(test: Callable[[Node], Coroutine[Any, Any, None]]) -> None:
    """Run a test with a started manager, on virtual time."""

    async def main() -> None:
        node = Node()
        await node.manager.start()
        keep = asyncio.create_task(node.manager.keep())
        try:
            await test(node)
        finally:
            keep.cancel()
            await asyncio.gather(keep, return_exceptions=True)
            await node.manager.close()

    loop = VirtualLoop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


@given(
    st.lists(
        st.builds(
            Record,
            st.binary() | st.none(),
            st.binary(),
            st.lists(st.tuples(st.text(max_size=9), st.binary())).map(tuple),
        ),
        min_size=1,
    ),
    st.integers(0, 2**40),
)
@settings(max_examples=50)
def test_a_batch_has_the_bytes_that_aiokafka_makes_of_its_records(
    records: list[Record], time_ms: int
) -> None:
    """A record's key, value, headers and time, and how many there are, which numbers the next batch."""

    async def both() -> tuple[Any, Any]:
        producer = Producer(Endpoint("127.0.0.1:1", "test", {}))
        ours, theirs = producer.batch(records, time_ms), producer._aiokafka.create_batch()
        for each in records:
            theirs.append(timestamp=time_ms, key=each.key, value=each.value, headers=list(each.headers))
        await producer.drop()
        return ours, theirs

    ours, theirs = asyncio.run(both())
    assert ours.record_count() == theirs.record_count() == len(records)
    for each in (ours, theirs):
        each._set_producer_state(7, 1, 3)
    assert ours._build() == theirs._build()


def test_an_acknowledged_batch_gives_its_records_their_offsets() -> None:
    """Records that are appended together share a batch; later ones wait until it is acknowledged."""

    async def test(node: Node) -> None:
        first, second = node.appends.append(COMMANDS, RECORD), await node.append()
        third = await node.append()
        (producer,) = node.producers
        assert len(producer.handed[COMMANDS][0]) == 2
        producer.ack(COMMANDS, 7)
        await asyncio.sleep(0)
        assert (first.offset, second.receipt.offset, second.heard) == (7, 8, [None])
        assert third.heard == []
        assert len(producer.handed[COMMANDS][0]) == 1
        producer.ack(COMMANDS, 9)
        await asyncio.sleep(0)
        assert (third.receipt.offset, third.heard) == (9, [None])

    with_node(test)


def test_a_batch_that_was_never_sent_is_unavailable_and_the_producer_stays() -> None:
    """It is withdrawn after the time-out: certainly not written."""

    async def test(node: Node) -> None:
        outcome = await node.append()
        await asyncio.sleep(TIMEOUT_S + 0.1)
        (error,) = outcome.heard
        assert isinstance(error, Unavailable)
        assert len(node.producers) == 1

    with_node(test)


def test_a_sent_batch_without_an_answer_is_unknown_and_ends_the_producer() -> None:
    """What may have left the process may be written, now or later."""

    async def test(node: Node) -> None:
        outcome = await node.append()
        node.producers[0].reach(COMMANDS)
        await asyncio.sleep(TIMEOUT_S + 0.1)
        (error,) = outcome.heard
        assert isinstance(error, OutcomeUnknown)
        first, second = node.producers
        assert (first.dropped, second.alive) == (True, True)

    with_node(test)


def test_a_lost_producer_tells_the_sent_from_the_unsent() -> None:
    """A batch on the wire is unknown; one that never left goes out through the next
    producer, and is written once.
    """

    async def test(node: Node) -> None:
        other = TopicPartition("app.commands", 1)
        sent = await node.append()
        unsent = Outcome(node.appends.append(other, RECORD))
        await asyncio.sleep(0)
        node.producers[0].reach(COMMANDS)
        node.producers[0].fail(COMMANDS)
        await asyncio.sleep(0.1)
        (error,) = sent.heard
        assert isinstance(error, OutcomeUnknown)
        assert unsent.heard == []
        assert list(node.producers[1].handed) == [other]
        node.producers[1].ack(other, 3)
        await asyncio.sleep(0)
        assert (unsent.receipt.offset, unsent.heard) == (3, [None])

    with_node(test)


def test_an_acknowledgement_below_the_last_offset_is_not_believed() -> None:
    """Such an offset is of another topic, or of a batch that was sent twice."""

    async def test(node: Node) -> None:
        await node.append()
        node.producers[0].ack(COMMANDS, 7)
        await asyncio.sleep(0)
        outcome = await node.append()
        node.producers[0].reach(COMMANDS)
        node.producers[0].ack(COMMANDS, 7)
        await asyncio.sleep(0)
        (error,) = outcome.heard
        assert isinstance(error, OutcomeUnknown)
        assert not node.producers[0].alive

    with_node(test)


def test_records_do_not_wait_longer_than_the_time_out_for_a_producer() -> None:
    """While brokers give no producer what waits becomes unavailable when it is too
    old; what is younger is sent.
    """

    async def test(node: Node) -> None:
        node.starts = False
        lost = await node.append()
        node.producers[0].fail(COMMANDS)
        old = await node.append()
        await asyncio.sleep(TIMEOUT_S - 2)
        young = await node.append()
        await asyncio.sleep(3)
        for outcome in (lost, old):
            (error,) = outcome.heard
            assert isinstance(error, Unavailable)
        assert young.heard == []
        node.starts = True
        await asyncio.sleep(2.5)  # the longest pause between two attempts
        node.producers[-1].ack(COMMANDS, 0)
        await asyncio.sleep(0)
        assert young.heard == [None]

    with_node(test)


@pytest.mark.parametrize("on_wire", [True, False])
def test_a_writer_ends_with_its_producer(on_wire: bool) -> None:
    """What it has filled is never sent again, sent or not: the next owner's claim
    decides what is on the journal.
    """

    async def test(node: Node) -> None:
        source = Source(RECORD)
        node.appends.writer(JOURNAL, source).request()
        outcome = await node.append()
        if on_wire:
            node.producers[0].reach(JOURNAL)
        node.producers[0].reach(COMMANDS)
        node.producers[0].fail(COMMANDS)
        await asyncio.sleep(0.1)
        (error,) = source.failures
        assert isinstance(error, OutcomeUnknown)
        assert len(outcome.heard) == 1
        assert node.producers[1].handed == {}

    with_node(test)


def test_a_writer_that_waits_for_nothing_ends_with_its_producer_too() -> None:
    """Otherwise its next batch could follow a gap that only the lost producer knew of."""

    async def test(node: Node) -> None:
        source = Source()
        node.appends.writer(JOURNAL, source)
        await node.append()
        node.producers[0].reach(COMMANDS)
        node.producers[0].fail(COMMANDS)
        await asyncio.sleep(0)
        (error,) = source.failures
        assert isinstance(error, OutcomeUnknown)

    with_node(test)


def test_a_record_that_no_broker_takes_ends_only_its_writer() -> None:
    """The others go on: the producer is not lost over it."""

    async def test(node: Node) -> None:
        source = Source(Record(b"k", bytes(MAX_RECORD_BYTES)))
        node.appends.writer(JOURNAL, source).request()
        await asyncio.sleep(0)
        (error,) = source.failures
        assert isinstance(error, StorageFailed)
        assert node.producers[0].handed == {}
        outcome = await node.append()
        node.producers[0].ack(COMMANDS, 0)
        await asyncio.sleep(0)
        assert outcome.heard == [None]

    with_node(test)


def test_closing_ends_what_waits_and_the_writers_in_silence() -> None:
    """A close is not a failure of a writer, and a record without a producer was not written."""

    async def test(node: Node) -> None:
        source = Source(RECORD)
        node.appends.writer(JOURNAL, source).request()
        outcome = await node.append()
        await node.manager.close()
        (error,) = outcome.heard
        assert isinstance(error, Unavailable)
        assert (source.failures, source.acked_at) == ([], [])
        assert node.producers[0].dropped

    with_node(test)


STEPS = st.lists(
    st.sampled_from(["append", "reach", "ack", "fail", "wait", "hang", "down", "up"]), max_size=30
)


@settings(deadline=None)
@given(STEPS)
def test_each_record_has_one_outcome_and_no_record_is_written_twice(steps: list[str]) -> None:
    """Whatever the broker does: after the time-out each record is durable, not
    written, or unknown, and once at most.
    """

    async def test(node: Node) -> None:
        written: list[bytes] = []
        outcomes: list[tuple[bytes, Outcome]] = []

        def reach() -> None:
            for producer in node.producers:
                if producer.alive and COMMANDS in producer.handed and COMMANDS not in producer.on_wire:
                    producer.reach(COMMANDS)
                    written.extend(producer.handed[COMMANDS][0])

        def answer(fail: bool) -> None:
            reach()
            producer = node.producers[-1]
            if producer.alive and COMMANDS in producer.handed:
                count = len(producer.handed[COMMANDS][0])
                producer.on_wire.discard(COMMANDS) if not fail else None
                producer.fail(COMMANDS) if fail else producer.ack(COMMANDS, len(written) - count)

        for step in steps:
            if step == "append":
                value = b"%d" % len(outcomes)
                outcomes.append((value, Outcome(node.appends.append(COMMANDS, Record(b"k", value)))))
            elif step == "reach":
                reach()
            elif step in ("ack", "fail"):
                answer(step == "fail")
            elif step in ("wait", "hang"):
                await asyncio.sleep(1 if step == "wait" else TIMEOUT_S)
            else:
                node.starts = step == "up"
            await asyncio.sleep(0)
        await asyncio.sleep(2 * TIMEOUT_S + 1)
        assert len(written) == len(set(written))
        for value, outcome in outcomes:
            (error,) = outcome.heard
            if error is None:
                assert written[outcome.receipt.offset or 0] == value
            elif isinstance(error, Unavailable):
                assert value not in written
            else:
                assert isinstance(error, OutcomeUnknown)

    with_node(test)
