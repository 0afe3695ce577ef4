"""Projections beside the smallest fold of one's own: records per second of processor time, as a ratio.

    python -m bench.projections [RECORDS]

The journal of 8 partitions is made in a Kafka of its own; each side folds it to the end: turns by namespace,
and the last value of each counter. `plain` is aiokafka and rocksdict in 40 lines; `built in` is what `perdure
project` does.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import rocksdict
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import TopicPartition
from tests.journals import counting
from tests.kafka import LocalKafka

import perdure
from perdure.schemas.journal import EntryRecord
from perdure.streams.journal.reader import START, JournalReader
from perdure.streams.log.kafka.following import KafkaFollowing
from perdure.streams.projections.worker import ProjectionWorker

PARTITIONS = 8
pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode


@perdure.projection(version=1)
def both(turn: perdure.TurnEntry, table: perdure.Table[int]) -> None:
    """Turns of each namespace, and the last value of each counter."""
    table["namespace/" + turn.namespace] += 1
    count = turn.get("count")
    if count is not None:
        table[turn.name] = count


async def fill(brokers: str, records: int) -> None:
    """Make the four topics, and a journal of so many records."""
    producer: Any = AIOKafkaProducer(bootstrap_servers=brokers, linger_ms=20, max_batch_size=1 << 20)
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    names = [f"app.{each}" for each in ("commands", "journal", "replies", "dead")]
    await admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names])
    await admin.close()
    await producer.start()
    for partition in range(PARTITIONS):
        for value in counting(records // PARTITIONS, 500, partition, PARTITIONS):
            await producer.send("app.journal", value, partition=partition)
    await producer.stop()


class Plain:
    """The smallest fold that is exact: position and rows in one batch."""

    def __init__(self, database: Any, partition: int) -> None:
        self.database, self.partition, self.rows = database, partition, dict[bytes, bytes]()
        held = database.get(b"p%03d" % partition)
        self.reader = JournalReader("journal", START if held is None else START._make(unpack(held)))

    def take(self, offset: int, value: bytes) -> None:
        record = self.reader.step(offset, value)
        if type(record) is EntryRecord:
            namespace, _, name = record.entry.key.partition("/")
            key = b"n%03d%s" % (self.partition, namespace.encode())
            self.rows[key] = pack(unpack(self.rows.get(key) or self.database.get(key) or b"\0") + 1)
            if "count" in record.entry.puts:
                self.rows[b"c%03d%s" % (self.partition, name.encode())] = record.entry.puts["count"]

    def write(self, batch: Any) -> None:
        for key, value in self.rows.items():
            batch.put(key, value)
        batch.put(b"p%03d" % self.partition, pack(self.reader.position))
        self.rows.clear()


async def plain(brokers: str, folder: Path) -> None:
    """Fold to the end with aiokafka and rocksdict."""
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    database = rocksdict.Rdict(str(folder), options)
    consumer: Any = AIOKafkaConsumer(
        bootstrap_servers=brokers, enable_auto_commit=False, max_partition_fetch_bytes=4 << 20
    )
    await consumer.start()
    places = [TopicPartition("app.journal", each) for each in range(PARTITIONS)]
    folds = {place: Plain(database, place.partition) for place in places}
    consumer.assign(places)
    await consumer.seek_to_beginning(*places)
    ends = await consumer.end_offsets(places)
    while any(folds[place].reader.offset < ends[place] for place in places):
        batch = rocksdict.WriteBatch(raw_mode=True)
        for place, messages in (await consumer.getmany(timeout_ms=200, max_records=2000)).items():
            for message in messages:
                folds[place].take(message.offset, message.value)
            folds[place].write(batch)
        database.write(batch)
    await consumer.stop()
    database.close()


async def built_in(brokers: str, folder: Path) -> None:
    """Fold to the end as `perdure project` does."""
    log = KafkaFollowing(brokers, "app", PARTITIONS, client_id="bench")
    await log.start()
    await ProjectionWorker([both], log, folder).run(until_end=True)
    await log.close()


def main() -> None:
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    with tempfile.TemporaryDirectory() as folder:
        kafka = LocalKafka(Path(folder) / "kafka")
        asyncio.run(fill(kafka.bootstrap, records))
        rates: dict[str, list[float]] = {"plain": [], "built in": []}
        for turn in range(3):
            for name, side in (("plain", plain), ("built in", built_in)):
                began_s, cpu_s = time.perf_counter(), time.process_time()
                asyncio.run(side(kafka.bootstrap, Path(folder) / f"{name}-{turn}"))
                cpu_s, took_s = time.process_time() - cpu_s, time.perf_counter() - began_s
                rates[name].append(records / cpu_s)
                print(
                    f"{name}: {records / took_s:,.0f} records/s, {records / cpu_s:,.0f} by processor time",
                    flush=True,
                )
        kafka.stop()
        best = {name: max(each) for name, each in rates.items()}
        print(f"built in / plain: {best['built in'] / best['plain']:.2f}")


if __name__ == "__main__":
    main()
