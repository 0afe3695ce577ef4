"""What is known of the snapshots of a node's partitions: for metrics and alerts.

Counted where it happens; a node that has just begun to serve a partition looks up its newest snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SnapshotCounts:
    """The snapshots of one partition, by this node.

    `taken_ms`: when the newest good one was taken, by whichever node; None if there is none, or none is
    known yet. `bytes` and `rows` are its size. `seconds`: how long it took, `bytes_sent`: what was sent for
    all taken here. `verified_ms`: when the newest verified one was taken; known with `keep_journal` only.
    """

    taken_ms: int | None = None
    bytes: int = 0
    rows: int = 0
    seconds: float = 0.0
    bytes_sent: int = 0
    taken: int = 0
    failed: int = 0
    verified_ms: int | None = None
    verify_failed: int = 0
