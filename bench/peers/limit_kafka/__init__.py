"""The limit loop on Kafka: the smallest Python program that keeps perdure's promise for a counter there.

Command, owner, journal, reply, over one producer and one consumer for all partitions: of all arrangements the
one with the fewest requests to the broker. Run it as `python -m bench.peers.limit_kafka PORT BOOTSTRAP`.
"""
