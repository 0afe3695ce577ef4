"""Bounded reads of Kafka without a broker: which requests are sent, and what ends a read."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import google_crc32c
import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import TopicPartition

from perdure.schemas.errors import LogCorrupt, LogUnreachable
from perdure.streams.log.kafka.fetch import (
    GONE_AFTER_S,
    OFFSET_OUT_OF_RANGE,
    READ_BYTES,
    READ_TIMEOUT_S,
    UNKNOWN_TOPIC,
)
from perdure.streams.log.kafka.reads import FEW, FEW_BYTES, Reads
from perdure.streams.virtual_time import VirtualLoop

PLACE = TopicPartition("app.journal", 0)
NOT_LEADER = 6
CRC, CHECKED_FROM = 17, 21  # where these fields of a batch are


def batch(first: int, count: int) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, 0, 0, 1 << 20)
    for at in range(count):
        builder.append(at, 1_700_000_000_000, b"key", b"%d" % (first + at), [])
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, first)
    struct.pack_into(">I", data, CRC, google_crc32c.value(bytes(data[CHECKED_FROM:])))
    return bytes(data)


class Cluster:
    """One broker with `batches` of records; it answers as the next of `script` says, and then well.

    A number is an error code, an exception is raised, None is an answer that never arrives.
    """

    def __init__(self, *batches: tuple[int, int], script: tuple[int | Exception | None, ...] = ()) -> None:
        self.batches = batches
        self.script = list(script)
        self.requests: list[tuple[int, int]] = []  # offset and bytes
        self.refreshed = self.given_up = 0
        self.leader: int | None = 1
        self.topics = {PLACE.topic}
        self.cluster = self

    def client(self, role: str) -> Cluster:
        return self

    def leader_for_partition(self, place: TopicPartition) -> int | None:
        return self.leader

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return {0} if topic in self.topics else None

    async def force_metadata_update(self) -> None:
        self.refreshed += 1

    async def send(self, leader: int, request: Any) -> Any:
        ((_, ((_, offset, max_bytes),)),) = request._topics
        self.requests.append((offset, max_bytes))
        outcome = self.script.pop(0) if self.script else 0
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.given_up += 1
                raise
        await asyncio.sleep(0.1)  # for so long a broker waits if there is nothing
        end = sum(self.batches[-1]) if self.batches else 0
        data = (
            next((batch(*each) for each in self.batches if offset < sum(each)), b"") if not outcome else b""
        )
        part = (0, outcome, end, end, 0, [], -1, data)
        return SimpleNamespace(API_VERSION=11, topics=[(PLACE.topic, [part])])


def read(cluster: Cluster, start: int, end: int) -> list[list[int]]:
    """The offsets of the records, chunk by chunk."""

    async def main() -> list[list[int]]:
        chunks = Reads(cluster, [PLACE.topic]).read(PLACE, start, end)  # type: ignore[arg-type]  # its client is all
        return [[record.offset for record in chunk] async for chunk in chunks]

    return on_virtual_time(main)


def on_virtual_time(main: Callable[[], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        return await main()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(run())


@pytest.mark.parametrize(
    ("start", "end", "chunks"),
    [
        (0, 9, [[0, 1, 2, 3], [4, 5, 6], [7, 8]]),
        (2, 5, [[2, 3], [4]]),  # batches are sent whole
        (4, 7, [[4, 5, 6]]),
        (5, 5, []),
        (7, 3, []),
    ],
)
def test_a_read_has_the_records_of_its_bounds_and_no_others(
    start: int, end: int, chunks: list[list[int]]
) -> None:
    """And requests none behind its end."""
    cluster = Cluster((0, 4), (4, 3), (7, 2))
    assert read(cluster, start, end) == chunks
    assert all(start <= offset < end for offset, _ in cluster.requests)
    assert len(cluster.requests) == len(chunks)


def test_offsets_without_a_record_are_passed_over() -> None:
    """A batch may begin behind the requested offset: what lay between was a marker, or compacted."""
    cluster = Cluster((0, 2), (5, 2))
    assert read(cluster, 0, 7) == [[0, 1], [5, 6]]
    assert read(cluster, 0, 4) == [[0, 1]]


def test_a_short_read_requests_few_bytes() -> None:
    """Brokers send what lies behind its end, too."""
    cluster = Cluster((0, FEW + 1))
    read(cluster, 0, FEW)
    read(cluster, 0, FEW + 1)
    assert [each for _, each in cluster.requests] == [FEW_BYTES, READ_BYTES]


def test_the_next_request_is_under_way_while_a_chunk_is_used() -> None:
    """And is given up with the reader."""
    cluster = Cluster((0, 4), (4, 4), script=(0, None))

    async def main() -> None:
        chunks = Reads(cluster, [PLACE.topic]).read(PLACE, 0, 8)  # type: ignore[arg-type]  # its client is all
        assert len(await anext(aiter(chunks))) == 4
        await asyncio.sleep(0.1)
        assert [offset for offset, _ in cluster.requests] == [0, 4]
        await chunks.aclose()  # type: ignore[attr-defined]  # a generator
        await asyncio.sleep(0.1)
        assert cluster.given_up == 1

    on_virtual_time(main)


@pytest.mark.parametrize("passing", [NOT_LEADER, UNKNOWN_TOPIC, KafkaConnectionError("gone"), TimeoutError()])
def test_what_passes_is_requested_again(passing: int | Exception) -> None:
    """At the same offset, with the brokers' metadata of now."""
    cluster = Cluster((0, 4), script=(passing, passing))
    assert read(cluster, 1, 4) == [[1, 2, 3]]
    assert [offset for offset, _ in cluster.requests] == [1, 1, 1]
    assert cluster.refreshed == 2


def test_an_offset_that_stays_gone_ends_the_read() -> None:
    """Nothing is skipped."""
    cluster = Cluster((0, 4), script=(OFFSET_OUT_OF_RANGE,) * 1000)
    with pytest.raises(LogCorrupt, match="offset 1 does not exist"):
        read(cluster, 1, 4)


def test_a_topic_that_stays_unknown_ends_the_read() -> None:
    """A broker that has just started may not know it yet."""

    async def main() -> float:
        cluster = Cluster()
        cluster.topics.clear()
        cluster.leader = None
        with pytest.raises(LogCorrupt):
            await anext(aiter(Reads(cluster, []).read(PLACE, 0, 4)))  # type: ignore[arg-type]  # its client is all
        return asyncio.get_running_loop().time()

    assert GONE_AFTER_S <= on_virtual_time(main) < GONE_AFTER_S + 3


@pytest.mark.parametrize(
    ("cluster", "last"),
    [
        (Cluster(script=(TimeoutError("slow"),) * 1000), "TimeoutError"),
        (Cluster(script=(NOT_LEADER,) * 1000), "NotLeaderForPartition"),
        (Cluster(), "the log ends at 0"),
    ],
    ids=["silent", "no leader", "empty"],
)
def test_a_read_without_progress_is_given_up(cluster: Cluster, last: str) -> None:
    """After `READ_TIMEOUT_S`, with the last reason, and after few requests."""

    async def main() -> float:
        with pytest.raises(LogUnreachable, match=last):
            await anext(aiter(Reads(cluster, []).read(PLACE, 0, 4)))  # type: ignore[arg-type]  # its client is all
        return asyncio.get_running_loop().time()

    assert READ_TIMEOUT_S <= on_virtual_time(main) < READ_TIMEOUT_S + 2
    assert len(cluster.requests) <= READ_TIMEOUT_S / 0.1 + 1
