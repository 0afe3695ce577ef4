"""The limit loop: the smallest Python program that keeps perdure's promise for a counter.

Decode, handler, journal, group commit with fsync, reply; nothing else. What it reaches is the limit of this
language on this machine. Run it as `python -m bench.peers.limit PORT DIRECTORY`.
"""
