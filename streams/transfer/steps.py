"""Migration steps: how the configuration's migrations get into the journal.

An owner that begins appends each step that its journal does not have yet; folding the step's record creates,
renames or deletes namespaces.

Laws
- Before a partition serves, each step of the configuration is in its journal, once, in order. A crash in
  between leaves a prefix of them; the next owner continues there.
  [test_each_step_is_journaled_once_and_before_the_first_turn]
- A configuration that does not follow from the journal is refused before anything is appended.
  [test_a_configuration_that_does_not_follow_stops_the_partition_untouched]
- A deleted namespace leaves nothing: everything of its objects goes with the fold of the step's record, in
  pieces between which the event loop runs (see `Tables.remove_piece`). Its name is never used again, so
  nothing of it can come back.
  [test_a_deleted_namespace_leaves_no_row_however_the_fold_was_cut]
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
    """Append `step` to `journal`, which errors call `name`, to follow `position`; returns its offset.

    Raises `OutcomeUnknown`.
    """
    failpoints.hit("owner.before_migration")
    value, _ = encode_chained(Migration(position.epoch, position.seq, step), position.chain)
    offset = await append_alone(journal, name, position.offset, (Record(None, value),))
    failpoints.hit("owner.after_migration")
    return offset


async def append_alone(journal: Journal, name: str, due: int, records: Sequence[Record]) -> int:
    """Append `records` to `journal`, which errors call `name`, where the next offset is `due` or above.

    Raises `OutcomeUnknown`.
    """
    result: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    journal.alone(records, lambda outcome: resolve(result, outcome))
    offset = await result
    if offset < due:
        raise OutcomeUnknown(f"{name} acknowledged offset {offset}, {due} was due")
    return offset


def resolve(result: asyncio.Future[int], outcome: int | BaseException) -> None:
    """Resolve the future of an append with its offset or its error."""
    if result.done():
        return
    if isinstance(outcome, BaseException):
        result.set_exception(outcome)
    else:
        result.set_result(outcome)
