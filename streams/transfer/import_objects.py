"""Import: the objects of another app's class, appended to this journal in front of the migration's step.

Laws
- An object is imported as entries without a command. What an interrupted copy left is cleared first, and the
  copy is made again from everything that is there then, until the migration's step is in the journal behind
  it. [tests/simulation]
- What this app wrote itself stays: of two objects with one name, this app's own is kept.
- Nothing is appended behind a rival's claim except the batch that met it, and the event loop runs between
  objects. [test_while_a_large_app_is_looked_through_the_loop_goes_on]
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
    """The partition that objects are imported into, and the apps they are imported from."""

    log: Log
    journal: Journal
    tables: Tables
    transfers: TransferSources | None


class MovedIn(NamedTuple):
    """The result of an import into one partition.

    end: the journal's offset behind what was appended.
    whole: True if all of it was appended, without a record of another owner in between.
    available: True if the other app is there.
    """

    end: int
    whole: bool
    available: bool


async def check_moves(transfers: TransferSources | None, steps: Sequence[Step]) -> None:
    """Check, before anything is claimed, that the classes of these steps are there.

    Raises as `TransferSources.check`.
    """
    if transfers is not None:
        for step in steps:
            for namespace, _, _ in step.transferred:
                await transfers.check(step, namespace)


async def move_in(to: Destination, step: Step, namespace: str) -> MovedIn:
    """Append to the journal the objects of a transferred class that belong to its partition.

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
        fields = {"partition": tables.partition, "namespace": namespace, "from": source.script}
        fields |= {"objects": source.count(tables.partition), "own_that_stay": len(own)}
        _logger.info("objects have moved in", extra=fields)
    return MovedIn(end, whole, source is not None)


async def _own(to: Destination, namespace: str) -> set[str]:
    """The existing objects of a namespace that commands of this app have written to.

    What was imported lies behind the newest snapshot: a partition serves, and is trimmed, only once all has
    moved in. So an object of which a trimmed journal has no record is this app's own.
    """
    tables, own, imported = to.tables, set[str](), set[str]()
    if next(objects_of(tables, namespace, "", None), None) is None:
        return own
    start = (await to.log.bounds(Topic.JOURNAL, tables.partition)).start
    async for chunk in to.log.read(Topic.JOURNAL, tables.partition, start, tables.reader.offset):
        for each in chunk:
            record = decode_record(each.value)
            if not isinstance(record, EntryRecord):
                continue
            key = record.entry.key
            kind = imported if record.entry.command == NO_COMMAND else own
            if (
                key.startswith(f"{namespace}/")
                and key not in kind
                and tables.counts(record.epoch, each.offset)
            ):
                kind.add(key)
        await asyncio.sleep(0)
    if start > 0:
        own.update(key for key in objects_of(tables, namespace, "", None) if key not in imported)
    return {key for key in own if is_there(tables, key)}


async def _append_all(to: Destination, entries: Iterable[Entry]) -> tuple[int, bool]:
    """Append the entries, batch by batch; returns the offset behind them, and True if all were appended.

    It ends at a record of another owner in between: that may be a rival's claim.
    """
    position, name = to.tables.reader.position, to.tables.reader.name
    end, size = position.offset, 0
    batch: list[Record] = []
    links, newest = to.tables.links, dict[str, int]()  # the offset of each object's newest entry here
    in_batch: dict[str, int] = {}  # the place in this batch of an object's newest entry

    async def append() -> bool:
        nonlocal end, size
        first = await append_alone(to.journal, name, end, batch)
        whole, end, size = first == end, first + len(batch), 0
        newest.update({key: first + at for key, at in in_batch.items()})
        in_batch.clear()
        batch.clear()
        failpoints.hit("owner.moved_in")
        return whole

    for at, entry in enumerate(entries):
        encoded = encode_entry(entry)
        if batch and size + len(encoded) > BATCH_BYTES and not await append():
            return end, False
        key, place = entry.key, len(batch)
        link = in_batch[key] - place if key in in_batch else newest.get(key) or links.newest(key)
        in_batch[key] = place
        value, hashed = encode_raw_entry(position.epoch, position.seq, encoded, position.chain, link=link)
        position = position._replace(seq=position.seq + 1, chain=hashed)
        batch.append(Record(entry.key.encode(), value))
        size += len(value)
        if at % YIELD_EVERY == 0:
            await asyncio.sleep(0)
    whole = not batch or await append()
    return end, whole
