"""Reading from Kafka: tails by one long poll per broker, and bounded reads.

Laws
- `read_committed`: records of open or aborted transactions are not seen, nor are control records.
- A position only moves over what was delivered, or over offsets that the broker says hold no record.
- An offset that does not exist, a topic that is gone, a damaged batch: `LogCorrupt` naming topic, partition and
  offset. A broker that does not answer is asked again, for ever by a tail, for a bounded time by a read.
- A tail's reader keeps nothing: what is fetched is delivered in the same step or forgotten.

The requests are our own because aiokafka's consumer keeps a buffer per partition (records left in it for 100 ms
stop the next fetch), forgets all buffers and positions when the assignment changes, and builds every record
twice; it is also silent about a topic that is gone.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, NamedTuple

from aiokafka.errors import CorruptRecordException, KafkaError, for_code
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from perdure.schemas.errors import ConfigError, LogCorrupt, LogUnreachable
from perdure.streams.kafka_clients import Endpoint, close_client, named
from perdure.streams.kafka_wire import Fetch
from perdure.streams.log import LogRecord

READ_COMMITTED = 1
POLL_MS = 100  # a tail that is opened or resumed waits for the poll under way
TAIL_BYTES = 256 * 1024  # per partition and fetch, so that one busy partition cannot hold the loop for long
READ_BYTES = 1024 * 1024
FETCH_BYTES = 64 * 1024 * 1024  # per fetch in all; the broker always sends one whole batch
PAUSE_S = 0.05  # before a broker is asked again after an error
GONE_AFTER_S = 10.0  # "unknown topic" may be a broker that has just started; for longer it is the truth
READ_TIMEOUT_S = 30.0  # without progress

OFFSET_OUT_OF_RANGE, CORRUPT_MESSAGE, UNKNOWN_TOPIC, TOPIC_DENIED = 1, 2, 3, 29
# No leader, not the leader, time-outs, replica away, disk off-line, leader epoch on the move: they pass.
PASSING = frozenset({UNKNOWN_TOPIC, 5, 6, 7, 8, 9, 13, 56, 74, 75})


class Fetched(NamedTuple):
    """What a broker answered for one partition."""

    place: TopicPartition
    error_code: int
    end: int  # after the last stable record
    aborted: Sequence[tuple[int, int]]
    data: bytes


def request(wanted: Iterable[tuple[TopicPartition, int]], max_bytes: int, wait_ms: int = POLL_MS) -> Any:
    """A fetch request for `(place, offset)` pairs; the broker waits for `wait_ms` if there is nothing."""
    topics: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for place, offset in wanted:
        topics[place.topic].append((place.partition, offset, max_bytes))
    return Fetch(wait_ms, 1, FETCH_BYTES, READ_COMMITTED, list(topics.items()))


def answers(response: Any) -> list[Fetched]:
    """The parts of a fetch response (versions 4 to 11 put the same fields first and last)."""
    found = []
    for topic, partitions in response.topics:
        for partition, error_code, _, end, *rest in partitions:
            aborted = rest[1] if response.API_VERSION >= 5 else rest[0]
            found.append(
                Fetched(TopicPartition(topic, partition), error_code, end, aborted or (), rest[-1] or b"")
            )
    return found


def unpack(fetched: Fetched, position: int) -> tuple[list[LogRecord], int]:
    """The records from `position` on, and the position after them. Raises `LogCorrupt`."""
    records: list[LogRecord] = []
    to_come = sorted(fetched.aborted, key=lambda transaction: transaction[1])
    aborted: set[int] = set()
    try:
        batches = MemoryRecords(fetched.data)
        if not batches.has_next():
            raise CorruptRecordException(f"{len(fetched.data)} bytes hold no whole batch")
        while batches.has_next():
            batch = batches.next_batch()
            if not batch.validate_crc():
                raise CorruptRecordException("its checksum is wrong")
            while to_come and to_come[0][1] <= batch.base_offset:
                aborted.add(to_come.pop(0)[0])
            if batch.is_control_batch:
                if ControlRecord.parse(next(batch).key) == ABORT_MARKER:
                    aborted.discard(batch.producer_id)
            elif not (batch.is_transactional and batch.producer_id in aborted):
                for item in batch:
                    if item.offset >= position:  # a batch is sent whole, also from its middle
                        headers = tuple([(name, value or b"") for name, value in item.headers])
                        records.append(LogRecord(item.offset, item.timestamp, item.key, item.value, headers))
            position = max(position, batch.next_offset)
    except (CorruptRecordException, ValueError) as error:  # ValueError: lengths or text that make no sense
        raise LogCorrupt(
            f"{named(fetched.place)}: the batch at offset {position} or after it cannot be "
            f"read: {error!r}. Restore the topic from a replica or a backup."
        ) from error
    return records, position


def fatal(place: TopicPartition, error_code: int, position: int, gone_s: float) -> Exception | None:
    """The error that ends a reader at once, or None if asking again may help.

    `gone_s`: for how long the broker has said that it does not know the partition.
    """
    where = named(place)
    if error_code == OFFSET_OUT_OF_RANGE:
        return LogCorrupt(
            f"{where}: offset {position} does not exist. It was trimmed, or the topic was truncated or deleted and "
            f"created again; nothing was skipped. Restore the topic, or rebuild from a snapshot."
        )
    if error_code == UNKNOWN_TOPIC and gone_s >= GONE_AFTER_S:
        return LogCorrupt(f"{where} is gone (next offset was {position}). Restore the topic.")
    if error_code == CORRUPT_MESSAGE:
        return LogCorrupt(
            f"{where}: the broker cannot read its own log at offset {position}. Restore a replica."
        )
    if error_code == TOPIC_DENIED:
        return ConfigError(
            f"{where}: reading is not allowed. Grant READ and DESCRIBE on the topic to this user."
        )
    if error_code and error_code not in PASSING:
        name = for_code(error_code).__name__
        return LogUnreachable(
            f"{where}: reading at offset {position} fails with {name}. See the broker's log."
        )
    return None


class KafkaTail:
    """`perdure.streams.log.Tail`."""

    __slots__ = ("_tails", "closed", "deliver", "gone_since_s", "paused", "place", "position")

    def __init__(
        self, tails: Tails, place: TopicPartition, start: int, deliver: Callable[[LogRecord], None]
    ) -> None:
        self._tails = tails
        self.place = place
        self.position = start
        self.deliver = deliver
        self.paused = False
        self.closed = False
        self.gone_since_s: float | None = None

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self._tails.wake()

    def close(self) -> None:
        self.closed = True
        self._tails.forget(self)

    def take(self, records: Sequence[LogRecord], after: int) -> None:
        """Deliver what is not below the position; where the receiver pauses or closes, go on from there later."""
        deliver = self.deliver
        for record in records:
            if self.paused or self.closed:
                return
            if record.offset >= self.position:
                self.position = record.offset + 1
                deliver(record)
        if not self.paused and not self.closed:
            self.position = max(self.position, after)


class Tails:
    """All tails of a node: one client, one fetch under way per broker."""

    def __init__(
        self, endpoint: Endpoint, topics: Sequence[str], stopped: Callable[[BaseException], None]
    ) -> None:
        self._client = endpoint.client("tail")
        self._topics = topics
        self._stopped = stopped
        self._loop = asyncio.get_running_loop()
        self._tails: list[KafkaTail] = []
        self._polls: dict[int, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()

    async def start(self) -> None:
        """Connect. Raises one of `UNREACHED`."""
        await self._client.bootstrap()
        await self._client.set_topics(self._topics)

    def open(self, place: TopicPartition, start: int, deliver: Callable[[LogRecord], None]) -> KafkaTail:
        tail = KafkaTail(self, place, start, deliver)
        self._tails.append(tail)
        self.wake()
        return tail

    def forget(self, tail: KafkaTail) -> None:
        if tail in self._tails:
            self._tails.remove(tail)

    def wake(self) -> None:
        self._wake.set()

    async def keep(self) -> None:
        """See that every broker that leads a tailed partition is being polled. Runs until cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                leaderless = False
                for tail in list(self._tails):
                    leader = self._leader(tail)
                    if leader is None:
                        leaderless = True
                        if self._client.cluster.partitions_for_topic(tail.place.topic) is None:
                            self._refused(tail, UNKNOWN_TOPIC)
                    elif leader not in self._polls and not tail.paused:
                        poll = self._polls[leader] = asyncio.create_task(self._poll(leader))
                        poll.add_done_callback(self._ended)
                if leaderless:
                    await asyncio.sleep(PAUSE_S)
                    await self._client.force_metadata_update()
                    self.wake()
        finally:
            for poll in self._polls.values():
                poll.cancel()

    def _leader(self, tail: KafkaTail) -> int | None:
        leader: int | None = self._client.cluster.leader_for_partition(tail.place)
        return None if leader == -1 else leader

    def _ended(self, poll: asyncio.Task[None]) -> None:
        self._polls = {node: other for node, other in self._polls.items() if other is not poll}
        if not poll.cancelled() and (error := poll.exception()) is not None:
            self._stopped(
                error
            )  # a receiver raised: its partition cannot go on, and others were in its hands
        self.wake()

    async def _poll(self, node: int) -> None:
        """Fetch from one broker, as long as it leads a partition that is tailed and not paused."""
        turn = 0
        while True:
            wanted: dict[TopicPartition, list[int]] = {}
            for tail in self._tails:
                if not tail.paused and self._leader(tail) == node:
                    wanted.setdefault(tail.place, []).append(tail.position)
            if not wanted:
                return
            turn += 1
            # Tails of one partition that have come differently far take turns; then nobody waits for more.
            asked = {place: at[turn % len(at)] for place, at in wanted.items()}
            apart = any(min(at) != max(at) for at in wanted.values())
            order = list(asked.items())
            first = turn % len(order)  # whoever comes first in a request is served first
            fetch = request(order[first:] + order[:first], TAIL_BYTES, wait_ms=0 if apart else POLL_MS)
            try:
                response = await self._client.send(node, fetch)
            except KafkaError:
                await self._ask_again()
                continue
            troubled = False
            for fetched in answers(response):
                troubled = troubled or fetched.error_code != 0
                self._hand_out(fetched, asked[fetched.place])
                if len(fetched.data) > TAIL_BYTES // 4:
                    await asyncio.sleep(0)  # much was delivered: let the others have the loop
            if troubled:
                await self._ask_again()

    def _hand_out(self, fetched: Fetched, offset: int) -> None:
        """Give what a broker answered about `offset` to the tails that it concerns."""
        tails = [t for t in self._tails if t.place == fetched.place and not t.paused and t.position >= offset]
        if fetched.error_code:
            for tail in tails:
                if tail.position == offset:
                    self._refused(tail, fetched.error_code)
            return
        for tail in tails:
            tail.gone_since_s = None
        if not fetched.data or not tails:
            return
        try:
            records, after = unpack(fetched, offset)
        except LogCorrupt as error:
            for tail in tails:
                self._stop(tail, error)
        else:
            for tail in tails:
                tail.take(records, after)

    def _refused(self, tail: KafkaTail, error_code: int) -> None:
        now_s = self._loop.time()
        if error_code == UNKNOWN_TOPIC and tail.gone_since_s is None:
            tail.gone_since_s = now_s
        gone_s = 0.0 if tail.gone_since_s is None else now_s - tail.gone_since_s
        error = fatal(tail.place, error_code, tail.position, gone_s)
        if error is not None:
            self._stop(tail, error)

    def _stop(self, tail: KafkaTail, error: Exception) -> None:
        tail.close()
        self._stopped(error)

    async def _ask_again(self) -> None:
        await asyncio.sleep(PAUSE_S)
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


class Reads:
    """Bounded reads, on a client of their own: a tail's long poll must not hold them up."""

    def __init__(self, endpoint: Endpoint, topics: Sequence[str]) -> None:
        self._client = endpoint.client("read")
        self._topics = topics
        self._loop = asyncio.get_running_loop()

    async def start(self) -> None:
        """Connect. Raises one of `UNREACHED`."""
        await self._client.bootstrap()
        await self._client.set_topics(self._topics)

    async def read(self, place: TopicPartition, start: int, end: int) -> AsyncIterator[Sequence[LogRecord]]:
        """See `Log.read`. Raises `LogCorrupt`, `LogUnreachable`, `ConfigError`."""
        if start >= end:
            return
        ahead = self._loop.create_task(self._fetch(place, start))
        try:
            while True:
                fetched, position = await ahead
                records, after = unpack(fetched, position)
                if after < end:
                    ahead = self._loop.create_task(self._fetch(place, after))
                elif records and records[-1].offset >= end:
                    records = [record for record in records if record.offset < end]
                if records:
                    yield records
                if after >= end:
                    return
        finally:
            ahead.cancel()

    async def _fetch(self, place: TopicPartition, position: int) -> tuple[Fetched, int]:
        """What lies at a position; asks until there is something."""
        cluster = self._client.cluster
        started_s = self._loop.time()
        gone_since_s: float | None = None
        last = "no leader"
        while (now_s := self._loop.time()) - started_s < READ_TIMEOUT_S:
            leader = cluster.leader_for_partition(place)
            error_code = UNKNOWN_TOPIC if cluster.partitions_for_topic(place.topic) is None else 0
            if leader is not None and leader != -1:
                try:
                    response = await self._client.send(leader, request([(place, position)], READ_BYTES))
                except KafkaError as error:
                    last = repr(error)
                else:
                    fetched = answers(response)[0]
                    if fetched.error_code == 0:
                        if fetched.data:
                            return fetched, position
                        last = f"the log ends at {fetched.end}"
                        continue  # the broker has waited for us
                    error_code = fetched.error_code
                    last = for_code(error_code).__name__
            gone_since_s = (gone_since_s or now_s) if error_code == UNKNOWN_TOPIC else None
            gone_s = 0.0 if gone_since_s is None else now_s - gone_since_s
            problem = fatal(place, error_code, position, gone_s)
            if problem is not None:
                raise problem
            await asyncio.sleep(PAUSE_S)
            await self._client.force_metadata_update()
        raise LogUnreachable(
            f"{named(place)}: nothing could be read at offset {position} for {READ_TIMEOUT_S:.0f} s: {last}. "
            f"Check the brokers."
        )

    async def close(self) -> None:
        await close_client(self._client)
