"""Snapshots: the rows of a partition at one journal offset, kept outside the node.

A snapshot is a set of row files and a manifest, in a directory or an object store (`places.py`). It is taken
from the flushed state by a process beside the node (`worker.py`), and a node without state starts from it
(`restore.py`). Behind a verified snapshot the journal may be trimmed (`retention.py`).

Laws
- State = fold(journal): a snapshot holds the rows that a fold of the journal gives at its offset, and the
  tail folded on top of it gives the live rows. [test_snapshots.py]
- A manifest is written last: a snapshot that can be listed was complete. [test_snapshots.py]
- What a snapshot says of itself is checked against its bytes, the app and the journal before a row of it is
  used. [test_snapshots.py]
"""
