"""Projections: folds of the journal that users declare, kept in RocksDB by processes beside the nodes.

`worker.py` follows the journals and folds (`fold.py`) the partitions that this process has (`shares.py`) into
rows (`rows.py`); `reading.py` reads these in any process. What a user declares is objects/projection.py.
"""
