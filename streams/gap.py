"""A gap before an owner's acknowledged batch: somebody else wrote in between.

Law: void records in it are normal (a predecessor's last breath); a claim in it means that we are fenced.
"""

from __future__ import annotations

from perdure.schemas.errors import Fenced
from perdure.schemas.journal import Claim
from perdure.streams.log import Log, Topic
from perdure.streams.release import Release
from perdure.streams.tables import Tables


async def read_gap(log: Log, tables: Tables, release: Release, end: int) -> Fenced | None:
    """Fold what others wrote before our batch at `end`: `Fenced` if one of them claimed, else None."""
    partition = tables.partition
    async for chunk in log.read(Topic.JOURNAL, partition, tables.reader.offset, end):
        for each in chunk:
            record = tables.apply(each.offset, each.value)
            if isinstance(record, Claim):
                return Fenced(
                    f"partition {partition} was claimed by node {record.node} at offset {each.offset}: "
                    "this node stops serving it"
                )
            release.passed(each.offset)
    return None
