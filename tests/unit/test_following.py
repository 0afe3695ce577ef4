"""The embedded log, followed by another process while its node writes it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rocksdict import WriteBatch
from tests.journals import JournalWriter, embedded, entry

from perdure.streams.log.base import Topic
from perdure.streams.log.embedded.acked_page import Acked
from perdure.streams.log.embedded.following import EmbeddedFollowing
from perdure.streams.log.embedded.records import Rows, encode, open_or_create


async def offsets(log: EmbeddedFollowing) -> list[int]:
    """Those of all records that it returns of partition 0."""
    bounds = await log.all_bounds(Topic.JOURNAL)
    chunks = [chunk async for chunk in log.read(Topic.JOURNAL, 0, bounds[0].start, bounds[0].end)]
    return [record.offset for chunk in chunks for record in chunk]


def test_what_is_not_acknowledged_is_not_read(tmp_path: Path) -> None:
    """Records that lie in the files of a log, but whose fsync has not returned, wait until it has."""
    path, writer = tmp_path / "log", JournalWriter()
    writer.claim()
    embedded(path, [writer.values])

    async def run() -> None:
        database, _ = open_or_create(path, 1, True)
        acked = Acked(path)
        log = EmbeddedFollowing(path, 1)
        assert await offsets(log) == [0, 1]
        rows = Rows(database, path, Topic.JOURNAL, 0)
        for _ in range(3):
            offset = writer.entry(entry("Counter/a", {"count": 1}))
            batch = WriteBatch(raw_mode=True)
            batch.put(rows.key(offset), encode((1, None, writer.values[offset], ())))
            database.write(batch)
            assert await offsets(log) == list(range(offset))
            acked.store(database.latest_sequence_number())
            assert await offsets(log) == list(range(offset + 1))
        await log.close()
        acked.close()
        database.close()

    asyncio.run(run())


def test_a_log_that_is_not_there_yet_has_no_bounds(tmp_path: Path) -> None:
    """It is looked for again at each call."""

    async def run() -> None:
        log = EmbeddedFollowing(tmp_path / "log", 1)
        assert await log.all_bounds(Topic.JOURNAL) == {}
        writer = JournalWriter()
        await asyncio.to_thread(embedded, tmp_path / "log", [writer.values])
        assert await offsets(log) == [0]
        await log.close()

    asyncio.run(run())
