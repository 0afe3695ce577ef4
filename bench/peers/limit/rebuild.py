"""`python -m bench.peers.limit.rebuild LOG PARTITIONS DIRECTORY`: the smallest
rebuild with perdure's promise.

Reads perdure's journal from its RocksDB log, checks the chain, decodes each record, and puts the values into
a RocksDB in DIRECTORY, 500 rows a batch, each batch with the place that it leads to; prints how many records
there were.

Laws
- A broken chain, and with it a record that is missing in the middle, ends it, as it ends perdure.
- Nothing else of a record is looked at: no ownership, no client keys, no alarms, no marks. So it is for
  counters only.
"""

from __future__ import annotations

import gc
import sys
from hashlib import blake2b
from pathlib import Path

import msgspec
from rocksdict import AccessType, Options, Rdict, ReadOptions, WriteBatch, WriteOptions

from perdure.schemas.journal import CHAIN_BYTES, NO_CHAIN, EntryRecord, JournalRecord

BATCH_ROWS = 500
HEADER, CLAIM = 0, 1  # the tags of records without a chain of their own

_row = msgspec.msgpack.Decoder(tuple[int, bytes | None, bytes, tuple[tuple[str, bytes], ...]]).decode
_record = msgspec.msgpack.Decoder(JournalRecord).decode


def rebuild(log: Rdict, partition: int, store: Rdict) -> int:
    """Fold one partition's journal into `store`; how many records it had."""
    place = partition.to_bytes(2, "big")
    bounds, unlogged = ReadOptions(), WriteOptions()
    bounds.set_iterate_upper_bound(b"j" + (partition + 1).to_bytes(2, "big"))
    unlogged.disable_wal = True  # type: ignore[method-assign, assignment]  # its stub is wrong: an attribute
    batch, chain, offset = WriteBatch(raw_mode=True), NO_CHAIN, 0
    for _, _, value, _ in map(_row, log.values(from_key=b"j" + place, read_opt=bounds)):
        if value[2] == CLAIM:
            chain = blake2b(chain + offset.to_bytes(8, "big") + value, digest_size=CHAIN_BYTES).digest()
        elif value[2] != HEADER:
            before, chain = chain, value[-CHAIN_BYTES:]
            if blake2b(before + value[:-CHAIN_BYTES], digest_size=CHAIN_BYTES).digest() != chain:
                raise SystemExit(f"partition {partition}, offset {offset}: the chain is broken")
            record = _record(value[1:-CHAIN_BYTES])
            if isinstance(record, EntryRecord):
                row = b"v" + place + record.entry.key.encode() + b"\0"
                for name, put in record.entry.puts.items():
                    batch.put(row + name.encode(), put)
        offset += 1
        if len(batch) >= BATCH_ROWS:
            _write(store, batch, place, offset, unlogged)
            batch = WriteBatch(raw_mode=True)
    _write(store, batch, place, offset, unlogged)
    return offset


def _write(store: Rdict, batch: WriteBatch, place: bytes, offset: int, unlogged: WriteOptions) -> None:
    batch.put(b"m" + place, offset.to_bytes(8, "big"))
    store.write(batch, unlogged)


def main(log: Path, partitions: int, directory: Path) -> None:
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    source = Rdict(str(log), Options(raw_mode=True), access_type=AccessType.read_only())
    store = Rdict(str(directory), options)
    print(sum(rebuild(source, partition, store) for partition in range(partitions)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
