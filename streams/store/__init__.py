"""The store: ordered bytes on disk, in which the tables of all partitions survive a restart.

`base.py` is the contract. `rocks.py` keeps it in RocksDB, without a write-ahead log; `memory.py` is its twin
for tests, with crashes on demand. A store may be deleted while its node is stopped: the journal has
everything, and the store only spares the replay.

Laws
- A write is all or nothing, and writes survive in order: after a crash there is a prefix of them.
  [contract/test_store.py]
- A store does not know what its rows mean.
"""
