"""Verification of a log: 1,000 random changes to a copy, each caught and named."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from random import Random

import msgspec
import pytest
from tests.unit.one_owner import OneOwner, story
from tests.unit.test_history import Thing

from perdure.objects.registry import Registry
from perdure.schemas.config import Config
from perdure.schemas.errors import LogCorrupt
from perdure.schemas.journal import EntryRecord, decode_record
from perdure.streams.audit.merkle import Tree, leaf_hash, record_leaf
from perdure.streams.audit.verifying import JournalCheck
from perdure.streams.log.base import Bounds, Headers, LogRecord, Stamped, Topic

MUTATIONS = 1_000
_decode = msgspec.msgpack.Decoder(tuple[int, bytes | None, bytes | None, Headers]).decode


class Copy:
    """A copy of one partition of a log, record by record, as bytes that a test changes."""

    exclusive = True
    partitions = 1

    def __init__(self, records: dict[Topic, list[bytes]]) -> None:
        self.records = records

    async def bounds(self, topic: Topic, partition: int) -> Bounds:
        return Bounds(0, len(self.records[topic]))

    async def since(self, topic: Topic, partition: int, time_ms: int) -> Stamped | None:
        return None

    async def read(
        self, topic: Topic, partition: int, start: int, end: int
    ) -> AsyncIterator[Sequence[LogRecord]]:
        for offset in range(start, min(end, len(self.records[topic]))):
            try:
                yield [LogRecord(offset, *_decode(self.records[topic][offset]))]
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise LogCorrupt(f"offset {offset} is unreadable: {error}") from error

    async def close(self) -> None:
        """Nothing is open."""


def copied() -> tuple[dict[Topic, list[bytes]], list[int]]:
    """The records of an app that has worked, and the offsets of commands that have entries."""
    kept: list[Copy] = []

    async def work(harness: OneOwner) -> None:
        harness.registry = Registry.build({"Thing": Thing}, Config())
        await harness.end()
        await harness.begin()
        for n in range(12):
            await harness.call("abc"[n % 3], "change", {"x": n, "y": n}, ["z"], n == 7)
        await harness.call("a", "tell", "b")
        harness.append_raw(b"Thing/a", b"no call")
        await harness.until(lambda: harness.owner.idle)
        kept.append(
            Copy({topic: [record_leaf(each) for each in await harness.records(topic)] for topic in Topic})
        )

    story(Thing, work)
    records = kept[0].records
    decoded = (decode_record(_decode(each)[2]) for each in records[Topic.JOURNAL])
    return records, [each.entry.command for each in decoded if isinstance(each, EntryRecord)]


async def check(records: dict[Topic, list[bytes]], root: bytes, size: int) -> None:
    """Raises `LogCorrupt` if the copy is not the log of which a checkpoint has the root."""
    log = Copy(records)
    checking = JournalCheck(log, 0)
    await checking.run(len(records[Topic.JOURNAL]))
    tree = Tree()
    for each in records[Topic.JOURNAL][:size]:
        tree.append(leaf_hash(each))
    if tree.size < size or tree.root() != root:
        raise LogCorrupt("the journal is not that of the checkpoint")


def mutated(records: list[bytes], allowed: Sequence[int], kind: str, random: Random) -> list[bytes]:
    """The records with one change."""
    changed, at = list(records), random.choice(allowed)
    if kind == "flipped":
        damaged = bytearray(changed[at])
        damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
        changed[at] = bytes(damaged)
    elif kind == "removed":
        del changed[at]
    elif kind == "reordered":
        other = random.choice([each for each in allowed if records[each] != records[at]])
        changed[at], changed[other] = changed[other], changed[at]
    elif kind == "inserted":
        changed.insert(at, records[random.choice(allowed)])
    else:
        changed[at] = changed[at][: random.randrange(len(changed[at]))]
    return changed


def test_every_change_to_a_copy_of_the_log_is_found() -> None:
    """A flipped bit, a removed, reordered, inserted or truncated record: all caught."""
    records, with_entry = copied()
    journal = records[Topic.JOURNAL]
    tree = Tree()
    for each in journal:
        tree.append(leaf_hash(each))
    asyncio.run(check(records, tree.root(), len(journal)))
    random, caught = Random(7), Counter[str]()
    for _ in range(MUTATIONS):
        kind = random.choice(("flipped", "removed", "reordered", "inserted", "truncated"))
        topic = random.choice((Topic.JOURNAL, Topic.JOURNAL, Topic.COMMANDS))
        allowed = range(len(journal)) if topic is Topic.JOURNAL else with_entry
        if topic is Topic.COMMANDS and kind in ("removed", "inserted"):
            allowed = with_entry[:-1]  # one at the end moves no other
        changed = mutated(records[topic], allowed, kind, random)
        if topic is Topic.COMMANDS and [_part(each) for each in changed] == [
            _part(each) for each in records[topic]
        ]:
            continue  # the stamp of a command is not in its entry's hash
        with pytest.raises(LogCorrupt):
            asyncio.run(check({**records, topic: changed}, tree.root(), len(journal)))
        caught[f"{kind} {topic.value}"] += 1
    assert len(caught) == 10
    assert sum(caught.values()) > MUTATIONS * 0.9


def _part(packed: bytes) -> object:
    try:
        return _decode(packed)[1:]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return packed


def test_what_is_wrong_is_named() -> None:
    """The first record that is wrong, and why: its chain, its command, its link or its key."""
    records, with_entry = copied()
    reasons = []
    for topic, change in (
        (Topic.JOURNAL, lambda each: each.replace(b"\xa2ok", b"\xa2no", 1)),
        (Topic.COMMANDS, lambda each: each.replace(b"change", b"chance")),
        (Topic.JOURNAL, lambda each: each.replace(b"\xc4\x07Thing/a", b"\xc4\x07Thing/q", 1)),
    ):
        changed = list(records[topic])
        at = next(n for n, each in enumerate(changed) if change(each) != each)
        changed[at] = change(changed[at])
        with pytest.raises(LogCorrupt) as caught:
            asyncio.run(JournalCheck(Copy({**records, topic: changed}), 0).run(len(records[Topic.JOURNAL])))
        reasons.append(str(caught.value))
    assert "hash chain is broken" in reasons[0]
    assert "is not the one that it was made of" in reasons[1]
    assert "is filed under b'Thing/q'" in reasons[2]
    assert all(each.startswith("journal of partition 0 at offset ") for each in reasons)
    assert with_entry
