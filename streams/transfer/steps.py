"""How the configuration's migrations get into the journal.

Laws
- Before a partition serves, each step of the configuration is in its journal, once, in order. A crash in between
  leaves a prefix of them; the next owner goes on there.
- A configuration that does not follow from what the journal says is refused before anything is appended.
- A deleted namespace leaves nothing: what its objects had goes with the fold of the step's record, in one write (see
  `rows.of_namespace`). Its name is never used again, so nothing of it can come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from perdure.schemas.errors import OutcomeUnknown
from perdure.schemas.journal import Migration, encode_chained
from perdure.schemas.migrations import Step
from perdure.streams import failpoints
from perdure.streams.journal.reader import Position
from perdure.streams.journal.writer import Journal
from perdure.streams.log.base import Record


async def append_step(journal: Journal, name: str, position: Position, step: Step) -> int:
    """Append one step to the journal `name`, to follow `position`; its offset. Raises `OutcomeUnknown`."""
    failpoints.hit("owner.before_migration")
    value, _ = encode_chained(Migration(position.epoch, position.seq, step), position.chain)
    offset = await append_alone(journal, name, position.offset, (Record(None, value),))
    failpoints.hit("owner.after_migration")
    return offset


async def append_alone(journal: Journal, name: str, due: int, records: Sequence[Record]) -> int:
    """Append a batch to the journal `name`, where `due` is the next offset or lies below it. Raises `OutcomeUnknown`."""
    told: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    journal.alone(records, lambda what: tell(told, what))
    offset = await told
    if offset < due:
        raise OutcomeUnknown(f"{name} acknowledged offset {offset}, {due} was due")
    return offset


def tell(told: asyncio.Future[int], what: int | BaseException) -> None:
    """Pass on what came of an append."""
    if told.done():
        return
    if isinstance(what, BaseException):
        told.set_exception(what)
    else:
        told.set_result(what)
