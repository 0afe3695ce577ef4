"""The log in memory, with the faults of a real one: for `perdure.testing` and the simulation.

A `MemoryBroker` (`broker.py`) is the log itself and outlives its clients; a `MemoryLog` (`log.py`) is the
client of one process. It behaves like the embedded log (`ordered`) or like Kafka, and delays, loses and
repeats what these may delay, lose and repeat.

Law: it keeps the same contract as the real logs. [tests/contract/test_log.py]
"""
