"""What only the Kafka log promises, on real brokers that are killed, stopped and lied to."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic
from tests.contract.logs import PATIENCE_S, Inbox, Source, add, contents, numbered, outcome
from tests.kafka import Kafka, LocalKafka, admin, console_consumer, console_producer, or_skip, tools_or_skip

from perdure.schemas.errors import (
    ConfigError,
    LogCorrupt,
    LogUnreachable,
    OutcomeUnknown,
    Overloaded,
    TooLarge,
    Unavailable,
)
from perdure.streams import failpoints
from perdure.streams.log.base import Bounds, Record, Topic, durable
from perdure.streams.log.kafka import fetch, topic_watch
from perdure.streams.log.kafka.log import KafkaLog
from perdure.streams.log.kafka.queues import MAX_QUEUED_RECORDS, MAX_RECORD_BYTES, KafkaReceipt

pytestmark = pytest.mark.kafka


def app_name() -> str:
    return "test-" + uuid.uuid4().hex[:12]


def clock_ms() -> int:
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def running(
    kafka: Kafka, app: str, partitions: int = 1, **options: Any
) -> AsyncIterator[tuple[KafkaLog, list[BaseException]]]:
    """A started log, and what it reports as having stopped."""
    log = KafkaLog(kafka.bootstrap, app, partitions, clock_ms=clock_ms, **options)
    stopped: list[BaseException] = []
    log.on_stopped = stopped.append
    await log.start()
    try:
        yield log, stopped
    finally:
        await log.close()


async def until(true: Callable[[], object]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.01)


def _running_threads(pid: int) -> list[str]:
    """What /proc says of those of a process's threads that are not stopped."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            found.append((thread / "stat").read_text())
    return [stat for stat in found if ") T " not in stat]


@contextmanager
def hanging(broker: LocalKafka, node: int = 1) -> Iterator[None]:
    """The broker is there and answers nothing."""
    os.kill(broker.pid(node), signal.SIGSTOP)
    until_s = time.monotonic() + PATIENCE_S
    while running_threads := _running_threads(broker.pid(node)):
        assert time.monotonic() < until_s, f"the broker was stopped, and these go on: {running_threads}"
        time.sleep(0.001)  # a thread on another processor runs on for a moment
    try:
        yield
    finally:
        os.kill(broker.pid(node), signal.SIGCONT)


class Stream:
    """Appends numbered commands without end and notes each outcome."""

    def __init__(self, log: KafkaLog, partitions: int) -> None:
        self._log = log
        self._partitions = partitions
        self.receipts: list[KafkaReceipt] = []
        self.errors: dict[int, BaseException | None] = {}

    async def run(self) -> None:
        while True:
            for _ in range(self._partitions):
                number = len(self.receipts)
                receipt = self._log.append(
                    Topic.COMMANDS, number % self._partitions, Record(b"k", b"%d" % number)
                )
                self.receipts.append(receipt)
                receipt.when_durable(partial(self.errors.__setitem__, number))
            await asyncio.sleep(0.002)  # the pace of the load, not a wait for anything

    async def goes_on(self) -> None:
        """Wait until 300 of the records appended from now on are durable."""
        first = len(self.receipts)
        await until(lambda: sum(error is None for n, error in self.errors.items() if n >= first) > 300)

    async def check(self) -> None:
        """Every outcome is known and true; nothing is there twice; order is kept."""
        await until(lambda: len(self.errors) == len(self.receipts))
        kinds = {type(error) for error in self.errors.values()}
        assert kinds <= {type(None), Unavailable, OutcomeUnknown}
        there: dict[int, int] = {}
        for partition in range(self._partitions):
            numbers = []
            for record in await contents(self._log, Topic.COMMANDS, partition):
                assert record.value is not None
                numbers.append(int(record.value))
                there[numbers[-1]] = record.offset
            assert numbers == sorted(set(numbers))
        for number, receipt in enumerate(self.receipts):
            error = self.errors[number]
            if error is None:
                assert there[number] == receipt.offset
            elif isinstance(error, Unavailable):
                assert number not in there


def test_nobody_answers_at_the_start() -> None:
    """Without a broker `start` ends in bounded time with `LogUnreachable`, naming address and remedy."""

    async def story() -> None:
        log = KafkaLog("127.0.0.1:1", "app", 1, clock_ms=clock_ms, connect_timeout_s=0.5)
        began_s = time.monotonic()
        with pytest.raises(LogUnreachable, match=r"127\.0\.0\.1:1.*Check that the brokers run"):
            await log.start()
        assert time.monotonic() - began_s < 5
        await log.close()

    asyncio.run(story())


def test_another_number_of_partitions_is_refused(kafka: Kafka) -> None:
    """A topic with another partition count is a `ConfigError` that names both numbers."""

    async def story() -> None:
        app = app_name()
        async with running(kafka, app, 3):
            other = KafkaLog(kafka.bootstrap, app, 4, clock_ms=clock_ms)
            with pytest.raises(ConfigError, match=r"has 3 partitions, but 4 are configured"):
                await other.start()

    asyncio.run(story())


def test_a_compacted_journal_is_refused(kafka: Kafka) -> None:
    """A topic whose settings would lose records is a `ConfigError` naming topic, setting and remedy."""

    async def story() -> None:
        app = app_name()
        async with admin(kafka) as client:
            settings = {"cleanup.policy": "compact"}
            await client.create_topics([NewTopic(f"{app}.journal", 1, 1, topic_configs=settings)])
        log = KafkaLog(kafka.bootstrap, app, 1, clock_ms=clock_ms)
        with pytest.raises(ConfigError, match=rf"{app}\.journal: cleanup\.policy=compact.*kafka-configs"):
            await log.start()

    asyncio.run(story())


def test_size_is_checked_before_anything_is_sent(kafka: Kafka) -> None:
    """The largest record that is accepted arrives; one byte more is `TooLarge` and harms nobody."""

    async def story() -> None:
        async with running(kafka, app_name()) as (log, _):
            spare = 40
            largest = Record(None, b"x" * (MAX_RECORD_BYTES - spare))
            with pytest.raises(TooLarge, match="commands partition 0"):
                log.append(Topic.COMMANDS, 0, Record(None, b"x" * (MAX_RECORD_BYTES - spare + 1)))
            await add(log, Topic.COMMANDS, 0, largest, Record(b"k", b"next"))
            found = await contents(log, Topic.COMMANDS, 0)
            assert [len(r.value or b"") for r in found] == [len(largest.value or b""), 4]

    asyncio.run(story())


def test_sizes_follow_what_is_appended(kafka: Kafka) -> None:
    """`sizes` gives each topic's bytes."""

    async def story() -> None:
        async with running(kafka, app_name(), 2) as (log, _):
            await add(log, Topic.REPLIES, 0, Record(b"k", b"x" * 100_000))
            await add(log, Topic.REPLIES, 1, Record(b"k", b"x" * 100_000))
            sizes = await log.sizes()
            assert sizes[Topic.REPLIES] > 200_000
            assert sizes[Topic.COMMANDS] == sizes[Topic.JOURNAL] == sizes[Topic.DEAD] == 0

    asyncio.run(story())


def test_the_broker_finds_records_by_time(kafka: Kafka) -> None:
    """The first that is not older, also behind what was trimmed; none if all are."""

    async def story() -> None:
        async with running(kafka, app_name()) as (log, _):
            assert await log.since(Topic.COMMANDS, 0, 0) is None
            await add(log, Topic.COMMANDS, 0, *numbered(*range(5)))
            first, *_, last = await contents(log, Topic.COMMANDS, 0)
            assert await log.since(Topic.COMMANDS, 0, first.time_ms) == (0, first.time_ms)
            assert await log.since(Topic.COMMANDS, 0, last.time_ms + 1) is None
            await log.trim(Topic.COMMANDS, 0, 3)
            found = await log.since(Topic.COMMANDS, 0, 1)
            assert found is not None
            assert found.offset == 3

    asyncio.run(story())


def test_kafkas_own_tools_see_the_same_records(kafka: Kafka) -> None:
    """What the console producer sends, compressed, a tail delivers; what we append the console shows."""
    tools_or_skip(kafka)

    async def story() -> None:
        app = app_name()
        async with running(kafka, app) as (log, stopped):
            inbox = Inbox()
            log.tail(Topic.COMMANDS, 0, 0, inbox)
            properties = {"parse.key": "true", "parse.headers": "true"}
            lines = ['h:1,g:two\tCounter/alice\t{"method": "increment"}', "h:2\tCounter/bob\t{}"]
            await asyncio.to_thread(
                console_producer, kafka, f"{app}.commands", lines, properties=properties, compression="zstd"
            )
            await inbox.has(2)
            first, second = inbox.records
            assert (first.key, first.value) == (b"Counter/alice", b'{"method": "increment"}')
            assert first.headers == (("h", b"1"), ("g", b"two"))
            assert (second.key, second.value) == (b"Counter/bob", b"{}")
            await add(log, Topic.REPLIES, 0, Record(b"Counter/alice", b"5", (("id", b"7"),)))
            shown = await asyncio.to_thread(
                console_consumer,
                kafka,
                f"{app}.replies",
                count=1,
                properties={"print.key": "true", "print.headers": "true"},
            )
            assert shown == ["id:7\tCounter/alice\t5"]
            assert stopped == []

    asyncio.run(story())


def test_aborted_transactions_are_not_seen(kafka: Kafka) -> None:
    """Records of aborted transactions are skipped, and readers pass the gaps, also one at the end."""

    async def story() -> None:
        app = app_name()
        async with running(kafka, app) as (log, _):
            inbox = Inbox()
            log.tail(Topic.COMMANDS, 0, 0, inbox)
            producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=app)
            await producer.start()
            for value, commit in ((b"a", True), (b"b", False), (b"c", True), (b"d", False)):
                await producer.begin_transaction()
                await producer.send_and_wait(f"{app}.commands", value, partition=0)
                await (producer.commit_transaction() if commit else producer.abort_transaction())
            await producer.stop()
            await add(log, Topic.COMMANDS, 0, Record(None, b"e"))
            assert await inbox.has(3) == [b"a", b"c", b"e"]
            end = inbox.records[-1].offset
            found = [r.value async for chunk in log.read(Topic.COMMANDS, 0, 0, end) for r in chunk]
            assert found == [b"a", b"c"]

    asyncio.run(story())


@asynccontextmanager
async def without_its_topic(kafka: Kafka) -> AsyncIterator[tuple[KafkaLog, str, BaseException]]:
    """A log whose topic of commands was deleted while it was tailed; how that is
    named, and what ended the tail.
    """
    app = app_name()
    async with running(kafka, app) as (log, stopped):
        inbox = Inbox()
        log.tail(Topic.COMMANDS, 0, 0, inbox)
        await add(log, Topic.COMMANDS, 0, *numbered(1))
        await inbox.has(1)
        async with admin(kafka) as client:
            await client.delete_topics([f"{app}.commands"])
        await until(lambda: stopped)
        yield log, f"commands partition 0 (topic {app}.commands)", stopped[0]


def test_a_deleted_topic_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody makes it anew: it ends the tail with `LogCorrupt`, not with
    silence, and so does a read.
    """
    monkeypatch.setattr(fetch, "GONE_AFTER_S", 0.5)

    async def story(kafka: Kafka) -> None:
        async with without_its_topic(kafka) as (log, name, error):
            assert isinstance(error, LogCorrupt)
            assert f"{name} is gone" in str(error)
            with pytest.raises(LogCorrupt, match="is gone"):
                await anext(log.read(Topic.COMMANDS, 0, 0, 1))

    settings = {"auto.create.topics.enable": "false"}
    makes_none = or_skip(lambda: LocalKafka(tmp_path / "broker", extra=settings))
    try:
        asyncio.run(story(makes_none))
    finally:
        makes_none.stop()


def test_a_deleted_topic_that_its_broker_makes_anew_is_named(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As brokers do when a client asks of it: that ends the tail with `LogCorrupt` too."""
    monkeypatch.setattr(fetch, "GONE_AFTER_S", 0.5)
    monkeypatch.setattr(topic_watch, "WATCH_S", PATIENCE_S)  # it would see another id, now and then before

    async def story() -> None:
        async with without_its_topic(kafka) as (_, name, error):
            assert isinstance(error, LogCorrupt)
            assert re.search(f"{re.escape(name)}.* (is gone|deleted and created again)", str(error))

    asyncio.run(story())


def test_a_recreated_topic_is_named(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic deleted and made again while it is tailed is `LogCorrupt` at the offset that is no more."""
    monkeypatch.setattr(topic_watch, "WATCH_S", PATIENCE_S)  # it would see another id, now and then before

    async def story() -> None:
        app = app_name()
        async with running(kafka, app) as (log, stopped):
            inbox = Inbox()
            log.tail(Topic.COMMANDS, 0, 0, inbox)
            await add(log, Topic.COMMANDS, 0, *numbered(*range(5)))
            await inbox.has(5)
            async with admin(kafka) as client:
                await client.delete_topics([f"{app}.commands"])
                await client.create_topics([NewTopic(f"{app}.commands", 1, 1)])
            await until(lambda: stopped)
            assert isinstance(stopped[0], LogCorrupt)
            assert "offset 5 does not exist" in str(stopped[0])
            assert len(inbox.records) == 5
            with pytest.raises(LogCorrupt, match="offset 5 does not exist"):
                await anext(log.read(Topic.COMMANDS, 0, 5, 6))

    asyncio.run(story())


def test_steps_of_a_journal_write_have_names(kafka: Kafka) -> None:
    """A journal batch passes `log.before_write` before it is sent and `log.after_sync` before it is told."""

    async def story() -> None:
        async with running(kafka, app_name()) as (log, _):
            source = Source()
            steps: list[str] = []
            failpoints.on_hit(steps.append)
            source.on_acked = lambda: steps.append("acked")
            source.add(b"entry")
            log.writer(0, source).request()
            await source.has_acked(1)
            assert steps == ["log.before_write", "log.after_sync", "acked"]

    try:
        asyncio.run(story())
    finally:
        failpoints.on_hit(None)


def test_a_killed_broker_loses_and_doubles_nothing(broker: LocalKafka) -> None:
    """Over SIGKILL and restart every receipt is settled, and truly; a tail sees each record once."""

    async def story() -> None:
        async with running(broker, app_name(), 3) as (log, stopped):
            inboxes = [Inbox() for _ in range(3)]
            for partition, inbox in enumerate(inboxes):
                log.tail(Topic.COMMANDS, partition, 0, inbox)
            stream = Stream(log, 3)
            load = asyncio.create_task(stream.run())
            for _ in range(2):
                await stream.goes_on()
                broker.kill()
                broker.start()
            await stream.goes_on()
            load.cancel()
            await stream.check()
            for partition, inbox in enumerate(inboxes):
                there = [(r.offset, r.value) for r in await contents(log, Topic.COMMANDS, partition)]
                await inbox.has(len(there))
                assert [(r.offset, r.value) for r in inbox.records] == there
            assert stopped == []

    asyncio.run(story())


def test_a_broker_that_is_away_too_long_ends_the_writers(broker: LocalKafka) -> None:
    """What was under way is unknown, every writer fails once and for good, new
    ones go on after the restart.
    """

    async def story() -> None:
        async with running(broker, app_name(), 2, append_timeout_s=1.0) as (log, _):
            busy, quiet = Source(), Source()
            writer = log.writer(0, busy)
            log.writer(1, quiet)
            busy.add(b"before")
            writer.request()
            await busy.has_acked(1)
            with hanging(broker):
                busy.add(b"under way")
                writer.request()
                await until(lambda: busy.failure and quiet.failure)
                assert isinstance(busy.failure, OutcomeUnknown)
                assert isinstance(quiet.failure, OutcomeUnknown)
                busy.add(b"never")
                writer.request()
                fresh = Source()
                fresh.add(b"after")
                log.writer(0, fresh).request()
            await fresh.has_acked(1)
            assert fresh.failure is None
            values = [r.value for r in await contents(log, Topic.JOURNAL, 0)]
            assert values in ([b"before", b"after"], [b"before", b"under way", b"after"])
            assert fresh.batches == [(len(values) - 1, [b"after"])]

    asyncio.run(story())


def test_what_was_never_sent_is_unavailable(broker: LocalKafka) -> None:
    """While the broker is gone appends end as `Unavailable` in time, and none of them turns up later."""

    async def story() -> None:
        async with running(broker, app_name(), append_timeout_s=1.0) as (log, _):
            await add(log, Topic.COMMANDS, 0, *numbered(0))
            broker.kill()
            first = await outcome(log.append(Topic.COMMANDS, 0, Record(None, b"maybe on a dead socket")))
            began_s = time.monotonic()
            second = await outcome(log.append(Topic.COMMANDS, 0, Record(None, b"never sent")))
            assert time.monotonic() - began_s < 3
            assert isinstance(first, OutcomeUnknown | Unavailable)
            assert type(second) is Unavailable
            broker.start()
            third: BaseException | None = Unavailable()
            while third is not None:
                third = await outcome(log.append(Topic.COMMANDS, 0, Record(None, b"back")))
            values = {r.value for r in await contents(log, Topic.COMMANDS, 0)}
            assert {b"0", b"back"} <= values
            assert b"never sent" not in values

    asyncio.run(story())


def test_unknown_and_unsent_are_told_apart(broker: LocalKafka) -> None:
    """What a hanging broker was sent ends as unknown; what waited behind it goes on later, in its order."""

    async def story() -> None:
        async with running(broker, app_name(), 2, append_timeout_s=3.0) as (log, _):
            await add(log, Topic.COMMANDS, 0, *numbered(0))
            await add(log, Topic.COMMANDS, 1, *numbered(0))
            now_s = asyncio.get_running_loop().time
            began_s = now_s()
            with hanging(broker):
                sent = log.append(Topic.COMMANDS, 0, Record(None, b"sent"))
                await until(lambda: now_s() > began_s + 2)  # the next ones are to be younger when it ends
                behind = [log.append(Topic.COMMANDS, 1, numbered(1)[0])]
                await asyncio.sleep(0)
                await asyncio.sleep(0)  # now the first is under way, and has no turn yet on the connection
                behind += [log.append(Topic.COMMANDS, 1, record) for record in numbered(2, 3)]
                assert type(await outcome(sent)) is OutcomeUnknown
            assert [await outcome(receipt) for receipt in behind] == [None, None, None]
            values = [r.value for r in await contents(log, Topic.COMMANDS, 1)]
            assert values == [b"0", b"1", b"2", b"3"]

    asyncio.run(story())


def test_the_queue_is_bounded_and_close_too(broker: LocalKafka) -> None:
    """Past its bound a queue answers `Overloaded` at once; `close` does not wait for a broker that hangs."""

    async def story() -> None:
        log = KafkaLog(broker.bootstrap, app_name(), 1, clock_ms=clock_ms, append_timeout_s=2.0)
        await log.start()
        await add(log, Topic.COMMANDS, 0, *numbered(0))
        with hanging(broker):
            receipts = [
                log.append(Topic.COMMANDS, 0, Record(b"k", b"v")) for _ in range(MAX_QUEUED_RECORDS + 1)
            ]
            errors: list[BaseException | None] = []
            receipts[-1].when_durable(errors.append)
            assert [type(error) for error in errors] == [Overloaded]
            began_s = time.monotonic()
            await log.close()
            assert time.monotonic() - began_s < 12
            assert {type(await outcome(receipt)) for receipt in receipts} <= {
                OutcomeUnknown,
                Unavailable,
                Overloaded,
            }
        again = log.append(Topic.COMMANDS, 0, Record(b"k", b"v"))
        assert isinstance(await outcome(again), Unavailable)

    asyncio.run(story())


def test_a_leader_that_dies_is_replaced(cluster: LocalKafka) -> None:
    """On three brokers the topics have three copies; a leader's SIGKILL loses nothing and appends go on."""

    async def story() -> None:
        app = app_name()
        async with running(cluster, app, 2) as (log, stopped), admin(cluster) as client:
            (topic,) = await client.describe_topics([f"{app}.commands"])
            assert [len(part["replicas"]) for part in topic["partitions"]] == [3, 3]
            stream = Stream(log, 2)
            load = asyncio.create_task(stream.run())
            await stream.goes_on()
            cluster.kill(topic["partitions"][0]["leader"])
            await stream.goes_on()
            load.cancel()
            await stream.check()
            assert await log.bounds(Topic.REPLIES, 0) == Bounds(0, 0)
            assert stopped == []

    asyncio.run(story())


@pytest.mark.kafka
def test_trimming_that_hangs_stands_in_no_way(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """While DeleteRecords is not answered, records are appended and read, topics are described, and the log
    closes at once; left alone, it ends after a time-out of its own."""

    async def story() -> None:
        async with running(kafka, app_name()) as (log, _):
            await durable(log.append(Topic.COMMANDS, 0, Record(b"k", b"v")))
            await log.trim(Topic.COMMANDS, 0, 0)
            hangs = asyncio.Event()

            async def never(*_: object, **__: object) -> None:
                hangs.set()
                await asyncio.Event().wait()

            monkeypatch.setattr(log._topics._trimmer, "delete_records", never)
            trimming = asyncio.create_task(log.trim(Topic.COMMANDS, 0, 1))
            await hangs.wait()
            await durable(log.append(Topic.COMMANDS, 0, Record(b"k", b"v")))
            assert (await log.bounds(Topic.COMMANDS, 0)).end == 2
            assert len(await log._topics.described()) == 4
            assert not trimming.done()
            monkeypatch.setattr("perdure.streams.log.kafka.log.TRIM_TIMEOUT_S", 0.05)
            with pytest.raises(LogUnreachable, match="trimming commands partition 0"):
                await log.trim(Topic.COMMANDS, 0, 1)
            trimming.cancel()

    asyncio.run(story())
