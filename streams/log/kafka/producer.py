"""The producer of a node: one for all its partitions, replaced when it fails.

The queues and the journal's writers (`queues.py`) hand their batches to the `ProducerManager`, which sends
them through the current `Producer` and reports the outcome of each. While there is no producer they keep what
they have.

Laws
- Every batch has an outcome after `append_timeout_s` at the latest: an offset; `Unavailable`, if no byte of
  it can have left this process; otherwise `OutcomeUnknown`. [test_kafka_producer.py]
- Whatever makes an outcome unknown ends the producer, and with it all that is in flight. The next one is made
  only after the last one was dropped. [test_kafka_producer.py]
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Protocol

import structlog
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from perdure.schemas.backoff import Backoff
from perdure.schemas.errors import OutcomeUnknown, Unavailable
from perdure.streams.log.kafka.clients import UNREACHED, Endpoint, Producer, named
from perdure.streams.log.kafka.probe import unreachable

CONNECT_TIMEOUT_S = 3.0
RECONNECT_S = (0.1, 2.0)  # first and longest pause before another producer is tried

_logger = structlog.get_logger(__name__)
OnOutcome = Callable[
    [int, int, BaseException | None], None
]  # its offset and the broker's time, or -1 and the error


class ProducerUser(Protocol):
    """A queue or a writer: it sends batches through the producer of the node."""

    @property
    def idle(self) -> bool:
        """True if nothing waits and nothing is in flight."""

    def send(self) -> None:
        """Send what waits: there is a producer (again)."""

    def lost(self, why: str) -> None:
        """The producer was dropped. Batches in flight have had their outcome."""

    def end(self, why: str) -> None:
        """The log closes: there will not be another producer."""


class InFlightBatch:
    """A batch that was handed to a producer. `on_outcome` is called once."""

    __slots__ = ("_floor", "_manager", "_on_outcome", "_timer", "place", "producer")

    def __init__(
        self,
        manager: ProducerManager,
        producer: Producer,
        place: TopicPartition,
        floor: int,
        on_outcome: OnOutcome,
    ) -> None:
        self._manager, self.producer, self.place, self._floor = manager, producer, place, floor
        self._on_outcome: OnOutcome | None = on_outcome
        self._timer = manager.loop.call_later(manager.append_timeout_s, self._overdue)

    def answered(self, future: asyncio.Future[Any]) -> None:
        """The broker has acknowledged the batch, or it failed."""
        error = future.exception()  # taken in any case: asyncio reports an exception that was never retrieved
        if self._on_outcome is None:
            return
        if error is None and (offset := future.result().offset) >= self._floor:
            self.settle(offset, None, future.result().timestamp)
        else:
            problem = repr(error) if error is not None else f"acknowledged at offset {future.result().offset}"
            reason = f"{named(self.place)}: {problem}, expected {self._floor} or later"
            self._manager.lose(self.producer, reason)

    def _overdue(self) -> None:
        reason = f"{named(self.place)}: no acknowledgement within {self._manager.append_timeout_s} s"
        if self.producer.withdraw(self.place):
            self.settle(-1, Unavailable(f"{reason}; nothing was sent"))
        else:
            self._manager.lose(self.producer, reason)

    def settle(self, offset: int, error: BaseException | None, time_ms: int = -1) -> None:
        """Report the outcome, unless it was reported before."""
        on_outcome, self._on_outcome = self._on_outcome, None
        if on_outcome is not None:
            self._timer.cancel()
            self._manager.in_flight.discard(self)
            on_outcome(offset, time_ms, error)


class ProducerManager:
    """Makes the producer of a node, sends batches through it, and replaces it after an error.

    `producer` is None while there is none. `make` makes one that is not started.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        topics: Sequence[str],
        clock_ms: Callable[[], int],
        append_timeout_s: float,
        make: Callable[[Endpoint], Producer] = Producer,
    ) -> None:
        self._endpoint = endpoint
        self._topics = topics
        self._make = make
        self.clock_ms = clock_ms
        self.append_timeout_s = append_timeout_s
        self.loop = asyncio.get_running_loop()
        self.producer: Producer | None = None
        self.closed = False
        self.in_flight: set[InFlightBatch] = set()
        self.users: dict[ProducerUser, None] = {}  # a set that keeps its order
        self._lost: list[Producer] = []  # cut, not yet dropped
        self._lost_s = 0.0  # when the last one was lost, by the loop's clock
        self._backoff = Backoff(*RECONNECT_S, Random())
        self._loss = asyncio.Event()
        self._drained: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Make the first producer. Raises `LogUnreachable` or `ConfigError`."""
        producer = self._make(self._endpoint)
        try:
            await producer.start(self._topics, 2 * CONNECT_TIMEOUT_S)
        except UNREACHED as error:
            await producer.drop()
            raise await unreachable(self._endpoint, error) from error
        self.producer = producer

    async def keep(self) -> None:
        """Replace each producer that is lost, however long it takes. Runs until it is cancelled."""
        while True:
            await self._loss.wait()
            self._loss.clear()
            while self._lost:
                await self._lost[-1].drop()
                self._lost.pop()
            producer = self._make(self._endpoint)
            try:
                await producer.start(self._topics, CONNECT_TIMEOUT_S)
            except UNREACHED as error:
                self._lost.append(producer)
                self._loss.set()
                pause_s = self._backoff.failed()
                if self._backoff.worth_logging:
                    _logger.warning(
                        "a Kafka producer could not be started: trying again",
                        bootstrap=self._endpoint.bootstrap,
                        attempts=self._backoff.attempts,
                        error=repr(error),
                    )
                await asyncio.sleep(pause_s)
                continue
            except asyncio.CancelledError:
                await producer.drop()
                raise
            self.producer = producer
            self._backoff.reset()
            _logger.warning(
                "the Kafka producer was replaced", without_s=round(self.loop.time() - self._lost_s, 1)
            )
            for user in list(self.users):
                user.send()

    def send(
        self, producer: Producer, place: TopicPartition, batch: Any, floor: int, on_outcome: OnOutcome
    ) -> None:
        """Hand a batch over.

        producer: the current one, which has made the batch.
        place: the partition. At most one of its batches may be in flight.
        batch: an aiokafka `BatchBuilder`.
        floor: the lowest offset at which the batch can lie; an acknowledgement below it is an error.
        on_outcome: called with the outcome, never before this returns.
        """
        sent = InFlightBatch(self, producer, place, floor, on_outcome)
        self.in_flight.add(sent)
        try:
            future = producer.send(batch, place)
        except KafkaError as error:
            self.loop.call_soon(self.lose, producer, f"{named(place)}: {error!r}")
        else:
            future.add_done_callback(sent.answered)

    def lose(self, producer: Producer, why: str) -> None:
        """Drop a producer that can no longer be trusted, and end all its batches and writers."""
        if producer is not self.producer:
            return
        self.producer = None
        producer.cut()
        self._lost.append(producer)
        self._lost_s = self.loop.time()
        if not self.closed:
            _logger.warning("the Kafka producer was dropped", reason=why)
        self._loss.set()
        users = list(self.users)  # without those that are added while these are notified
        for sent in list(self.in_flight):
            if producer.touched(sent.place):
                error: BaseException = OutcomeUnknown(f"the Kafka producer was dropped: {why}")
            else:
                error = Unavailable(f"the Kafka producer was dropped: {why}")
            sent.settle(-1, error)
        for user in users:
            user.lost(f"the Kafka producer was dropped: {why}")

    def check_drained(self) -> None:
        """End `drain` if every user is idle."""
        drained = self._drained
        if drained is not None and not drained.done() and all(user.idle for user in self.users):
            drained.set_result(None)

    async def drain(self) -> None:
        """Accept nothing more, and wait until all that was accepted has its outcome
        (`append_timeout_s` at most).
        """
        self.closed = True
        self._drained = self.loop.create_future()
        self.check_drained()
        await asyncio.wait([self._drained], timeout=self.append_timeout_s)

    async def close(self) -> None:
        """Drop the producer; what has no outcome yet fails. `keep` must not run any more."""
        why = "the log was closed"
        for user in list(self.users):
            user.end(why)  # writers first: a close is not a failure, after which they would claim again
        if self.producer is not None:
            self.lose(self.producer, why)
        for user in list(self.users):
            user.end(why)  # what `lose` gave back to the queues
        while self._lost:
            await self._lost.pop().drop()
