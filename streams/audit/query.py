"""Queries: which records of the log are to be read.

Laws [test_audit.py]
- A query without a field selects everything.
- Fields of the place (topics, partitions, offsets, times) bound what is read; the others are looked at record
  by record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from perdure.schemas.durations import parse_duration_s
from perdure.schemas.errors import MalformedCommand
from perdure.schemas.keys import namespace_of, parse_key, partition_named, partition_of
from perdure.streams.audit.expression import compile_expression
from perdure.streams.audit.records import AuditRecord
from perdure.streams.log.base import Topic

TOPICS = tuple(Topic)
DEFAULT_TOPICS = (Topic.JOURNAL,)
_TEXTS = ("namespace", "object", "prefix", "method", "caller", "kind", "outcome", "id", "type", "where")
_NUMBERS = ("from_offset", "to_offset")
FIELDS = frozenset((*_TEXTS, *_NUMBERS, "topics", "partition", "since", "until"))
_OFFSET_CHARS = 18
_LEAST_MS, _MOST_MS = 0, 253_402_300_799_999  # 9999-12-31


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A selection of records.

    topics: of which topics. Default: the journal.
    partitions: of which partitions; None: all.
    namespace: the namespace of the object.
    object: the object's whole key, `Namespace/name`.
    prefix: what the object's key begins with.
    method: of the request.
    caller: the principal, or `@Namespace/name` of the object that called.
    kind: fetch, call, alarm, socket or admin.
    outcome: of the turn.
    id: the command's id.
    type: the type of record, such as `entry`.
    since_ms, until_ms: only records with since_ms <= time < until_ms; in ms since 1970.
    from_offset, to_offset: only records with from_offset <= offset < to_offset, in each partition.
    where: an expression (expression.py).
    """

    topics: tuple[Topic, ...] = DEFAULT_TOPICS
    partitions: tuple[int, ...] | None = None
    namespace: str = ""
    object: str = ""
    prefix: str = ""
    method: str = ""
    caller: str = ""
    kind: str = ""
    outcome: str = ""
    id: str = ""
    type: str = ""
    since_ms: int | None = None
    until_ms: int | None = None
    from_offset: int | None = None
    to_offset: int | None = None
    where: str = ""

    def partitions_of(self, partitions: int) -> list[int]:
        """The partitions to be read, of an app that has so many: an object lies in one."""
        wanted = range(partitions) if self.partitions is None else self.partitions
        if self.object:
            home = partition_of(self.object, partitions)
            return [each for each in wanted if each == home]
        return [each for each in wanted if 0 <= each < partitions]

    def matcher(self) -> Callable[[AuditRecord], bool]:
        """A function that is True for the records that it selects. Raises `MalformedCommand` for `where`."""
        checks: list[Callable[[AuditRecord], bool]] = []
        for name in ("namespace", "object", "method", "caller", "kind", "outcome", "id", "type"):
            if wanted := getattr(self, name):
                checks.append(_equal(name, wanted))
        prefix, since_ms, until_ms = self.prefix, self.since_ms, self.until_ms
        if prefix:
            checks.append(lambda record: record.object.startswith(prefix))
        if since_ms is not None:
            checks.append(lambda record: record.time_ms >= since_ms)
        if until_ms is not None:
            checks.append(lambda record: record.time_ms < until_ms)
        if self.where:
            checks.append(compile_expression(self.where))
        if not checks:
            return lambda _: True
        return checks[0] if len(checks) == 1 else lambda record: all(check(record) for check in checks)


def _equal(name: str, wanted: str) -> Callable[[AuditRecord], bool]:
    return lambda record: getattr(record, name) == wanted


def parse_query(fields: Mapping[str, str], partitions: int, now_ms: int) -> Query:
    """A query from texts, as the command line and `/admin/log` have them. Raises `MalformedCommand`.

    fields: by name; `topics` and `partition` may be several, with commas; `since` and `until` as
        `parse_time`.
    partitions: how many the app has.
    now_ms: the time now, from which durations count back.
    """
    if unknown := fields.keys() - FIELDS:
        raise MalformedCommand(f"unknown filter {min(unknown)[:40]!r}; there are {', '.join(sorted(FIELDS))}")
    given: dict[str, Any] = {name: fields[name] for name in _TEXTS if fields.get(name)}
    for name in _NUMBERS:
        if text := fields.get(name):
            given[name] = _offset(name, text)
    for name in ("since", "until"):
        if text := fields.get(name):
            given[f"{name}_ms"] = parse_time(text, now_ms)
    if topics := fields.get("topics"):
        given["topics"] = (
            tuple(Topic) if topics == "all" else tuple(_topic(each) for each in topics.split(","))
        )
    if numbers := fields.get("partition"):
        given["partitions"] = tuple(_partition(each, partitions) for each in numbers.split(","))
    if key := given.get("object"):
        given["object"] = parse_key(key.encode("utf-8", "surrogatepass"))
    query = Query(**given)
    query.matcher()
    if query.object and query.namespace and namespace_of(query.object) != query.namespace:
        raise MalformedCommand(f"{query.object} is not of the namespace {query.namespace}")
    return query


def _topic(text: str) -> Topic:
    try:
        return Topic(text)
    except ValueError:
        raise MalformedCommand(
            f"{text[:40]!r} is not a topic: {', '.join(TOPICS)}, or all, with commas between"
        ) from None


def _partition(text: str, partitions: int) -> int:
    partition = partition_named(text, partitions)
    if partition is None:
        raise MalformedCommand(f"{text[:40]!r} is not a partition: they are 0 to {partitions - 1}")
    return partition


def _offset(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _OFFSET_CHARS):
        raise MalformedCommand(f"{name}={text[:40]} is not an offset")
    return int(text)


def parse_time(text: str, now_ms: int) -> int:
    """A time in ms since 1970, from one of: ISO 8601 (UTC if it names no zone), a duration such as `15m` (so
    long before now), `now`, or milliseconds. Raises `MalformedCommand`.
    """
    if text == "now":
        return now_ms
    if text.isascii() and text.isdigit() and len(text) > 8:
        time_ms = int(text) if len(text) < _OFFSET_CHARS else _MOST_MS + 1
    else:
        try:
            time_ms = now_ms - round(parse_duration_s(text) * 1000)
        except ValueError:
            time_ms = _from_iso(text)
    if not _LEAST_MS <= time_ms <= _MOST_MS:
        raise MalformedCommand(f"{text[:40]!r} is not a time between 1970 and 9999")
    return time_ms


def _from_iso(text: str) -> int:
    try:
        time = datetime.fromisoformat(text)
        return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise MalformedCommand(
            f"{text[:40]!r} is not a time: write 2026-11-01T12:00, 15m (so long ago), now, or ms since 1970"
        ) from None
