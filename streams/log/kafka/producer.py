"""The producer of a node: what is under way through it, and the making of the next one.

Laws
- Every batch has an outcome after `append_timeout_s` at the latest: an offset; *unsent*, if no byte of it can
  have left this process; else *unknown*.
- Whatever makes an outcome unknown ends the producer, and with it everything under way. The next one is not
  made before the last has been let go of.
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
from perdure.schemas.errors import LogUnreachable, OutcomeUnknown, Unavailable
from perdure.streams.log.kafka.clients import UNREACHED, Endpoint, Link, named

CONNECT_TIMEOUT_S = 3.0
RECONNECT_S = (0.1, 2.0)  # first and longest pause before another producer is tried

_logger = structlog.get_logger(__name__)
Told = Callable[[int, BaseException | None], None]


class User(Protocol):
    """Whoever sends through a line."""

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is under way."""

    def send(self) -> None:
        """There is a producer (again): send what waits."""

    def lost(self, why: str) -> None:
        """The producer was dropped; what was under way has been told."""

    def end(self, why: str) -> None:
        """There will be no producer any more."""


class Flight:
    """One batch between its hand-over and its outcome, which `told` hears once."""

    __slots__ = ("_floor", "_line", "_timer", "_told", "link", "place")

    def __init__(self, line: Line, link: Link, place: TopicPartition, floor: int, told: Told) -> None:
        self._line, self.link, self.place, self._floor = line, link, place, floor
        self._told: Told | None = told
        self._timer = line.loop.call_later(line.append_timeout_s, self._overdue)

    def answered(self, future: asyncio.Future[Any]) -> None:
        error = future.exception()  # taken in any case: asyncio reports an exception that nobody took
        if self._told is None:
            return
        if error is None and (offset := future.result().offset) >= self._floor:
            self.settle(offset, None)
        else:
            problem = repr(error) if error is not None else f"acknowledged at offset {future.result().offset}"
            self._line.lose(self.link, f"{named(self.place)}: {problem}, expected {self._floor} or later")

    def _overdue(self) -> None:
        what = f"{named(self.place)}: no acknowledgement within {self._line.append_timeout_s} s"
        if self.link.withdraw(self.place):
            self.settle(-1, Unavailable(f"{what}; nothing was sent"))
        else:
            self._line.lose(self.link, what)

    def settle(self, offset: int, error: BaseException | None) -> None:
        told, self._told = self._told, None
        if told is not None:
            self._timer.cancel()
            self._line.flights.discard(self)
            told(offset, error)


class Line:
    """The producer of the node, or the lack of one."""

    def __init__(
        self, endpoint: Endpoint, topics: Sequence[str], clock_ms: Callable[[], int], append_timeout_s: float
    ) -> None:
        self._endpoint = endpoint
        self._topics = topics
        self.clock_ms = clock_ms
        self.append_timeout_s = append_timeout_s
        self.loop = asyncio.get_running_loop()
        self.link: Link | None = None
        self.closed = False
        self.flights: set[Flight] = set()
        self.users: dict[User, None] = {}  # a set that keeps its order
        self._lost: list[Link] = []  # dropped, not yet let go of
        self._lost_s = 0.0  # when, by the loop's clock
        self._backoff = Backoff(*RECONNECT_S, Random())
        self._loss = asyncio.Event()
        self._drained: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """The first producer. Raises `LogUnreachable`."""
        link = Link(self._endpoint)
        try:
            await link.start(self._topics, 2 * CONNECT_TIMEOUT_S)
        except UNREACHED as error:
            await link.drop()
            raise LogUnreachable(
                f"Kafka at {self._endpoint.bootstrap} gives no producer: {error!r}"
            ) from error
        self.link = link

    async def keep(self) -> None:
        """Replace a lost producer, as long as it takes. Runs until it is cancelled."""
        while True:
            await self._loss.wait()
            self._loss.clear()
            while self._lost:
                await self._lost[-1].drop()
                self._lost.pop()
            link = Link(self._endpoint)
            try:
                await link.start(self._topics, CONNECT_TIMEOUT_S)
            except UNREACHED as error:
                self._lost.append(link)
                self._loss.set()
                pause_s = self._backoff.failed()
                if self._backoff.tells:
                    _logger.warning(
                        "Kafka gives no producer id: trying again",
                        bootstrap=self._endpoint.bootstrap,
                        attempts=self._backoff.attempts,
                        error=repr(error),
                    )
                await asyncio.sleep(pause_s)
                continue
            except asyncio.CancelledError:
                await link.drop()
                raise
            self.link = link
            self._backoff.reset()
            _logger.warning(
                "the Kafka producer was replaced", without_s=round(self.loop.time() - self._lost_s, 1)
            )
            for user in list(self.users):
                user.send()

    def launch(self, link: Link, place: TopicPartition, batch: Any, floor: int, told: Told) -> None:
        """Hand a batch over; `told` hears its outcome, never before this returns."""
        flight = Flight(self, link, place, floor, told)
        self.flights.add(flight)
        try:
            future = link.send(batch, place)
        except KafkaError as error:
            self.loop.call_soon(self.lose, link, f"{named(place)}: {error!r}")
        else:
            future.add_done_callback(flight.answered)

    def lose(self, link: Link, why: str) -> None:
        """This producer is not to be trusted any more: every batch and every writer of it ends here."""
        if link is not self.link:
            return
        self.link = None
        link.cut()
        self._lost.append(link)
        self._lost_s = self.loop.time()
        if not self.closed:
            _logger.warning("the Kafka producer was dropped", reason=why)
        self._loss.set()
        users = list(self.users)  # not those that come while these are told
        for flight in list(self.flights):
            if link.touched(flight.place):
                error: BaseException = OutcomeUnknown(f"the Kafka producer was dropped: {why}")
            else:
                error = Unavailable(f"the Kafka producer was dropped: {why}")
            flight.settle(-1, error)
        for user in users:
            user.lost(f"the Kafka producer was dropped: {why}")

    def check_drained(self) -> None:
        drained = self._drained
        if drained is not None and not drained.done() and all(user.idle for user in self.users):
            drained.set_result(None)

    async def drain(self) -> None:
        """Take nothing more, and wait until what was taken has its outcome (`append_timeout_s` at most)."""
        self.closed = True
        self._drained = self.loop.create_future()
        self.check_drained()
        await asyncio.wait([self._drained], timeout=self.append_timeout_s)

    async def close(self) -> None:
        """Let go of everything; what is not settled ends here. `keep` must not run any more."""
        why = "the log was closed"
        for user in list(self.users):
            user.end(why)  # writers first of all: a close is no failure that calls for a new claim
        if self.link is not None:
            self.lose(self.link, why)
        for user in list(self.users):
            user.end(why)  # what `lose` gave back to the queues
        while self._lost:
            await self._lost.pop().drop()
