"""The log on Apache Kafka: it opens the clients, hands each append and read to its part, and closes them all.

Laws
- Accepted = durable = acknowledged by `min.insync.replicas`; reading is `read_committed`.
- Commands, replies, dead letters and journals of a node go through one producer (`producer.py`): whatever
  makes an outcome unknown ends it, and with it every writer, so that each partition is claimed again.
- Stamps are the broker's (LogAppendTime), and may step back at a change of leader (see
  streams/log/log_time.py).
- No call waits for a broker without a bound, `close` included. Only tails and writers wait until it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from perdure.schemas.errors import LogUnreachable
from perdure.streams.log.base import (
    Bounds,
    LogRecord,
    Record,
    ReplyTopics,
    Stamped,
    Topic,
    Trouble,
    WriterSource,
)
from perdure.streams.log.kafka.clients import CUT_TIMEOUT_S, UNREACHED, Endpoint, named
from perdure.streams.log.kafka.probe import unreachable
from perdure.streams.log.kafka.producer import ProducerManager
from perdure.streams.log.kafka.queues import Appends, KafkaReceipt, KafkaWriter
from perdure.streams.log.kafka.reads import Reads
from perdure.streams.log.kafka.reply_topics import KafkaReplyTopics
from perdure.streams.log.kafka.tails import KafkaTail, Tails
from perdure.streams.log.kafka.topic_watch import TopicWatch
from perdure.streams.log.kafka.topics import TRIM_TIMEOUT_MS, Topics

CONNECT_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 10.0  # of bounds, since and sizes
TRIM_TIMEOUT_S = 2 * TRIM_TIMEOUT_MS / 1000

_logger = structlog.get_logger(__name__)


def _report(error: BaseException) -> None:
    _logger.critical("the log has stopped", error=str(error))


class KafkaLog:
    """`perdure.streams.log.base.Log` on a Kafka cluster.

    bootstrap: `host:port[,host:port…]`.
    app: the prefix of the topics' names.
    partitions: the number of partitions of each topic. It never changes.
    clock_ms: the time in ms, with which records are stamped until the broker does.
    client_id: the name under which the broker's log and quotas know this node.
    append_timeout_s: after it the outcome of an append is unknown if it was sent,
        and `Unavailable` if it was not.
    connect_timeout_s: after it `start` raises `LogUnreachable`.
    replication_factor: of topics that are created. None: three, or the number of brokers if there are fewer.
    security: TLS and SASL, as `security_options` makes them; None: neither.
    leaving: the log is only copied from, so topics may have more partitions than `partitions`.
    """

    ordered = False
    exclusive = False

    def __init__(
        self,
        bootstrap: str,
        app: str,
        partitions: int,
        *,
        clock_ms: Callable[[], int],
        client_id: str = "perdure",
        append_timeout_s: float = 10.0,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        replication_factor: int | None = None,
        security: Mapping[str, Any] | None = None,
        leaving: bool = False,
    ) -> None:
        assert partitions > 0
        self.partitions = partitions
        self.generation = app
        self.on_stopped: Callable[[BaseException], None] = _report
        self._names = {topic: f"{app}.{topic.value}" for topic in Topic}
        self._places = {
            (topic, partition): TopicPartition(name, partition)
            for topic, name in self._names.items()
            for partition in range(partitions)
        }
        self._endpoint = Endpoint(bootstrap, client_id, security or {})
        self._clock_ms = clock_ms
        self._append_timeout_s = append_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._replication_factor = replication_factor
        self._leaving = leaving
        self.reply_topics: ReplyTopics | None = None
        self._closers: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._background: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        names = list(self._names.values())
        try:
            self._topics = Topics(
                self._endpoint, names, self.partitions, self._replication_factor, leaving=self._leaving
            )
            self._closers.append(self._topics.close)
            await self._topics.start(self._connect_timeout_s)
            self._manager = ProducerManager(self._endpoint, names, self._clock_ms, self._append_timeout_s)
            self._closers.append(self._manager.close)
            await self._manager.start()
            self._tails = Tails(self._endpoint, names, self._stopped)
            self._closers.append(self._tails.close)
            self._appends = Appends(self._manager, self._tails.acknowledged)
            self.reply_topics = reply_topics = KafkaReplyTopics(self._endpoint)
            self._closers.append(reply_topics.close)
            self._reads = Reads(self._endpoint, names)
            self._closers.append(self._reads.close)
            # Without an assignment: a long poll of its own would delay each request by up to 500 ms.
            self._admin_consumer: Any = AIOKafkaConsumer(
                isolation_level="read_committed", enable_auto_commit=False, **self._endpoint.options("bounds")
            )
            self._closers.append(self._close_admin_consumer)
            async with asyncio.timeout(self._connect_timeout_s):
                await asyncio.gather(self._tails.start(), self._reads.start(), self._admin_consumer.start())
        except BaseException as error:
            await self._let_go()
            if isinstance(error, UNREACHED):
                raise await unreachable(self._endpoint, error) from error
            raise
        self._watch = TopicWatch(self._topics, self.partitions, self._stopped)
        for keep in (self._manager.keep, self._tails.keep, self._watch.keep):
            task = asyncio.create_task(keep())
            task.add_done_callback(self._kept)
            self._background.append(task)

    @property
    def topic_ids(self) -> Mapping[str, str]:
        """See `Log.topic_ids`. Brokers before Kafka 2.8 give none."""
        ids = self._topics.ids
        return {topic.value: ids[name] for topic, name in self._names.items() if name in ids}

    @property
    def troubles(self) -> Sequence[Trouble]:
        """See `Log.troubles`."""
        return (*self._watch.troubles, *self._tails.troubles())

    def _kept(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._stopped(error)

    def _stopped(self, error: BaseException) -> None:
        self.on_stopped(error)

    async def _close_admin_consumer(self) -> None:
        try:
            async with asyncio.timeout(CUT_TIMEOUT_S):
                await self._admin_consumer.stop()
        except UNREACHED as error:
            _logger.warning("a Kafka client did not close in time", error=repr(error))

    async def close(self) -> None:
        """Flush what was accepted, for `append_timeout_s` at most, then close every client."""
        try:
            if self._background:
                await self._manager.drain()
        finally:
            for task in self._background:
                task.cancel()
            # `on_stopped` has been called with the failure, if there was one
            await asyncio.gather(*self._background, return_exceptions=True)
            self._background.clear()
            await self._let_go()

    async def _let_go(self) -> None:
        closers, self._closers = self._closers, []
        outcomes = await asyncio.gather(*(closer() for closer in closers), return_exceptions=True)
        for error in outcomes:  # raised only now, when each of them has ended
            if error is not None:
                raise error

    # Appending

    def append(self, topic: Topic, partition: int, record: Record, memo: Any = None) -> KafkaReceipt:
        """See `Log.append`; a tail that fetches the record gets it without `memo`. Raises `TooLarge`."""
        assert topic is not Topic.JOURNAL, "the journal is appended to by its writer"
        return self._appends.append(self._places[topic, partition], record, memo)

    def writer(self, partition: int, source: WriterSource) -> KafkaWriter:
        """See `Log.writer`. While there is no producer the writer waits; its claim is then sent first."""
        return self._appends.writer(self._places[Topic.JOURNAL, partition], source)

    def shares_write(self, record: LogRecord) -> bool:
        """Never: each batch stands alone."""
        return False

    # Reading

    def tail(
        self, topic: Topic, partition: int, start: int, deliver: Callable[[LogRecord], None]
    ) -> KafkaTail:
        """See `Log.tail`."""
        return self._tails.open(self._places[topic, partition], start, deliver)

    def read(self, topic: Topic, partition: int, start: int, end: int) -> AsyncIterator[Sequence[LogRecord]]:
        """See `Log.read`. Raises `LogCorrupt`; `LogUnreachable` after 30 s without progress."""
        return self._reads.read(self._places[topic, partition], start, end)

    async def bounds(self, topic: Topic, partition: int) -> Bounds:
        """See `Log.bounds`. Raises `LogUnreachable`."""
        place = self._places[topic, partition]
        ends, starts = await self._request(
            asyncio.gather(
                self._admin_consumer.end_offsets([place]), self._admin_consumer.beginning_offsets([place])
            ),
            f"the bounds of {named(place)}",
        )
        return Bounds(starts[place], ends[place])

    async def since(self, topic: Topic, partition: int, time_ms: int) -> Stamped | None:
        """See `Log.since`: one ListOffsets request. Raises `LogUnreachable`."""
        place = self._places[topic, partition]
        offsets = await self._request(
            self._admin_consumer.offsets_for_times({place: time_ms}), f"the times of {named(place)}"
        )
        return None if (at := offsets[place]) is None else Stamped(at.offset, at.timestamp)

    async def trim(self, topic: Topic, partition: int, before: int) -> None:
        """See `Log.trim`. Raises `LogUnreachable`."""
        place = self._places[topic, partition]
        what = f"trimming {named(place)} below offset {before}"
        await self._request(self._topics.trim(place, before), what, TRIM_TIMEOUT_S)

    async def sizes(self) -> dict[Topic, int]:
        """See `Log.sizes`. Raises `LogUnreachable`."""
        sizes = await self._request(self._topics.sizes(), "the sizes of the topics")
        return {topic: sizes[name] for topic, name in self._names.items()}

    async def _request(self, response: Any, what: str, timeout_s: float = REQUEST_TIMEOUT_S) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                return await response
        except UNREACHED as error:
            raise LogUnreachable(
                f"Kafka at {self._endpoint.bootstrap}, {what}: {error!r}. Check the brokers, then try again."
            ) from error
