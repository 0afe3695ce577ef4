"""Consumer groups of the classic protocol: their members, generations and committed offsets.

`group.py` is one group, `coordinator.py` has all of them, `offsets.py` what they committed. Members are known
to this process alone: after a restart they join again, as they do when a broker fails over. Committed offsets
are on the log.
"""
