"""Moving in: what the objects of a class from another app hold, appended to our journal.

Laws
- An object comes as entries of no command. What a copy that was cut short has left is emptied first, and then it is made
  once more, of all that is there now; so it goes until the migration's step is in the journal behind it.
- What this app wrote itself stays: of two objects of one name ours does.
- Nothing is appended behind a rival's claim but the batch that met it, and the loop is left between objects.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

from perdure.schemas.journal import (
    NO_COMMAND,
    Entry,
    EntryRecord,
    decode_record,
    encode_entry,
    encode_raw_entry,
)
from perdure.schemas.migrations import Step
from perdure.streams import failpoints
from perdure.streams.journal.writer import Journal
from perdure.streams.log.base import Log, Record, Topic
from perdure.streams.state.object_scan import is_there, objects_of
from perdure.streams.state.tables import Tables
from perdure.streams.transfer.export_objects import moved
from perdure.streams.transfer.steps import append_alone
from perdure.streams.turns.ports import TransferSources

_logger = logging.getLogger("perdure")
BATCH_BYTES = 4 << 20
YIELD_EVERY = 64  # entries


class Destination(NamedTuple):
    """The partition that objects move into, and where they come from."""

    log: Log
    journal: Journal
    tables: Tables
    transfers: TransferSources | None


class MovedIn(NamedTuple):
    """`end`: the journal's offset behind what was appended; `whole`: that is all, with nobody's record in between.

    `found`: did anybody say where the data are?
    """

    end: int
    whole: bool
    found: bool


async def check_moves(transfers: TransferSources | None, steps: Sequence[Step]) -> None:
    """Before anything is claimed: is there what these steps bring? Raises as `TransferSources.check`."""
    if transfers is not None:
        for step in steps:
            for namespace, _, _ in step.transferred:
                await transfers.check(step, namespace)


async def move_in(to: Destination, step: Step, namespace: str) -> MovedIn:
    """Append to the journal what its partition gets of a transferred class.

    Raises as `TransferSources.source`, and `OutcomeUnknown`.
    """
    transfers, tables = to.transfers, to.tables
    source = None if transfers is None else await transfers.source(step, namespace)
    own = await _own(to, namespace)
    now_ms = tables.meta.clock_ms
    entries: Iterable[Entry] = (
        moved(key, now_ms, clear=True) for key in objects_of(tables, namespace, "", None) if key not in own
    )
    if source is not None:
        entries = chain(entries, source.entries(tables.partition, own))
    end, whole = await _append_all(to, entries)
    if source is not None:
        told = {"partition": tables.partition, "namespace": namespace, "from": source.script}
        told |= {"objects": source.count(tables.partition), "own_that_stay": len(own)}
        _logger.info("objects have moved in", extra=told)
    return MovedIn(end, whole, source is not None)


async def _own(to: Destination, namespace: str) -> set[str]:
    """The objects there are of a namespace that commands have written to, and no such copy alone."""
    tables, found = to.tables, set[str]()
    if next(objects_of(tables, namespace, "", None), None) is None:
        return found
    async for chunk in to.log.read(Topic.JOURNAL, tables.partition, 0, tables.reader.offset):
        for each in chunk:
            record = decode_record(each.value)
            if not isinstance(record, EntryRecord) or record.entry.command == NO_COMMAND:
                continue
            key = record.entry.key
            if (
                key.startswith(f"{namespace}/")
                and key not in found
                and tables.counts(record.epoch, each.offset)
            ):
                found.add(key)
        await asyncio.sleep(0)
    return {key for key in found if is_there(tables, key)}


async def _append_all(to: Destination, entries: Iterable[Entry]) -> tuple[int, bool]:
    """Append these, batch by batch; the offset behind them, and whether nobody else's record came between.

    At such a one it ends: it may be a rival's claim.
    """
    position, name = to.tables.reader.position, to.tables.reader.name
    end, size = position.offset, 0
    batch: list[Record] = []

    async def append() -> bool:
        nonlocal end, size
        first = await append_alone(to.journal, name, end, batch)
        whole, end, size = first == end, first + len(batch), 0
        batch.clear()
        failpoints.hit("owner.moved_in")
        return whole

    for at, entry in enumerate(entries):
        encoded = encode_entry(entry)
        if batch and size + len(encoded) > BATCH_BYTES and not await append():
            return end, False
        value, link = encode_raw_entry(position.epoch, position.seq, encoded, position.chain)
        position = position._replace(seq=position.seq + 1, chain=link)
        batch.append(Record(entry.key.encode(), value))
        size += len(value)
        if at % YIELD_EVERY == 0:
            await asyncio.sleep(0)
    whole = not batch or await append()
    return end, whole
