"""The bootstrap of an app's log: the header at offset 0 of each journal partition, which names the app.

A node checks the headers before it owns anything, and writes those that are missing.

Laws
- The header of partition 0 decides the app's uuid; a node that finds one there takes it over.
  [test_topics.py]
- If a journal is empty and other topics show that the app was served before, no header is written: the
  journal's records are lost, and the error says so. [test_topics.py]
- Each claim names the ids of the topics that belong to the journal; other topics are refused, whatever they
  hold.
- A log of another app, or with another partition count or hash function, is refused, and the error names
  both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

import structlog

from perdure.schemas.errors import ConfigError, LogCorrupt
from perdure.schemas.journal import HASH_FUNCTION, Claim, Header, decode_record, encode_unchained
from perdure.schemas.seal import fingerprint
from perdure.streams.log.base import Headers, Log, Record, Topic, recreated

SCAN = 10_000  # commands that are searched for a trace of perdure, where there is no journal

_logger = structlog.get_logger(__name__)


class _OneRecord:
    """A source of one record: a header or claim that is appended without an owner."""

    def __init__(self, record: Header | Claim | Record) -> None:
        encoded = record if isinstance(record, Record) else Record(None, encode_unchained(record))
        self._record: Record | None = encoded
        self.appended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def fill(self, max_bytes: int) -> Sequence[Record]:
        record, self._record = self._record, None
        return (record,) if record is not None else ()

    def acked(self, first_offset: int) -> None:
        if not self.appended.done():
            self.appended.set_result(first_offset)

    def failed(self, error: BaseException) -> None:
        if not self.appended.done():
            self.appended.set_exception(error)


async def append_one(log: Log, partition: int, record: Header | Claim | Record) -> int:
    """Append a header, a claim or an encoded record to a journal partition; its offset. Raises
    `OutcomeUnknown`."""
    source = _OneRecord(record)
    writer = log.writer(partition, source)
    writer.request()
    offset = await source.appended
    writer.close()
    return offset


Vouch = Callable[[int], Awaitable[Header | None]]


async def bootstrap_log(log: Log, app: str, new_uuid: str, vouch: Vouch | None = None) -> str:
    """Give every journal partition its header if it has none; returns the app's uuid.

    Args:
        log: the app's log, started.
        app: the app's name, which a header that is there must have.
        new_uuid: the app's uuid if it is new.
        vouch: `vouch(partition)` returns the header of a journal that was trimmed behind a snapshot, or None
            if it is not known; None if there are no snapshots.

    Raises `ConfigError` for another app's log, `OutcomeUnknown` if an append's outcome is not known.
    """
    app_uuid = new_uuid
    for partition in range(log.partitions):
        bounds = await log.bounds(Topic.JOURNAL, partition)
        if bounds.end == 0:
            await _check_never_served(log, partition)
            await append_one(log, partition, Header(app, app_uuid, partition, log.partitions))
        header = None
        if bounds.start > 0 and vouch is not None:
            header = await vouch(partition)
            if header is None:
                raise LogCorrupt(
                    f"the journal of partition {partition} begins at offset {bounds.start}, not 0, and neither a state "
                    "nor a snapshot says whose it is: it was trimmed from outside, or [snapshots] does not name where "
                    "its snapshots are. Nothing was changed"
                )
        if header is None:
            header = await _read_header(log, partition)
        if partition == 0:
            app_uuid = header.app_uuid
        mine = Header(app, app_uuid, partition, log.partitions)
        if header != mine:
            raise ConfigError(
                f"the journal of partition {partition} belongs to app {header.app!r} #{fingerprint(header.app_uuid)}, partition "
                f"{header.partition} of {header.partitions}, hash {header.hash_function}; this node is for {app!r} "
                f"#{fingerprint(app_uuid)}, partition {partition} of {log.partitions}, hash {HASH_FUNCTION}: use another app "
                "name or data directory, or the settings it was created with"
            )
    return app_uuid


async def _read_header(log: Log, partition: int) -> Header:
    async for chunk in log.read(Topic.JOURNAL, partition, 0, 1):
        for record in chunk:
            header = decode_record(record.value)
            if record.offset == 0 and isinstance(header, Header):
                return header
    raise LogCorrupt(
        f"the journal of partition {partition} does not begin with a header at offset 0: it was trimmed, recreated "
        "or is not a journal of perdure; nothing was changed"
    )


async def _check_never_served(log: Log, partition: int) -> None:
    """Raises `LogCorrupt` if the journal is empty and the other topics show that the app was served before.

    Commands that clients produced before the first start show nothing. Commands sent by a gateway, trimmed
    commands, replies and dead letters do.
    """
    trace = await _trace_of_serving(log, partition)
    if trace is None or (await log.bounds(Topic.JOURNAL, partition)).end > 0:
        return  # another node may have written the header meanwhile, and serve
    raise LogCorrupt(
        f"the journal of partition {partition} is empty, and this app was served before: {trace}. The journal was "
        "deleted, or deleted and created again; all state that is not in a backup is lost with it. Nothing was changed. "
        "Restore the topic from a backup, or delete all topics of the app to start from scratch"
    )


async def _trace_of_serving(log: Log, partition: int) -> str | None:
    for topic in (Topic.REPLIES, Topic.DEAD):
        if end := (await log.bounds(topic, partition)).end:
            return f"its {topic} end at offset {end}"
    start, end = await log.bounds(Topic.COMMANDS, partition)
    if start > 0:
        return f"its commands were trimmed up to offset {start}"
    async with aclosing(log.read(Topic.COMMANDS, partition, 0, min(end, SCAN))) as chunks:  # type: ignore[type-var]  # all are generators
        async for chunk in chunks:
            for record in chunk:
                if _is_ours(record.headers):
                    return f"perdure sent the command at offset {record.offset}"
    return None


def _is_ours(headers: Headers) -> bool:
    names = {name for name, _ in headers}
    return "seal" in names or {"kind", "id"} <= names or any(name.startswith("perdure-") for name in names)


def check_topics(log: Log, partition: int, claim: Claim) -> None:
    """Raises `LogCorrupt` if the topics are not those that the newest claim names; logs a line if it names
    none."""
    if log.topic_ids and not claim.topics:
        _logger.warning(
            "the topics are accepted as those of this journal; others are refused from now on",
            partition=partition,
            reason="the newest claim was written by an earlier version, which did not name them",
        )
    for topic, id_ in claim.topics.items():
        if topic in log.topic_ids and log.topic_ids[topic] != id_:
            raise LogCorrupt(recreated(topic, id_, log.topic_ids[topic]))
