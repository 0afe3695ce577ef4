"""State made from the log again: in parallel, checked, or for topics that were restored from a backup.

A node that finds no state, and `perdure state rebuild`, start processes that fold partitions side by side:
`coordinator.py` distributes the partitions, and each process runs `worker.py`. `verify.py` is `perdure
verify`, and `adopt_topics.py` is `perdure state adopt`.

Laws
- A partition comes from a worker whole or not at all; its owner folds what no worker delivered.
- `verify` changes nothing that lasts.
"""
