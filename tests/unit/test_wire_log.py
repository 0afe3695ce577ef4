"""Topics of clients on the embedded log, rows beside records, and replies that go there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.wire_client import Listening, run

from perdure.schemas.errors import LogCorrupt, Unavailable
from perdure.schemas.keys import partition_of
from perdure.streams.log.base import Record, Topic, durable
from perdure.streams.log.embedded.client_access import ClientAccess
from perdure.streams.log.embedded.log import EmbeddedLog
from perdure.streams.log.embedded.reply_topics import EmbeddedReplyTopics


async def outcome(
    topics: EmbeddedReplyTopics, topic: str, partition: int | None, key: str
) -> BaseException | None:
    """What becomes of a reply."""
    future: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    topics.append(topic, partition, Record(key.encode(), b"reply"), future.set_result)
    assert not future.done(), "reported before it returned"
    return await future


def test_replies_go_to_topics_that_clients_created(tmp_path: Path) -> None:
    """To the partition that is named, or to that of the key; a topic or partition that is missing is an
    error.
    """

    async def test(one: Listening) -> None:
        access = one.listener.broker.log
        topics = EmbeddedReplyTopics(access)
        await durable(access.create("theirs", 5, compacted=False))
        assert await outcome(topics, "theirs", 3, "K/a") is None
        assert await outcome(topics, "theirs", None, "K/b") is None
        ends = [stream.durable for stream in access.topics["theirs"].streams]
        due = [0] * 5
        due[3] += 1
        due[partition_of("K/b", 5)] += 1
        assert ends == due
        for topic, partition in (("gone", None), ("theirs", 5), ("app.commands", 0)):
            error = await outcome(topics, topic, partition, "K/a")
            assert isinstance(error, Unavailable)
        assert (await one.log.bounds(Topic.COMMANDS, 0)).end == 0

    run(tmp_path, test)


@pytest.mark.parametrize("count", [1, 3, 1_000])
def test_a_batch_lies_together_with_its_rows(tmp_path: Path, count: int) -> None:
    """In order, also if others append meanwhile; after a restart too, without rows that were removed."""

    async def first(one: Listening) -> None:
        access = one.listener.broker.log
        stream = access.stream(Topic.COMMANDS, 1)
        records = [Record(b"k", b"%d" % n) for n in range(count)]
        one.log.append(Topic.COMMANDS, 1, Record(b"k", b"before"))
        place = access.append(stream, records, {b"a": b"1", b"b": b"2"})
        one.log.append(Topic.COMMANDS, 1, Record(b"k", b"behind"))
        assert (place.first_offset, place.time_ms) == (1, 1_700_000_000_000)
        await durable(place.receipt)
        await durable(access.put({b"a": None, b"c": b"3"}))

    async def second(one: Listening) -> None:
        access = one.listener.broker.log
        read = access.read(access.stream(Topic.COMMANDS, 1), 0, 1 << 20)
        assert [each.value for each in read] == [b"before", *[b"%d" % n for n in range(count)], b"behind"][
            :1_000
        ]
        assert list(access.rows(b"")) == [(b"b", b"2"), (b"c", b"3")]

    run(tmp_path, first)
    run(tmp_path, second)


def test_rows_are_found_by_how_they_begin(tmp_path: Path) -> None:
    """No others, in the order of their keys."""

    async def test(one: Listening) -> None:
        access = one.listener.broker.log
        await durable(access.put(dict.fromkeys((b"x/2", b"x/1", b"y/1", b"x", b"w/9"), b"")))
        assert [key for key, _ in access.rows(b"x/")] == [b"x/1", b"x/2"]

    run(tmp_path, test)


def test_pieces_of_a_partition_are_bounded_by_their_bytes(tmp_path: Path) -> None:
    """At least one record, however large; the piece goes on where the last one ended."""

    async def test(one: Listening) -> None:
        access = one.listener.broker.log
        stream = access.stream(Topic.REPLIES, 0)
        for size in (100, 100, 5_000, 100):
            await durable(one.log.append(Topic.REPLIES, 0, Record(None, bytes(size))))
        sizes = []
        at = 0
        while piece := access.read(stream, at, 300):
            sizes.append([len(each.value or b"") for each in piece])
            at += len(piece)
        assert sizes == [[100, 100], [5_000], [100]]

    run(tmp_path, test)


def test_a_log_without_a_listener_has_nothing_of_it(tmp_path: Path) -> None:
    """Topics of clients do not show in its own, and a catalogue that is damaged is named."""

    async def test(one: Listening) -> None:
        access = one.listener.broker.log
        await durable(access.create("theirs", 2, compacted=False))
        await durable(access.append(access.topics["theirs"].streams[0], [Record(b"k", b"v")], {}).receipt)

    async def plain() -> None:
        log = EmbeddedLog(tmp_path / "log", 2, clock_ms=lambda: 1)
        await log.start()
        assert [(await log.bounds(topic, p)).end for topic in Topic for p in range(2)] == [0] * 8
        await durable(ClientAccess(log).put({b"topic/broken": b"\xc1"}))
        with pytest.raises(LogCorrupt, match="broken"):
            ClientAccess(log)
        await log.close()

    run(tmp_path, test)
    asyncio.run(plain())
