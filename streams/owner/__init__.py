"""The owner of a partition: it alone runs the commands, and this is what it does around turns.

`owner.py` reads commands, hands them to the turns, and journals what they did. `recovery.py` is the one way
in which an owner begins: it reads the journal, claims it, and continues what was left unfinished. `output.py`
is the gate through which all replies and messages leave. `alarm_clock.py` appends a command for each alarm
that is due, `maintenance.py` flushes the store and trims the log, and `fence_check.py` detects the claim of a
rival.

Laws
- Nothing leaves before everything that it was computed from is durable under this owner's claim.
- An owner that is fenced, or unsure of its claim, drops all objects and answers nothing more.
- A partition that fails stops alone.
"""
