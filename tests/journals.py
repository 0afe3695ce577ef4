"""Journals without a node: what owners would have written, for tests and benches of readers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from rocksdict import WriteBatch

from perdure.schemas.journal import (
    Claim,
    Entry,
    EntryRecord,
    Header,
    LinkedRecord,
    chain_after_claim,
    encode_chained,
    encode_unchained,
)
from perdure.schemas.replies import Reply
from perdure.schemas.values import encode_value
from perdure.streams.journal.reader import START, Position
from perdure.streams.log.base import Topic
from perdure.streams.log.embedded.acked_page import Acked
from perdure.streams.log.embedded.records import Rows, encode, open_or_create


def entry(
    key: str, values: dict[str, object], *, time_ms: int = 1_000, outcome: str = "ok", **more: object
) -> Entry:
    """An entry of a turn of `key` that put `values`."""
    puts = {name: encode_value(name, value) for name, value in values.items()}
    made = Entry(
        0, key, time_ms, outcome, Reply(outcome, 200, (), b'{"result":1}'), puts, summary="call increment "
    )
    return msgspec.structs.replace(made, **more)


class JournalWriter:
    """The values of one journal partition, record by record, from its header on."""

    def __init__(self, partition: int = 0, partitions: int = 1) -> None:
        self.values: list[bytes] = [encode_unchained(Header("app", "uuid", partition, partitions))]
        self.position = START._replace(offset=1)

    def claim(self, node: str = "n") -> None:
        """A node takes the partition."""
        offset, value = len(self.values), encode_unchained(Claim(node, node))
        self.values.append(value)
        self.position = Position(offset + 1, offset, 0, chain_after_claim(self.position.chain, offset, value))

    def add(self, record: LinkedRecord) -> int:
        """A record of the owner, whose epoch and seq are set here; returns its offset."""
        offset, epoch, seq, chain = self.position
        value, chain = encode_chained(msgspec.structs.replace(record, epoch=epoch, seq=seq), chain)
        self.values.append(value)
        self.position = Position(offset + 1, epoch, seq + 1, chain)
        return offset

    def entry(self, made: Entry) -> int:
        """An entry; returns its offset."""
        return self.add(EntryRecord(0, 0, made))

    def void(self) -> None:
        """A record of an epoch that has ended, which does not count."""
        made = EntryRecord(self.position.epoch - 1, 0, entry("Counter/void", {"count": 999}))
        self.values.append(encode_chained(made, self.position.chain)[0])
        self.position = self.position._replace(offset=self.position.offset + 1)


def embedded(path: Path, journals: Sequence[Sequence[bytes]], start: Sequence[int] = ()) -> None:
    """Write the values of journals to the embedded log in `path`, each from `start` on, all acknowledged."""
    database, _ = open_or_create(path, len(journals), False)
    for partition, values in enumerate(journals):
        rows, first = Rows(database, path, Topic.JOURNAL, partition), start[partition] if start else 0
        for low in range(first, len(values), 10_000):
            batch = WriteBatch(raw_mode=True)
            for offset in range(low, min(low + 10_000, len(values))):
                batch.put(rows.key(offset), encode((1_000, None, values[offset], ())))
            database.write(batch)
    database.flush(True)
    acked = Acked(path)
    acked.store(database.latest_sequence_number())
    acked.close()
    database.close()


def counting(entries: int, objects: int, partition: int = 0, partitions: int = 1) -> Iterator[bytes]:
    """A journal of `entries` increments of so many counters."""
    writer = JournalWriter(partition, partitions)
    writer.claim()
    for number in range(entries):
        key = f"Counter/n{number % objects}"
        writer.entry(
            entry(
                key, {"count": number // objects + 1}, time_ms=1_700_000_000_000 + number, id=f"{number:032x}"
            )
        )
        yield from writer.values
        writer.values.clear()
