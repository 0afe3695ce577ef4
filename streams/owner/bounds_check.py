"""The bounds check: is the log that an owner finds whole, at its beginning and at its end?

An owner checks its journal before it reads it, and the commands once the journal is folded. What it finds
wrong stops the partition before anything is changed.
"""

from __future__ import annotations

from perdure.schemas.errors import LogCorrupt
from perdure.streams.journal.end_marks import known_end
from perdure.streams.log.base import Bounds, Topic
from perdure.streams.owner.owner import Owner


async def check_journal(owner: Owner, journal: Bounds) -> None:
    """Check that the journal has what the state still needs, and ends where it is known to have ended.

    Raises `LogCorrupt`.
    """
    log, partition = owner.log, owner.partition
    if journal.start > owner.tables.out_position.offset:
        raise _trimmed(owner, journal.start)
    if journal.end == 0:
        raise LogCorrupt(
            f"journal of partition {partition} is empty: it has lost its header, or was recreated"
        )
    if log.exclusive or owner.follows is not None:
        return  # the embedded log keeps its own marks; an owner that goes on has seen the end itself
    known = await known_end(log, partition)
    if known is None or known.offset <= journal.end:
        return
    end = (await log.bounds(Topic.JOURNAL, partition)).end  # another owner may serve, and append
    if known.offset > end:
        raise LogCorrupt(
            f"journal of partition {partition}: it ends at offset {end}, and once ended at {known.offset} or "
            f"later: {known.source} shows that. Its last records were lost: it was rolled back or truncated. Nothing "
            "was changed. Restore the topic from a backup that has them. To go on without them, run `perdure state "
            "adopt`: what they changed is lost then, and commands whose outcome was in them run again"
        )


def check_start(owner: Owner, start: int) -> None:
    """Check, once the journal is folded, that it begins where its owners let it begin, or before.

    Raises `LogCorrupt`.
    """
    base = owner.tables.base
    if start > (0 if base is None else base.start):
        raise _trimmed(owner, start)


def _trimmed(owner: Owner, start: int) -> LogCorrupt:
    base = owner.tables.base
    allowed = "not 0" if base is None else f"and was trimmed by perdure up to {base.start}"
    return LogCorrupt(
        f"journal of partition {owner.partition}: it begins at offset {start}, {allowed}: it was trimmed from "
        "outside (retention must be -1), or the state is older than its snapshots, and [snapshots] does not name "
        "where they are"
    )


def trimmed_from_outside(partition: int, start: int, mark: int) -> LogCorrupt:
    """The error for commands that begin at `start`, behind the offset `mark` up to which all are done."""
    return LogCorrupt(
        f"commands of partition {partition}: they begin at offset {start}, but those from {mark} on are not done: "
        "they were trimmed from outside, or the journal was rolled back. Nothing was changed. Restore the topic from "
        "a backup"
    )
