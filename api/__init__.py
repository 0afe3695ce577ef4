"""The doors of a node: they turn requests into commands for objects, and return the answers.

A request passes `protocol` (its connection), `door` (which object it is for, and whether it is allowed) and
`gateway.py` (a command on the log, and the wait for its answer). `node.py` connects all parts of a node,
`server.py` runs one, and `cli` is the command line. `client` is for other programs and needs nothing of the
rest.

Laws
- Nothing here touches Kafka or RocksDB, and each package imports only those below it. pyproject.toml has
  their order.
- An error's code becomes an HTTP status in `problems.py` only.
"""
