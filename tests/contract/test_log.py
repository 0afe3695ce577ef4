"""What every log keeps, whichever it is (the laws at the head of `perdure.streams.log.base`)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.contract.logs import (
    MAKERS,
    PATIENCE_S,
    Clock,
    Inbox,
    LogMaker,
    Source,
    add,
    contents,
    numbered,
    outcome,
    running,
)

from perdure.schemas.errors import LogCorrupt
from perdure.streams.log.base import Bounds, LogRecord, Record, Topic

HOUR_MS = 3_600_000


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.name)
def maker(request: pytest.FixtureRequest) -> LogMaker:
    found = request.param
    assert isinstance(found, LogMaker)
    return found


def test_offsets_rise_and_never_change(maker: LogMaker, tmp_path: Path) -> None:
    """Offsets rise in the order of appending, and reading again gives each record the same one."""

    async def story() -> None:
        async with running(maker, tmp_path) as log:
            offsets = await add(log, Topic.COMMANDS, 0, *numbered(*range(50)))
            first = [(r.offset, r.value) for r in await contents(log, Topic.COMMANDS, 0)]
            more = await add(log, Topic.COMMANDS, 0, *numbered(50))
            again = [(r.offset, r.value) for r in await contents(log, Topic.COMMANDS, 0)]
            assert offsets == sorted(set(offsets))
            assert first == [(offset, b"%d" % n) for n, offset in enumerate(offsets)]
            assert again == [*first, (more[0], b"50")]

    asyncio.run(story())


def test_a_receipt_tells_durability_once_to_each_who_asks(maker: LogMaker, tmp_path: Path) -> None:
    """`when_durable` answers None when the record is durable, at once to who asks later."""

    async def story() -> None:
        async with running(maker, tmp_path) as log:
            receipt = log.append(Topic.COMMANDS, 0, Record(b"k", b"v"))
            told: list[BaseException | None] = []
            receipt.when_durable(told.append)
            assert await outcome(receipt) is None
            receipt.when_durable(told.append)
            assert told == [None, None]
            assert receipt.offset is not None
            assert (await log.bounds(Topic.COMMANDS, 0)).end == receipt.offset + 1

    asyncio.run(story())


def test_a_tail_gives_what_was_and_then_what_comes(maker: LogMaker, tmp_path: Path) -> None:
    """A tail from the start delivers the backlog and goes on live, in order, nothing twice."""

    async def story() -> None:
        async with running(maker, tmp_path) as log:
            await add(log, Topic.COMMANDS, 0, *numbered(*range(700)))
            inbox = Inbox()
            tail = log.tail(Topic.COMMANDS, 0, 0, inbox)
            for record in numbered(*range(700, 750)):  # while it still reads the backlog
                log.append(Topic.COMMANDS, 0, record)
            await inbox.has(750)
            for record in numbered(*range(750, 800)):
                log.append(Topic.COMMANDS, 0, record)
            assert await inbox.has(800) == [b"%d" % n for n in range(800)]
            tail.close()

    asyncio.run(story())


def test_a_tail_starts_in_the_middle(maker: LogMaker, tmp_path: Path) -> None:
    """A tail delivers nothing below its start; one from the end gives only what comes."""

    async def story() -> None:
        async with running(maker, tmp_path) as log:
            offsets = await add(log, Topic.COMMANDS, 0, *numbered(*range(10)))
            middle, end = Inbox(), Inbox()
            log.tail(Topic.COMMANDS, 0, offsets[6], middle)
            assert await middle.has(4) == [b"6", b"7", b"8", b"9"]
            log.tail(Topic.COMMANDS, 0, offsets[-1] + 1, end)
            await add(log, Topic.COMMANDS, 0, *numbered(10))
            assert await end.has(1) == [b"10"]
            assert await middle.has(5) == [b"6", b"7", b"8", b"9", b"10"]

    asyncio.run(story())


def test_a_paused_tail_loses_and_doubles_nothing(maker: LogMaker, tmp_path: Path) -> None:
    """Between pause and resume nothing is delivered; after it all that came, in order, once."""

    async def story() -> None:
        async with running(maker, tmp_path) as log:
            inbox = Inbox()
            tail = log.tail(Topic.COMMANDS, 0, 0, inbox)
            await add(log, Topic.COMMANDS, 0, *numbered(*range(5)))
            await inbox.has(5)
            tail.pause()
            await add(log, Topic.COMMANDS, 0, *numbered(*range(5, 300)))
            assert len(inbox.records) == 5
            log.append(Topic.COMMANDS, 0, Record(b"key", b"300"))
            tail.resume()
            log.append(Topic.COMMANDS, 0, Record(b"key", b"301"))
            assert await inbox.has(302) == [b"%d" % n for n in range(302)]

    asyncio.run(story())


def test_a_tail_may_be_paused_from_within(maker: LogMaker, tmp_path: Path) -> None:
    """A receiver that pauses its tail gets nothing more until it resumes, and then the next record."""

    async def story() -> None:
        async with running(maker, tmp_path) as log:
            await add(log, Topic.COMMANDS, 0, *numbered(*range(20)))
            inbox = Inbox()

            def deliver(record: LogRecord) -> None:
                inbox(record)
                if record.value in (b"3", b"15"):
                    tail.pause()

            tail = log.tail(Topic.COMMANDS, 0, 0, deliver)
            assert await inbox.has(4) == [b"0", b"1", b"2", b"3"]
            tail.resume()
            await inbox.has(16)
            tail.resume()
            assert await inbox.has(20) == [b"%d" % n for n in range(20)]

    asyncio.run(story())


def test_a_tail_that_comes_late_misses_nothing(maker: LogMaker, tmp_path: Path) -> None:
    """One that is opened, or goes on, behind what another was given while nobody
    waits for it to be durable.
    """

    async def story() -> None:
        async with running(maker, tmp_path) as log:
            first, second, late = Inbox(), Inbox(), Inbox()
            log.tail(Topic.COMMANDS, 0, 0, first)
            paused = log.tail(Topic.COMMANDS, 0, 0, second)
            paused.pause()
            for n in range(5):
                log.append(Topic.COMMANDS, 0, Record(b"key", b"%d" % n))
            await first.has(5)
            paused.resume()
            log.tail(Topic.COMMANDS, 0, 2, late)
            log.append(Topic.COMMANDS, 0, Record(b"key", b"5"))
            assert await second.has(6) == await first.has(6) == [b"%d" % n for n in range(6)]
            assert await late.has(4) == [b"%d" % n for n in range(2, 6)]

    asyncio.run(story())


def test_a_closed_tail_is_silent(maker: LogMaker, tmp_path: Path) -> None:
    """After `close` nothing is delivered, while another tail of the stream goes on."""

    async def story() -> None:
        async with running(maker, tmp_path) as log:
            closed, other = Inbox(), Inbox()
            tail = log.tail(Topic.COMMANDS, 0, 0, closed)
            log.tail(Topic.COMMANDS, 0, 0, other)
            await add(log, Topic.COMMANDS, 0, *numbered(0))
            await closed.has(1)
            tail.close()
            await add(log, Topic.COMMANDS, 0, *numbered(1))
            assert await other.has(2) == [b"0", b"1"]
            assert closed.values == [b"0"]

    asyncio.run(story())


def test_a_writers_batches_are_contiguous(maker: LogMaker, tmp_path: Path) -> None:
    """Batches are acknowledged one at a time, in order, each at the offset where it really lies."""

    async def story() -> None:
        async with running(maker, tmp_path) as log:
            source = Source(limit=7)
            writer = log.writer(0, source)
            source.on_acked = writer.request
            source.add(*(b"%d" % n for n in range(100)))
            writer.request()
            await source.has_acked(100)
            there = {r.offset: r.value for r in await contents(log, Topic.JOURNAL, 0)}
            assert source.failure is None
            assert [len(values) for _, values in source.batches] == [7] * 14 + [2]
            for first, values in source.batches:
                assert [there[first + n] for n in range(len(values))] == values
            assert list(there.values()) == [b"%d" % n for n in range(100)]

    asyncio.run(story())


def test_a_request_that_is_not_urgent_comes_through(maker: LogMaker, tmp_path: Path) -> None:
    """Also what is not urgent becomes durable, without anybody asking again."""

    async def story() -> None:
        async with running(maker, tmp_path) as log:
            source = Source()
            writer = log.writer(0, source)
            source.add(b"lazy")
            writer.request(urgent=False)
            await source.has_acked(1)
            assert source.batches == [(0, [b"lazy"])]

    asyncio.run(story())


def test_a_new_writer_closes_the_earlier_one(maker: LogMaker, tmp_path: Path) -> None:
    """After `writer` was called again for a partition, the earlier source is asked and told nothing."""

    async def story() -> None:
        async with running(maker, tmp_path) as log:
            old, new = Source(), Source()
            first = log.writer(0, old)
            second = log.writer(0, new)
            old.add(b"old")
            new.add(b"new")
            first.request()
            second.request()
            await new.has_acked(1)
            assert (old.fills, old.batches) == (0, [])
            assert [r.value for r in await contents(log, Topic.JOURNAL, 0)] == [b"new"]

    asyncio.run(story())


def test_shares_write_is_true_only_where_it_holds(maker: LogMaker, tmp_path: Path) -> None:
    """On an ordered log a record shares its write when it is just accepted, never when it is durable."""

    async def story() -> None:
        async with running(maker, tmp_path) as log:
            fresh: list[bool] = []
            records: list[LogRecord] = []

            def deliver(record: LogRecord) -> None:
                fresh.append(log.shares_write(record))
                records.append(record)

            log.tail(Topic.COMMANDS, 0, 0, deliver)
            inbox = Inbox()
            log.tail(Topic.COMMANDS, 0, 0, inbox)
            await add(log, Topic.COMMANDS, 0, *numbered(0, 1))
            await inbox.has(2)
            assert log.ordered or not any(fresh)
            assert not any(log.shares_write(record) for record in records)
            assert not any(log.shares_write(record) for record in await contents(log, Topic.COMMANDS, 0))

    asyncio.run(story())


def test_read_waits_until_the_last_record_is_durable(maker: LogMaker, tmp_path: Path) -> None:
    """`read` up to an end gives exactly the records below it, durable when they are given."""

    async def story() -> None:
        async with running(maker, tmp_path) as log:
            start = (await log.bounds(Topic.COMMANDS, 0)).end
            receipts = [log.append(Topic.COMMANDS, 0, record) for record in numbered(*range(30))]
            found: list[LogRecord] = []
            async with asyncio.timeout(PATIENCE_S):
                async for chunk in log.read(Topic.COMMANDS, 0, start, start + 20):
                    found += chunk
                    assert (await log.bounds(Topic.COMMANDS, 0)).end > chunk[-1].offset
            assert [r.value for r in found] == [b"%d" % n for n in range(20)]
            assert [await outcome(receipt) for receipt in receipts] == [None] * 30

    asyncio.run(story())


def test_bounds_are_first_kept_and_next(maker: LogMaker, tmp_path: Path) -> None:
    """An empty stream is (0, 0); its end is behind the last durable record, each stream its own."""

    async def story() -> None:
        async with running(maker, tmp_path, partitions=2) as log:
            assert await log.bounds(Topic.REPLIES, 1) == Bounds(0, 0)
            await add(log, Topic.REPLIES, 1, *numbered(1, 2, 3))
            assert await log.bounds(Topic.REPLIES, 1) == Bounds(0, 3)
            assert await log.bounds(Topic.REPLIES, 0) == Bounds(0, 0)
            assert await log.bounds(Topic.COMMANDS, 1) == Bounds(0, 0)

    asyncio.run(story())


@pytest.mark.parametrize("topic", [Topic.COMMANDS, Topic.REPLIES, Topic.DEAD])
def test_trim_removes_below_and_nothing_else(maker: LogMaker, tmp_path: Path, topic: Topic) -> None:
    """After `trim` the stream starts at the offset given, its neighbours are whole, offsets go on."""

    async def story() -> None:
        async with running(maker, tmp_path, partitions=3) as log:
            for partition in range(3):
                await add(log, topic, partition, *numbered(*range(20)))
            await log.trim(topic, 1, 15)
            assert await log.bounds(topic, 1) == Bounds(15, 20)
            assert [r.value for r in await contents(log, topic, 1)] == [b"%d" % n for n in range(15, 20)]
            for partition in (0, 2):
                assert len(await contents(log, topic, partition)) == 20
            await log.trim(topic, 1, 20)
            assert await log.bounds(topic, 1) == Bounds(20, 20)
            assert await add(log, topic, 1, *numbered(20)) == [20]

    asyncio.run(story())


def test_a_tail_below_the_start_stops_by_name(maker: LogMaker, tmp_path: Path) -> None:
    """A tail whose records were trimmed away skips nothing: `on_stopped` names topic, partition, offset."""

    async def story() -> None:
        log = maker.make(tmp_path, 2, Clock())
        stopped: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        log.on_stopped = stopped.set_result
        await log.start()
        try:
            await add(log, Topic.COMMANDS, 1, *numbered(*range(10)))
            await log.trim(Topic.COMMANDS, 1, 6)
            inbox = Inbox()
            log.tail(Topic.COMMANDS, 1, 4, inbox)
            async with asyncio.timeout(PATIENCE_S):
                error = await stopped
            assert isinstance(error, LogCorrupt)
            assert {"commands", "1", "4"} <= set(str(error).replace(",", " ").replace(":", " ").split())
            assert inbox.records == []
        finally:
            await log.close()

    asyncio.run(story())


def test_stamps_follow_a_clock_that_was_far_ahead_and_do_not_fall_by_little(
    maker: LogMaker, tmp_path: Path
) -> None:
    """The clock goes back by a second, the stamps do not; by an hour, and they do: it was wrong before."""

    async def story() -> None:
        clock = Clock()
        async with running(maker, tmp_path, clock=clock) as log:
            began_ms = clock.ms
            await add(log, Topic.COMMANDS, 0, *numbered(0))
            for step_ms in (-1000, 1005, -HOUR_MS, HOUR_MS):
                clock.ms += step_ms
                await add(log, Topic.COMMANDS, 0, *numbered(1))
            times = [r.time_ms - began_ms for r in await contents(log, Topic.COMMANDS, 0)]
            assert not maker.clocked or times == [0, 0, 5, 5 - HOUR_MS, 5]

    asyncio.run(story())


def test_partitions_are_kept_apart(maker: LogMaker, tmp_path: Path) -> None:
    """Appends of many partitions and topics mixed come out of each stream in its own order."""

    async def story() -> None:
        async with running(maker, tmp_path, partitions=5) as log:
            streams = [(topic, p) for topic in (Topic.COMMANDS, Topic.REPLIES) for p in range(5)]
            inboxes = {stream: Inbox() for stream in streams}
            for stream, inbox in inboxes.items():
                log.tail(*stream, 0, inbox)
            sources = [Source() for _ in range(5)]
            writers = [log.writer(p, source) for p, source in enumerate(sources)]
            receipts = []
            for n in range(40):
                for topic, p in streams:
                    receipts.append(log.append(topic, p, Record(None, f"{topic}{p}-{n}".encode())))
                for p, writer in enumerate(writers):
                    sources[p].add(b"journal%d-%d" % (p, n))
                    writer.request()
            assert [await outcome(receipt) for receipt in receipts] == [None] * 400
            for p, source in enumerate(sources):
                await source.has_acked(40)
                journal = [r.value for r in await contents(log, Topic.JOURNAL, p)]
                assert journal == [b"journal%d-%d" % (p, n) for n in range(40)]
            for (topic, p), inbox in inboxes.items():
                expected = [f"{topic}{p}-{n}".encode() for n in range(40)]
                assert await inbox.has(40) == expected
                assert [r.value for r in await contents(log, topic, p)] == expected

    asyncio.run(story())


@pytest.mark.parametrize("maker", [each for each in MAKERS if each.persistent], ids=lambda maker: maker.name)
def test_reopening_keeps_everything(maker: LogMaker, tmp_path: Path) -> None:
    """Closed and opened again a log holds what was accepted: records, offsets, times, what was trimmed."""

    async def story() -> None:
        clock = Clock()
        async with running(maker, tmp_path, partitions=2, clock=clock) as log:
            await add(log, Topic.COMMANDS, 1, *numbered(*range(10)))
            await log.trim(Topic.COMMANDS, 1, 10)
            log.append(Topic.REPLIES, 0, Record(b"k", b"nobody waited"))
            source = Source()
            source.add(b"entry")
            log.writer(0, source).request()
            await source.has_acked(1)
        clock.ms -= 1000
        async with running(maker, tmp_path, partitions=2, clock=clock) as log:
            assert await log.bounds(Topic.COMMANDS, 1) == Bounds(10, 10)
            assert [r.value for r in await contents(log, Topic.REPLIES, 0)] == [b"nobody waited"]
            assert [r.value for r in await contents(log, Topic.JOURNAL, 0)] == [b"entry"]
            assert await add(log, Topic.COMMANDS, 1, *numbered(10)) == [10]
            assert await add(log, Topic.REPLIES, 0, *numbered(1)) == [1]
            times = [r.time_ms for r in await contents(log, Topic.REPLIES, 0)]
            assert times == sorted(times)

    asyncio.run(story())


@pytest.mark.parametrize(
    "record",
    [
        Record(None, None),
        Record(b"", b""),
        Record(b"key", None, (("empty", b""), ("twice", b"1"), ("twice", b"2"))),
        Record(None, b"\x00\xff" * 4, (("ünïcode", b"\x00\xc3\x28"),)),
        Record(b"Counter/large", bytes(range(256)) * 8192, (("id", b"1"),)),
    ],
    ids=["nulls", "empty", "null value and headers", "null key and odd bytes", "2 MB"],
)
def test_a_record_survives_as_it_is(maker: LogMaker, tmp_path: Path, record: Record) -> None:
    """Key, value and headers come back from tail and read exactly as appended; null is not empty."""

    async def story() -> None:
        async with running(maker, tmp_path) as log:
            live, later = Inbox(), Inbox()
            log.tail(Topic.COMMANDS, 0, 0, live)
            await add(log, Topic.COMMANDS, 0, record)
            log.tail(Topic.COMMANDS, 0, 0, later)
            await live.has(1)
            await later.has(1)
            for found in (live.records[0], later.records[0], *await contents(log, Topic.COMMANDS, 0)):
                assert Record(found.key, found.value, found.headers) == record

    asyncio.run(story())
