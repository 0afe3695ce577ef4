"""Rescaling: the state of a stopped app, copied to a log with another number of partitions.

`perdure rescale` folds the journals of the old log, writes what its objects hold to new journals as entries
without a command (`holdings.py`, `new_journal.py`), folds those from scratch and compares both object by
object (`compare.py`), and only then switches (`rescale.py`).

Laws [all: test_rescale.py]
- The old log is not changed, and is kept. Until the switch, which is one atomic step, it is the app's log: a
  process that dies before has changed nothing, and the next rescale begins again.
- Nothing waits on the old log: every command is done, and what it sent has arrived. Otherwise nothing is
  switched, and the error says what to do.
- No owner serves meanwhile. No code of the app runs.
"""
