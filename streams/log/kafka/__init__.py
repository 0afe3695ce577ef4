"""The log on Apache Kafka: four topics, which other programs may read and write too.

Appends go through one producer per node (`producer.py`), with a queue for each partition (`queues.py`). Reads
are one long poll per broker (`tails.py`) or bounded (`reads.py`). `topics.py` creates and checks the topics,
`topic_watch.py` watches them while the node runs, and `probe.py` finds out why a broker does not answer. Only
`clients.py`, `wire.py` and `metadata.py` depend on internals of aiokafka.

Laws
- A record is accepted, and durable, once `min.insync.replicas` brokers have it. Reads are `read_committed`.
- An append with an unknown outcome ends the producer and all its writers, so that each partition is claimed
  again.
- aiokafka is imported in this package only.
"""
