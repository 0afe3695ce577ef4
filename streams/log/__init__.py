"""The log: one contract in `base.py`, kept by three implementations.

The way of a command begins and ends here. A door appends it to `commands`, the owner of its partition reads
it from a tail, and what its turn did is appended to `journal`. All other packages know only `base.Log`; the
configuration decides which log it is (streams/opening.py). `embedded` keeps all topics in one RocksDB inside
the node, `kafka` in an Apache Kafka cluster, and `memory` in the process, for tests and the simulation.
`log_time.py` turns the stamps of any log into the time that turns see.

Laws
- The three behave alike as far as `base.py` promises. [tests/contract/test_log.py runs against each]
- No implementation imports another, and nothing here knows objects, state or turns.
- Only `kafka` imports aiokafka, and only `embedded` imports RocksDB.
"""
