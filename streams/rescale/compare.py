"""Compares what the old and the new log hold, both folded: object by object, then every other row.

Law: a difference in anything that was to be copied is found. [test_each_kind_of_difference_is_found]
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from perdure.schemas.admin import OF_ALARM, Place
from perdure.schemas.errors import StoreCorrupt
from perdure.schemas.keys import partition_of
from perdure.streams.rescale.holdings import keys_of, own_steps
from perdure.streams.state.tables import Tables

YIELD_EVERY = 256
_encode = msgspec.msgpack.Encoder().encode


class EqualCounts(NamedTuple):
    """The counts of a comparison that found no difference."""

    objects: int
    client_keys: int
    parked: int


async def compare(old: Sequence[Tables], new: Sequence[Tables]) -> EqualCounts:
    """Compare two sets of partitions. Raises `StoreCorrupt` naming the first difference."""
    objects = keys = 0
    for tables in old:
        for key in keys_of(tables):
            home = new[partition_of(key, len(new))]
            if digest(tables, key) != digest(home, key):
                raise _differs(f"object {key}")
            objects += 1
            if objects % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        for what, row in _other_rows(tables, new):
            if not row:
                raise _differs(what)
            keys += 1
            if keys % YIELD_EVERY == 0:
                await asyncio.sleep(0)
    there = sum(1 for tables in new for _ in keys_of(tables))
    if there != objects:
        raise _differs(f"the number of objects ({objects} and {there})")
    for name, of in (("creators", _creators), ("pauses", _paused), ("parked commands and alarms", _parked)):
        if of(old) != of(new):
            raise _differs(name)
    for tables in new:
        if tables.steps != own_steps(old[0]):
            raise _differs(f"the migrations of partition {tables.partition}")
    return EqualCounts(objects, keys, _parked(new).total())


def digest(tables: Tables, key: str) -> bytes:
    """The hash of an object's values, alarms and WebSockets."""
    hashed = blake2b(digest_size=16)
    for name, value in tables.values.scan(key, "", None):
        hashed.update(_encode((name, value)))
    for name, row in sorted(tables.alarms.of(key).items()):
        hashed.update(_encode((name, msgspec.structs.astuple(msgspec.structs.replace(row, set_at=0)))))
    for id_, socket in sorted(tables.sockets.of(key).items()):
        hashed.update(_encode((id_, socket)))
    return hashed.digest()


def _other_rows(tables: Tables, new: Sequence[Tables]) -> Iterator[tuple[str, bool]]:
    """For each spent client key and kept call its name, and True if the new partition has the same."""
    for spent in tables.spent_keys.all():
        home = new[partition_of(spent.key, len(new))]
        there = home.spent_keys.get(spent.key, spent.principal, spent.client_key)
        same = there is not None and (there.payload_hash, there.reply) == (
            spent.row.payload_hash,
            spent.row.reply,
        )
        yield f"a client key of {spent.key}", same
    for call, kept in tables.answered_calls.kept():
        answered = new[partition_of(kept.key, len(new))].answered_calls.get(call)
        yield (
            f"an answered call of {kept.key}",
            answered is not None
            and (answered.payload_hash, answered.reply) == (kept.payload_hash, kept.reply),
        )


def _creators(partitions: Sequence[Tables]) -> set[tuple[str, str]]:
    return {pair for tables in partitions for pair in tables.creators.all()}


def _paused(partitions: Sequence[Tables]) -> dict[str, tuple[int, str]]:
    rows = (item for tables in partitions for item in tables.admin.paused.items())
    return {key: (row.since_ms, row.principal) for key, row in rows}


def _parked(partitions: Sequence[Tables]) -> Counter[bytes]:
    return Counter(
        _encode(item) for tables in partitions for _, item in tables.admin.all_parked(Place(OF_ALARM, 0))
    )


def _differs(what: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"the copy differs from the original in {what}: nothing was switched, the app is as it was. Keep both and "
        "report this"
    )
