"""End marks: how far a journal had been acknowledged, kept in the topic of replies.

On a log that other nodes share, the journal is a topic that an operator can roll back or truncate by itself.
A node with a data directory sees that by its state, which is ahead then. A node without one sees it by the
marks, and by the ids of the replies and dead letters, which name the journal offset that they came from.

Laws
- What a mark says was acknowledged before the mark was appended.
- A journal that ends before an offset that is known is refused, whatever the data directory holds, and
  nothing is changed. [test_a_journal_that_was_rolled_back_is_refused_without_a_data_directory]
- A mark of `perdure state adopt` accepts the loss: what was appended before it does not count any more.
  [test_a_rolled_back_journal_can_be_adopted]
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import NamedTuple

from perdure.streams.log.base import Log, LogRecord, Record, Topic

MARK_KIND = ("kind", b"journal-end")
ADOPTED = ("adopted", b"1")
_KEY = b"journal"
_WINDOWS = (100, 1_000, 10_000)  # records at the end of a topic that are searched, until something is known


class KnownEnd(NamedTuple):
    """An end that a journal once had, and where that is known from."""

    offset: int
    source: str


def append_mark(log: Log, partition: int, end: int, *, adopted: bool = False) -> None:
    """Append a mark to `log` that the journal of `partition` ends at `end`, or behind it.

    `adopted`: an operator has accepted this end. A mark that is lost is made up for by the next.
    """
    headers = (MARK_KIND, ("journal", f"{partition}:{end}".encode()), *((ADOPTED,) if adopted else ()))
    log.append(Topic.REPLIES, partition, Record(_KEY, b"", headers))


async def known_end(log: Log, partition: int) -> KnownEnd | None:
    """The furthest end of the journal of `partition` that the ends of replies and dead letters name."""
    replies, adopted_ms = await _end_in(log, Topic.REPLIES, partition, -1)
    dead, _ = await _end_in(log, Topic.DEAD, partition, adopted_ms)
    return max((each for each in (replies, dead) if each is not None), default=None)


async def _end_in(log: Log, topic: Topic, partition: int, after_ms: int) -> tuple[KnownEnd | None, int]:
    """What the last records of one topic name, if appended after a time; and when an end was adopted."""
    start, end = await log.bounds(topic, partition)
    best, adopted_ms = None, after_ms
    for window in _WINDOWS:
        best, adopted_ms = None, after_ms
        first = max(start, end - window)
        async with aclosing(log.read(topic, partition, first, end)) as chunks:  # type: ignore[type-var]  # all are generators
            async for chunk in chunks:
                for record in chunk:
                    for offset in _named(record, partition):
                        if ADOPTED in record.headers:
                            best, adopted_ms = None, record.time_ms
                        if record.time_ms > after_ms and (best is None or offset > best.offset):
                            best = KnownEnd(offset, _described(topic, record))
        if best is not None or first == start:
            break
    return best, adopted_ms


def _named(record: LogRecord, partition: int) -> Iterator[int]:
    """The end of the journal of `partition` that a record names, if any: of a mark, or by a message id."""
    headers = dict(record.headers)
    name = headers.get("journal" if MARK_KIND in record.headers else "message-id") or b""
    place, _, rest = name.partition(b":")
    number = rest.partition(b"/")[0]
    if place == str(partition).encode() and number.isdigit() and len(number) < 19:
        yield int(number) + (MARK_KIND not in record.headers)


def _described(topic: Topic, record: LogRecord) -> str:
    when = datetime.fromtimestamp(record.time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    what = "a mark of its end" if MARK_KIND in record.headers else "what was let out of it"
    return f"{what} in {topic} at offset {record.offset}, from {when}"
