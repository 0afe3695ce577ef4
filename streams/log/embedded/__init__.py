"""The embedded log: all topics and partitions in one RocksDB, with one group commit for all.

It is the log of a single node and runs in its process. A command is accepted as soon as it is in the open
batch (`write_batch.py`), and its turn runs at once. When the batch is sealed, the journal entries of these
turns are added behind their commands, and one write and one fsync (`fsync.py`) make both durable.
`records.py` defines how a record is stored, `tail.py` delivers accepted records to readers, and
`wal_check.py` checks at a start that the files end where the last acknowledged commit did.

Laws
- A commit is written only after the one before it was fsynced, so a crash can tear only the last one.
- No acknowledged write is lost in silence: a log that ends too early is refused. [test_acked.py]
"""
