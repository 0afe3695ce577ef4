"""SQL: questions over all objects and all records of an app, answered by DuckDB over Arrow.

`query.py` runs a question in a database of its own, for which it makes the tables that the question names
(`columns.py`): entries and commands from the log, kept as Parquet files (`pieces.py`), and state, alarms,
sockets, parked and partitions from a fold of the journal (`state_at.py`). `worker.py` does it in a process
beside a node.

Laws
- Nothing of the app is changed, and no question reaches files, the network, or the settings of the database.
  [test_sql.py]
- What is secret is masked, as in everything that reads the log (streams/audit/). [test_sql.py]
"""
