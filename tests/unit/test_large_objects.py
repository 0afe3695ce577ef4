"""An object with 100,000 names, on a store on disk: paged without being loaded, and
emptied by one small entry.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.unit.one_owner import OneOwner, story

from perdure.objects.durable import DurableObject
from perdure.objects.listing import MAX_LISTED
from perdure.schemas.journal import EntryRecord, decode_record
from perdure.schemas.replies import OK, Reply
from perdure.streams.log.base import Topic
from perdure.streams.store.base import Range
from perdure.streams.store.rocks import RocksStore

NAMES, EACH = 100_000, 10_000
SMALL_BYTES = 300


class Large(DurableObject):
    async def fill(self, first: int) -> None:
        await self.state.put({f"{n:06}": n for n in range(first, first + EACH)})

    async def page(self, cursor: str | None) -> list[Any]:
        page = await self.state.list(cursor=cursor)
        return [len(page.keys), page.cursor]

    async def empty(self) -> list[Any]:
        await self.state.delete_all()
        await self.state.put("new", 1)
        return list(await self.state.items())

    async def names(self) -> list[str]:
        return list(await self.state.items())


class Counting(RocksStore):
    """A store on disk that counts the rows that are read from it and written to it."""

    read = written = 0

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        for row in super().scan(start, end, reverse=reverse):
            self.read += 1
            yield row

    def write(self, removed: Iterable[Range], rows: Iterable[tuple[bytes, bytes | None]]) -> None:
        rows = list(rows)
        self.written += len(rows)
        super().write(removed, rows)


def result(reply: Reply) -> Any:
    assert reply.outcome == OK, reply
    return json.loads(reply.body)["result"]


def test_a_large_object_is_paged_and_emptied_at_once(tmp_path: Path) -> None:
    """A page reads its rows and one more; `delete_all` is an entry of a few bytes, and writes as few rows."""

    async def told(harness: OneOwner) -> None:
        await harness.end()
        harness.store = store = Counting(tmp_path / "state")  # type: ignore[assignment]  # in place of its twin
        await harness.begin()
        for first in range(0, NAMES, EACH):
            result(await harness.call("a", "fill", first))
        harness.owner.tables.write_all()
        total, pages, cursor = 0, 0, None
        while pages == 0 or cursor is not None:
            before = store.read
            count, cursor = result(await harness.call("a", "page", cursor))
            assert count == MAX_LISTED
            assert store.read - before <= MAX_LISTED + 1
            total, pages = total + count, pages + 1
        assert (total, pages) == (NAMES, NAMES // MAX_LISTED)
        written = store.written
        assert result(await harness.call("a", "empty")) == ["new"]
        harness.owner.tables.write_all()
        assert store.written - written < 10
        last = (await harness.records(Topic.JOURNAL))[-1].value
        assert last is not None
        record = decode_record(last)
        assert isinstance(record, EntryRecord)
        assert record.entry.clear
        assert len(last) < SMALL_BYTES
        await harness.end()
        await harness.begin()
        assert result(await harness.call("a", "names")) == ["new"]

    story(Large, told)
