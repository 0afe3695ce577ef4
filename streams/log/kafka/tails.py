"""Tails of Kafka partitions: one long poll per broker that leads any of them.

An owner gets its commands through the tail of its partition, a gateway its replies. Records that this node
has appended itself need not be fetched: their acknowledgement names their offset and time.

Laws
- Nothing is buffered: what is fetched is delivered in the same step or dropped.
- What is acknowledged to this node is delivered at once if it lies at the tail's position; otherwise it is
  fetched. While all that is appended to a partition is delivered so, it is fetched every 20 ms only.
  [test_kafka_own_records.py]
- A request that gets no answer is repeated forever, with back-off; a warning says
  so, first at once and then rarely.
- An error that cannot pass ends the tail, and is reported by `stopped`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from random import Random

import structlog
from aiokafka.errors import for_code
from aiokafka.structs import TopicPartition

from perdure.schemas.backoff import Backoff
from perdure.schemas.errors import LogCorrupt
from perdure.streams.log.base import LogRecord, Trouble
from perdure.streams.log.kafka.clients import UNREACHED, Endpoint, close_client, named
from perdure.streams.log.kafka.fetch import (
    POLL_S,
    RETRY_S,
    TAIL_BYTES,
    UNKNOWN_TOPIC,
    Fetched,
    answers,
    fatal,
    request,
    unpack,
)
from perdure.streams.log.kafka.queues import QueuedRecord

BLOCKED_AFTER_S = 5.0  # a transaction that is open for longer is reported
OWN_S = (
    0.02  # so long after a batch of this node its partition is not fetched, if all batches are this node's
)
SHARED_S = 1.0  # so long after a batch of another client it is fetched all the time
POLL_GAP_S = 0.002  # from one fetch to the next, if the first brought records: more come together

_logger = structlog.get_logger(__name__)


class KafkaTail:
    """`perdure.streams.log.base.Tail`."""

    __slots__ = (
        "_open_at",
        "_open_since_s",
        "_own_end",
        "_shared_until_s",
        "_tails",
        "blocked",
        "closed",
        "deliver",
        "error_code",
        "error_since_s",
        "fetched_from_s",
        "paused",
        "place",
        "position",
    )

    def __init__(
        self, tails: Tails, place: TopicPartition, start: int, deliver: Callable[[LogRecord], None]
    ) -> None:
        self._tails = tails
        self.place = place
        self.position = start
        self.deliver = deliver
        self.paused = False
        self.closed = False
        self.error_code, self.error_since_s = 0, 0.0  # of the last fetch, and since when it is the same
        self.blocked = ""
        self._open_at: int | None = (
            None  # where a transaction begins that is open, and since when it has been seen
        )
        self._open_since_s = 0.0
        self.fetched_from_s = 0.0  # it is not fetched before this time
        self._own_end = start  # where this node's last batch ended
        self._shared_until_s = 0.0

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self._tails.wake()

    def close(self) -> None:
        self.closed = True
        self._tails.forget(self)

    def stands(self, fetched: Fetched, now_s: float) -> None:
        """Note how far the partition can be read: a transaction that stays open
        blocks the records behind it.
        """
        if fetched.end >= fetched.high or fetched.end != self._open_at:
            if self.blocked:
                _logger.warning("a partition can be read again", place=named(self.place), offset=fetched.end)
            self.blocked = ""
            self._open_at, self._open_since_s = None if fetched.end >= fetched.high else fetched.end, now_s
        elif not self.blocked and now_s - self._open_since_s >= BLOCKED_AFTER_S:
            topic, partition = self.place
            self.blocked = (
                f"{named(self.place)} cannot be read past offset {fetched.end}: a transaction of another client of Kafka "
                f"has been open there for {BLOCKED_AFTER_S:.0f} s or more. Have it commit or abort, or abort it: "
                f"kafka-transactions.sh --bootstrap-server {self._tails.bootstrap} abort --topic {topic} --partition "
                f"{partition} --start-offset {fetched.end}"
            )
            _logger.error(
                "an open transaction blocks a partition", place=named(self.place), reason=self.blocked
            )

    def take(self, records: Sequence[LogRecord], after: int) -> None:
        """Deliver the records from the position on, until the receiver pauses or closes the tail."""
        deliver = self.deliver
        for record in records:
            if self.paused or self.closed:
                return
            if record.offset >= self.position:
                self.position = record.offset + 1
                deliver(record)
        if not self.paused and not self.closed:
            self.position = max(self.position, after)

    def take_own(self, base: int, records: Sequence[LogRecord], now_s: float) -> None:
        """Deliver a batch of this node's own, which was acknowledged at offset `base`, if that is next."""
        after = base + len(records)
        if base not in (self.position, self._own_end):
            self._shared_until_s = now_s + SHARED_S  # another client has appended since the last batch
        self._own_end = after
        if base == self.position:
            self.take(records, after)
        alone = self.position == after and now_s >= self._shared_until_s
        self.fetched_from_s = now_s + OWN_S if alone else 0.0


class Tails:
    """All tails of a node: one client, one fetch under way per broker."""

    def __init__(
        self, endpoint: Endpoint, topics: Sequence[str], stopped: Callable[[BaseException], None]
    ) -> None:
        self._client = endpoint.client("tail")
        self.bootstrap = endpoint.bootstrap
        self._topics = topics
        self._stopped = stopped
        self._loop = asyncio.get_running_loop()
        self._tails: dict[TopicPartition, list[KafkaTail]] = {}
        self._polls: dict[int, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()

    async def start(self) -> None:
        """Connect. Raises one of `UNREACHED`."""
        await self._client.bootstrap()
        await self._client.set_topics(self._topics)

    def open(self, place: TopicPartition, start: int, deliver: Callable[[LogRecord], None]) -> KafkaTail:
        tail = KafkaTail(self, place, start, deliver)
        self._tails.setdefault(place, []).append(tail)
        self.wake()
        return tail

    def forget(self, tail: KafkaTail) -> None:
        tails = self._tails.get(tail.place, [])
        if tail in tails:
            tails.remove(tail)
            if not tails:
                del self._tails[tail.place]

    def acknowledged(
        self, place: TopicPartition, base: int, time_ms: int, own: Sequence[QueuedRecord]
    ) -> None:
        """Deliver what this node has appended, without fetching it, to the tails that are at its offset.

        Args:
            place: the partition.
            base: the offset of the first record.
            time_ms: the broker's stamp, of the whole batch; negative if it has given none.
            own: the records.
        """
        tails = self._tails.get(place)
        if tails is None or time_ms < 0:
            return
        records = [
            LogRecord(offset, time_ms, record.key, record.value, record.headers, memo)
            for offset, (record, memo, _) in enumerate(own, base)
        ]
        now_s = self._loop.time()
        try:
            for tail in list(tails):
                tail.take_own(base, records, now_s)
        except Exception as error:  # noqa: BLE001 - a receiver raised: as in `_ended`
            self._stopped(error)

    def wake(self) -> None:
        self._wake.set()

    def troubles(self) -> Iterator[Trouble]:
        """The partitions that cannot be read to their end."""
        for place, tails in self._tails.items():
            if not (why := max(tail.blocked for tail in tails)):
                continue
            yield Trouble(place.topic, place.partition, "blocked by a transaction", why)

    async def keep(self) -> None:
        """Poll every broker that leads a partition with a tail. Runs until cancelled."""
        backoff = Backoff(*RETRY_S, Random())
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                leaderless: TopicPartition | None = None
                for place, tails in list(self._tails.items()):
                    leader = self._leader(place)
                    if leader is None:
                        leaderless = place
                        if self._client.cluster.partitions_for_topic(place.topic) is None:
                            for tail in list(tails):
                                self._refused(tail, UNKNOWN_TOPIC)
                    elif leader not in self._polls and not all(tail.paused for tail in tails):
                        poll = self._polls[leader] = asyncio.create_task(self._poll(leader))
                        poll.add_done_callback(self._ended)
                if leaderless is None:
                    backoff.reset()
                else:
                    await self._retry(backoff, f"{named(leaderless)} has no leader")
        finally:
            for poll in self._polls.values():
                poll.cancel()

    def _leader(self, place: TopicPartition) -> int | None:
        leader: int | None = self._client.cluster.leader_for_partition(place)
        return None if leader == -1 else leader

    def _ended(self, poll: asyncio.Task[None]) -> None:
        self._polls = {node: other for node, other in self._polls.items() if other is not poll}
        if not poll.cancelled() and (error := poll.exception()) is not None:
            self._stopped(
                error
            )  # a receiver raised: its partition cannot go on, and others were in its hands
        self.wake()

    async def _poll(self, node: int) -> None:
        """Fetch from one broker, as long as it leads a partition with a tail that is not paused."""
        turn, backoff = 0, Backoff(*RETRY_S, Random())
        while True:
            wanted, wait_s = self._wanted(node)
            if not wanted:
                if wait_s == POLL_S:
                    return
                await asyncio.sleep(wait_s)
                continue
            turn += 1
            # Tails of one partition at different positions take turns; then the broker does not wait for
            # records.
            positions = {place: at[turn % len(at)] for place, at in wanted.items()}
            apart = any(min(at) != max(at) for at in wanted.values())
            order = list(positions.items())
            first = turn % len(order)  # the broker serves the first partition of a request first
            wait_ms = 0 if apart else int(wait_s * 1000)
            sent_s = self._loop.time()
            try:
                response = await self._client.send(
                    node, request(order[first:] + order[:first], TAIL_BYTES, wait_ms)
                )
            except UNREACHED as error:
                await self._retry(backoff, f"broker {node}: {error!r}")
                continue
            problem, some = "", False
            for fetched in answers(response):
                some = some or bool(fetched.data)
                if fetched.error_code:
                    problem = f"{named(fetched.place)}: {for_code(fetched.error_code).__name__}"
                self._distribute(fetched, positions[fetched.place])
                if len(fetched.data) > TAIL_BYTES // 4:
                    await asyncio.sleep(0)  # much was delivered: let other tasks run
            if problem:
                await self._retry(backoff, problem)
                continue
            backoff.reset()
            if some and (gap_s := sent_s + POLL_GAP_S - self._loop.time()) > 0:
                await asyncio.sleep(gap_s)

    def _wanted(self, node: int) -> tuple[dict[TopicPartition, list[int]], float]:
        """What to fetch from a broker, positions by partition; and how long the broker may wait for it."""
        wanted: dict[TopicPartition, list[int]] = {}
        now_s, wait_s = self._loop.time(), POLL_S
        for place, tails in self._tails.items():
            if self._leader(place) != node or not (reading := [each for each in tails if not each.paused]):
                continue
            if all(each.fetched_from_s > now_s for each in reading):
                wait_s = OWN_S
            else:
                wanted[place] = [each.position for each in reading]
        return wanted, wait_s

    def _distribute(self, fetched: Fetched, offset: int) -> None:
        """Give a response about `offset` to the tails that it concerns."""
        tails = [t for t in self._tails.get(fetched.place, ()) if not t.paused and t.position >= offset]
        if fetched.error_code:
            for tail in tails:
                if tail.position == offset:
                    self._refused(tail, fetched.error_code)
            return
        now_s = self._loop.time()
        for tail in tails:
            tail.error_code = 0
            tail.stands(fetched, now_s)
        if not fetched.data or not tails:
            return
        try:
            records, after = unpack(fetched, min(tail.position for tail in tails))
        except LogCorrupt as error:
            for tail in tails:
                self._stop(tail, error)
        else:
            for tail in tails:
                tail.take(records, after)

    def _refused(self, tail: KafkaTail, error_code: int) -> None:
        now_s = self._loop.time()
        if error_code != tail.error_code:
            tail.error_code, tail.error_since_s = error_code, now_s
        error = fatal(tail.place, error_code, tail.position, now_s - tail.error_since_s)
        if error is not None:
            self._stop(tail, error)

    def _stop(self, tail: KafkaTail, error: Exception) -> None:
        tail.close()
        self._stopped(error)

    async def _retry(self, backoff: Backoff, why: str) -> None:
        pause_s = backoff.failed()
        if backoff.worth_logging:
            _logger.warning("Kafka returns no records: trying again", reason=why, attempts=backoff.attempts)
        await asyncio.sleep(pause_s)
        await self._client.force_metadata_update()
        self.wake()

    async def close(self) -> None:
        """`keep` must not run any more."""
        self._tails.clear()
        polls = list(self._polls.values())
        for poll in polls:
            poll.cancel()
        if polls:
            await asyncio.wait(polls, timeout=1)
        await close_client(self._client)
