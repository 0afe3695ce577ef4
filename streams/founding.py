"""Founding an app's log: the header at offset 0 of each journal partition, which says whose it is.

Laws
- The header of partition 0 decides the app's uuid; who comes second takes what stands there.
- A log of another app, or with another partition count or hash function, is refused, naming both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from perdure.schemas.errors import ConfigError, LogCorrupt
from perdure.schemas.journal import HASH_FUNCTION, Claim, Header, decode_record, encode_unchained
from perdure.streams.log import Log, Record, Topic


class _OneRecord:
    """A header or claim that is appended by who is no owner."""

    def __init__(self, record: Header | Claim) -> None:
        self._record: Record | None = Record(None, encode_unchained(record))
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


async def append_one(log: Log, partition: int, record: Header | Claim) -> int:
    """Append a header or claim to a journal partition; its offset. Raises `OutcomeUnknown`."""
    source = _OneRecord(record)
    writer = log.writer(partition, source)
    writer.request()
    offset = await source.appended
    writer.close()
    return offset


async def found(log: Log, app: str, new_uuid: str) -> str:
    """Give every journal partition its header if it has none; the app's uuid.

    Raises `ConfigError` for another app's log, `OutcomeUnknown` if an append's outcome is not known.
    """
    app_uuid = new_uuid
    for partition in range(log.partitions):
        bounds = await log.bounds(Topic.JOURNAL, partition)
        if bounds.end == 0:
            await append_one(log, partition, Header(app, app_uuid, partition, log.partitions))
        header = await _read_header(log, partition)
        if partition == 0:
            app_uuid = header.app_uuid
        found_, mine = header, Header(app, app_uuid, partition, log.partitions)
        if found_ != mine:
            raise ConfigError(
                f"the journal of partition {partition} belongs to app {found_.app!r} ({found_.app_uuid}), partition "
                f"{found_.partition} of {found_.partitions}, hash {found_.hash_function}; this node is for {app!r} "
                f"({app_uuid}), partition {partition} of {log.partitions}, hash {HASH_FUNCTION}: use another app "
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
        "or is no journal of perdure; nothing was changed"
    )
