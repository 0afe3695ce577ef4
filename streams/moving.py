"""Moving in: what the objects of a class from another app hold, appended to our journal.

Laws
- An object comes as entries of no command. What a copy that was cut short has left is emptied first, and then it is made
  once more, of all that is there now; so it goes until the migration's step is in the journal behind it.
- The loop is left between objects: what else the process does goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from perdure.schemas.journal import Entry, encode_entry, encode_raw_entry
from perdure.schemas.migrations import Step
from perdure.streams import failpoints
from perdure.streams.log import Record
from perdure.streams.looking import objects_of
from perdure.streams.migrating import append_alone
from perdure.streams.transferring import moved

if TYPE_CHECKING:  # it stands on this file
    from perdure.streams.owner import Owner

_logger = logging.getLogger("perdure")
BATCH_BYTES = 4 << 20
YIELD_EVERY = 64  # entries


class MovedIn(NamedTuple):
    """`end`: the journal's offset behind what was appended; `found`: did anybody say where the data are?"""

    end: int
    found: bool


async def move_in(owner: Owner, step: Step, namespace: str) -> MovedIn:
    """Append to the owner's journal what its partition gets of a transferred class.

    Raises as `Transfers.source`, and `OutcomeUnknown`.
    """
    transfers, tables = owner.ports.transfers, owner.tables
    source = None if transfers is None else await transfers.source(step, namespace)
    now_ms = tables.meta.clock_ms
    # nothing but such a copy can have made them: before this step there is no such namespace
    left = [moved(key, now_ms, clear=True) for key in objects_of(tables, namespace, "", None)]
    if source is None:
        return MovedIn(await _append_all(owner, left), found=False)
    objects = source.count(owner.partition)
    end = await _append_all(owner, chain(left, source.entries(owner.partition)))
    told = {"partition": owner.partition, "namespace": namespace, "objects": objects, "from": source.script}
    _logger.info("objects have moved in", extra=told)
    return MovedIn(end, found=True)


async def _append_all(owner: Owner, entries: Iterable[Entry]) -> int:
    """Append these, batch by batch; the offset behind them."""
    position, name = owner.tables.reader.position, owner.tables.reader.name
    end, size = position.offset, 0
    batch: list[Record] = []

    async def append() -> None:
        nonlocal end, size
        end = await append_alone(owner.journal, name, end, batch) + len(batch)
        batch.clear()
        size = 0
        failpoints.hit("owner.moved_in")

    for at, entry in enumerate(entries):
        encoded = encode_entry(entry)
        if batch and size + len(encoded) > BATCH_BYTES:
            await append()
        value, link = encode_raw_entry(position.epoch, position.seq, encoded, position.chain)
        position = position._replace(seq=position.seq + 1, chain=link)
        batch.append(Record(entry.key.encode(), value))
        size += len(value)
        if at % YIELD_EVERY == 0:
            await asyncio.sleep(0)
    if batch:
        await append()
    return end
