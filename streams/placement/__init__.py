"""Placement: which node of an app serves which partition, on a log that nodes share.

Each node adds a heartbeat (`beats.py`) to the log once a second. All nodes read the same heartbeats in the
same order, hold the same list of members (`members.py`), and compute the same assignment from it (`plan.py`);
there is no leader. `membership.py` sends and reads the heartbeats, `placement.py` acts on the assignment for
this node: it takes partitions, keeps others warm (`follower.py`), and hands over those that are to move.

Laws
- Placement only proposes. The claim in a partition's journal decides who serves it, so a wrong or late
  heartbeat can cost time, and never a second owner whose answers count.
- No two clocks are compared: a member is gone when another one has counted `SILENT_TICKS` of its own seconds
  since that member's last heartbeat on the log.
"""
