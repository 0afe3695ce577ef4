"""Turns: the commands of objects run here, one at a time for each object.

The owner hands over each command that it has read. `admission.py` decides whether the command still has to
run; `activation.py` holds the objects in memory, and `mailbox.py` the commands that wait for each;
`runner.py` begins a turn when its object and the node's run queue allow it; `inline_task.py` runs the
handler; `commit.py` turns the outcome into an entry for the journal. Calls to other objects are made in
`calls.py`. `ports.py` lists what turns and owners need from the rest of the process.

Laws
- One turn at a time for an object, in log order. A slow object delays only itself.
- A turn ends once, and what it did takes effect as a whole or not at all.
- Only the contracts of log and store are imported here, so no turn depends on which log it runs on.
"""
