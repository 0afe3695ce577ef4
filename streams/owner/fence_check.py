"""The fence check: what other owners wrote to a journal before an owner's batch.

A batch that lands behind the offset that was expected has a gap before it; the records in the gap decide
whether this owner still owns the partition.

Laws
- Void records in a gap are normal (the last writes of a predecessor); a claim in it means that we are fenced.
  [test_behind_each_epoch_one_claim_counts]
- An owner that lost its partition to the claim of another node is fenced: it does not claim again by itself.
  [test_an_unsure_owner_does_not_claim_behind_a_rival]
"""

from __future__ import annotations

from perdure.schemas.errors import Fenced, LogCorrupt
from perdure.schemas.journal import Claim, decode_record
from perdure.streams.log.base import Log, Topic
from perdure.streams.owner.output import OutputGate
from perdure.streams.state.tables import Tables


async def read_gap(log: Log, tables: Tables, output: OutputGate, end: int) -> Fenced | None:
    """Fold what others wrote before our batch at `end`; returns `Fenced` if one of them claimed."""
    partition = tables.partition
    async for chunk in log.read(Topic.JOURNAL, partition, tables.reader.offset, end):
        for each in chunk:
            record = tables.apply(each.offset, each.value)
            if isinstance(record, Claim):
                return fenced(partition, record, each.offset)
            output.passed(each.offset)
    return None


def fenced(partition: int, claim: Claim, offset: int) -> Fenced:
    """The error of an owner whose partition a rival claimed at a journal offset."""
    error = Fenced(
        f"partition {partition} was claimed by {claim.by} at offset {offset}: this node stops serving it, and does "
        "not claim it again by itself. If this node is to serve it, stop the other one, and restart this one"
    )
    error.node = claim.node
    return error


async def claim_at(log: Log, partition: int, offset: int) -> Claim:
    """The claim at a journal offset, which is the epoch that it began.

    Raises `LogCorrupt` if there is none.
    """
    async for chunk in log.read(Topic.JOURNAL, partition, offset, offset + 1):
        for each in chunk:
            claim = decode_record(each.value)
            if each.offset == offset and isinstance(claim, Claim):
                return claim
    raise LogCorrupt(
        f"journal of partition {partition}: no claim at offset {offset}, where the state has seen one: the topic was "
        "changed or recreated"
    )
