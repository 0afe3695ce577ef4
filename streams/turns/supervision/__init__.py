"""Supervision of handlers: a bad one is interrupted, named in the log, and parked if it kills its node.

`watchdog.py` interrupts turns that do not give the thread back. `crash_marker.py` keeps the running command
in a page of memory that outlives the process, so that a command which kills its process is parked after the
third time. `unawaited.py` fails a turn that forgot an `await`. `failure_log.py` writes the log line that
shows an author the place of an error. `internal_faults.py` handles errors of perdure's own.

Laws
- A turn that behaves pays next to nothing for its supervision.
- A fault of perdure's own fails one command or stops one partition, never the node. [test_internal_faults.py]
"""
