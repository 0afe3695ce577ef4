"""`AuditLog`: reads the four topics of an app as `AuditRecord`s.

It stands on a log that can be read: a node's own, or one opened for reading only, offline or beside its node
(`open_audit`). `span` says which offsets a query covers in a partition; `read` goes through one partition,
`records` through several in the order of their times, and `follow` goes on with what is appended.

Laws [test_audit.py]
- Only durable records are read, in the order of their offsets. Reading changes nothing.
- Memory is bounded: a chunk of each partition that is read.
- A record of the journal that does not count (of an epoch that was over) is marked `void`. Where reading
  begins in the middle, the records before it are looked at to know the epoch (`LOOK_BACK`).
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import lru_cache, partial
from typing import NamedTuple

from msgspec.structs import replace

from perdure.schemas.config import record_rules
from perdure.schemas.config_model import Config
from perdure.schemas.errors import StoreCorrupt
from perdure.schemas.foreign import NO_RULES, RecordRules
from perdure.schemas.keys import namespace_of, partition_of
from perdure.streams.audit.decoding import audit_record
from perdure.streams.audit.history import ObjectHistory, ObjectLinks, Walk, history
from perdure.streams.audit.query import Query
from perdure.streams.audit.records import AuditRecord
from perdure.streams.audit.voids import Voids
from perdure.streams.datadir import state_in
from perdure.streams.log.base import Bounds, LogRecord, Readable, Topic
from perdure.streams.log.time_search import first_since
from perdure.streams.opening import open_reading
from perdure.streams.state.tables import Tables
from perdure.streams.store.rocks import RocksReading

LOOK_BACK = 1_000  # records before the first one that is read
SLACK_MS = 60_000  # stamps may fall: a search by time begins so much earlier
FOLLOW_EVERY_S = 0.25
PAGE_SCAN = 200_000  # records that are looked at for one page


class Span(NamedTuple):
    """A part of a partition: the offsets from `start` up to `end`."""

    topic: Topic
    partition: int
    start: int
    end: int


Ends = Mapping[tuple[Topic, int], int]  # an offset in each of several partitions


class LogPage(NamedTuple):
    """A page of records, the oldest first. `ends`: from where to read on, backwards; None: that is all."""

    records: list[AuditRecord]
    ends: Ends | None


class AuditLog:
    """An app's log, read record by record.

    Args:
        log: what is read: the log of a node, or one that is only read.
        tables: returns the state of a partition, or None if there is none here.
        rules: how the app reads records of other systems as commands.
        refresh: called before `follow` looks for more; where the log shows only what was there when it was
            opened, it opens it again.
    """

    def __init__(
        self,
        log: Readable,
        rules: RecordRules = NO_RULES,
        tables: Callable[[int], Tables | None] = lambda _: None,
        refresh: Callable[[], None] | None = None,
    ) -> None:
        self.log = log
        self.partitions = log.partitions
        self.rules = rules
        self.tables = tables
        self._refresh = refresh
        self.read_up_to = 0  # the offset behind the last chunk that `read` has yielded

    def partition_of(self, key: str) -> int:
        """The partition of an object."""
        return partition_of(key, self.partitions)

    def walk(self, key: str, below: int | None = None) -> Walk:
        """A walk through the entries of object `key`, the newest first.

        `below`: only those below this journal offset; None: all.
        """
        partition = self.partition_of(key)
        tables = self.tables(partition)
        links = ObjectLinks(0, None, 0)
        if tables is not None and not self.was_deleted(key, tables):
            links = ObjectLinks(tables.links.newest(key), tables.links.linked_from, tables.reader.offset)
        return Walk(self.log, partition, key, links, below)

    def was_deleted(self, key: str, tables: Tables) -> bool:
        """True if a migration deleted the object's namespace, and with it the links."""
        namespace = namespace_of(key)
        return any(namespace in step.deleted for step in tables.steps)

    async def history(self, key: str, below: int | None = None, limit: int = 100) -> ObjectHistory:
        """A page of the history of object `key`, the newest turn first.

        key: the object.
        below: the cursor of the page before; None: from its newest turn on.
        limit: turns on the page.
        """
        return await history(self.walk(key, below), self.partition_of(key), key, limit)

    async def bounds(self, topic: Topic, partition: int) -> Bounds:
        """The first offset that is kept, and the offset after the last durable record."""
        return await self.log.bounds(topic, partition)

    async def offset_at(self, topic: Topic, partition: int, time_ms: int) -> int:
        """The first offset whose record is not older than `time_ms`; the end if there is none."""
        start, end = await self.bounds(topic, partition)
        return await first_since(self.log, topic, partition, start, end, time_ms)

    async def span(self, query: Query, topic: Topic, partition: int) -> Span:
        """What a query reads of a partition, by its offsets and times."""
        start, end = await self.bounds(topic, partition)
        low, high = start, end
        if query.from_offset is not None:
            low = max(low, query.from_offset)
        if query.to_offset is not None:
            high = min(high, query.to_offset)
        if query.since_ms is not None and low < high:
            since_ms = query.since_ms - SLACK_MS
            low = max(low, await first_since(self.log, topic, partition, start, end, since_ms))
        if query.until_ms is not None and low < high:
            until_ms = query.until_ms + SLACK_MS
            high = min(high, await first_since(self.log, topic, partition, start, end, until_ms))
        return Span(topic, partition, low, max(low, high))

    async def spans(self, query: Query) -> list[Span]:
        """What a query reads, partition by partition."""
        return [
            await self.span(query, topic, partition)
            for topic in query.topics
            for partition in query.partitions_of(self.partitions)
        ]

    async def read(self, span: Span, query: Query | None = None) -> AsyncIterator[Sequence[AuditRecord]]:
        """The records of a span that a query selects, in chunks; a chunk may be empty."""
        topic, partition = span.topic, span.partition
        matches = None if query is None else query.matcher()
        key = query.object.encode() if query is not None and query.object else None
        voids = Voids()
        if topic is Topic.JOURNAL and not self.log.exclusive and span.start < span.end:
            await self._look_back(span, voids)
        async with aclosing(self.log.read(topic, partition, span.start, span.end)) as chunks:  # type: ignore[type-var]  # all are generators
            async for chunk in chunks:
                self.read_up_to = chunk[-1].offset + 1 if chunk else span.end
                yield self._decoded(topic, partition, chunk, key, voids, matches)
                await asyncio.sleep(0)

    def _decoded(
        self,
        topic: Topic,
        partition: int,
        chunk: Sequence[LogRecord],
        key: bytes | None,
        voids: Voids,
        matches: Callable[[AuditRecord], bool] | None,
    ) -> list[AuditRecord]:
        matching: list[AuditRecord] = []
        journal = topic is Topic.JOURNAL and not self.log.exclusive
        for each in chunk:
            if key is not None and each.key != key and (each.key is not None or not journal):
                continue
            record = audit_record(topic, partition, each, self.rules)
            if journal:
                record.void = voids.is_void(each.offset, record.detail)
            if matches is None or matches(record):
                matching.append(record)
        return matching

    async def _look_back(self, span: Span, voids: Voids) -> None:
        start = (await self.bounds(Topic.JOURNAL, span.partition)).start
        first = max(start, span.start - LOOK_BACK)
        if first < span.start:
            async for chunk in self.log.read(Topic.JOURNAL, span.partition, first, span.start):
                for each in chunk:
                    voids.is_void(each.offset, audit_record(Topic.JOURNAL, span.partition, each).detail)

    async def records(self, query: Query) -> AsyncIterator[AuditRecord]:
        """The records that a query selects, of all its partitions and topics, in the order of their times."""
        spans = await self.spans(query)
        async with AsyncExitStack() as opened:
            sources = [
                await opened.enter_async_context(aclosing(self._single(each, query))) for each in spans
            ]
            heap: list[tuple[int, int, AuditRecord]] = []
            for number, source in enumerate(sources):
                if (record := await anext(source, None)) is not None:
                    heapq.heappush(heap, (record.time_ms, number, record))
            while heap:
                _, number, record = heap[0]
                yield record
                following = await anext(sources[number], None)
                if following is None:
                    heapq.heappop(heap)
                else:
                    heapq.heapreplace(heap, (following.time_ms, number, following))

    async def _single(self, span: Span, query: Query) -> AsyncGenerator[AuditRecord, None]:
        async with aclosing(self.read(span, query)) as chunks:  # type: ignore[type-var]  # as above
            async for chunk in chunks:
                for record in chunk:
                    yield record

    async def last(self, query: Query, count: int) -> list[AuditRecord]:
        """The last `count` records that a query selects, the oldest first. Reads backwards from the end."""
        return (await self.page(query, count, most=1 << 62)).records

    async def page(
        self, query: Query, count: int, ends: Ends | None = None, most: int = PAGE_SCAN
    ) -> LogPage:
        """The last records that a query selects, the oldest first, read backwards.

        query: selects them.
        count: how many at most.
        ends: where to begin reading backwards, from the page before; None: from the end.
        most: records that are looked at, in all partitions together.
        """
        spans = await self.spans(query)
        records: list[AuditRecord] = []
        next_ends: dict[tuple[Topic, int], int] = {}
        for span in spans:
            place = (span.topic, span.partition)
            end = span.end if ends is None else min(span.end, ends.get(place, span.start))
            matching, lowest = await self._backwards(
                span._replace(end=max(end, span.start)), query, count, most // len(spans)
            )
            records += matching
            if lowest > span.start:
                next_ends[place] = lowest
        records.sort(key=lambda record: (record.time_ms, record.offset))
        kept = records[-count:] if count else []
        for dropped in records[: len(records) - len(kept)]:  # they are the next page's
            place = (Topic(dropped.topic), dropped.partition)
            next_ends[place] = max(next_ends.get(place, 0), dropped.offset + 1)
        return LogPage(kept, next_ends or None)

    async def _backwards(
        self, span: Span, query: Query, count: int, most: int
    ) -> tuple[list[AuditRecord], int]:
        """The last records of a span that match, and the offset down to which it was read."""
        matching: list[AuditRecord] = []
        end, step = span.end, max(count, 256)
        while end > span.start and len(matching) < count and most > 0:
            first = max(span.start, end - min(step, most))
            most -= end - first
            part = span._replace(start=first, end=end)
            matching = [*[each async for chunk in self.read(part, query) for each in chunk], *matching]
            end, step = first, min(step * 2, 50_000)
        return matching, end

    async def follow(
        self, query: Query, after: Ends | None = None
    ) -> AsyncGenerator[Sequence[AuditRecord], None]:
        """The records that are appended from now on, in chunks, until it is cancelled.

        query: selects them; its upper bounds mean nothing here.
        after: where to begin, by topic and partition; what it does not name begins at the end.

        An empty chunk is yielded when there was nothing new, so that a reader can look whether its client is
        still there.
        """
        places = [(topic, each) for topic in query.topics for each in query.partitions_of(self.partitions)]
        at = {place: (after or {}).get(place, (await self.bounds(*place)).end) for place in places}
        query = replace(query, until_ms=None, from_offset=None, to_offset=None)
        while True:
            new: list[AuditRecord] = []
            for place in places:
                end = (await self.bounds(*place)).end
                if end > at[place]:
                    async for chunk in self.read(Span(*place, at[place], end), query):
                        new += chunk
                    at[place] = end
            new.sort(key=lambda record: record.time_ms)
            yield new
            await asyncio.sleep(FOLLOW_EVERY_S)
            if self._refresh is not None:
                self._refresh()


@asynccontextmanager
async def open_audit(config: Config) -> AsyncIterator[AuditLog]:
    """The log of an app, opened for reading only, offline or beside its node.

    Raises `DataDirError`, `StorageFailed`, `LogUnreachable` or `ConfigError`.
    """
    async with AsyncExitStack() as opened:
        store = None
        if (
            state := state_in(config.data_dir)
        ) is not None:  # opened first, so that it is not ahead of the log
            store = RocksReading(state)
            opened.callback(store.close)
        log = await open_reading(config)
        opened.push_async_callback(log.close)
        tables = lru_cache(partial(_stored, store, log.exclusive))
        refresh = getattr(log, "refresh", None)
        yield AuditLog(log, record_rules(config), tables=tables, refresh=refresh)


def _stored(store: RocksReading | None, exclusive: bool, partition: int) -> Tables | None:
    """The state of a partition as the store has it; None if it has nothing."""
    if store is None:
        return None
    try:
        tables = Tables(store, partition, exclusive=exclusive)
    except StoreCorrupt:  # damaged, or of an earlier format: the log has everything
        return None
    return tables if tables.reader.offset else None
