"""State: the tables of a partition, a fold of its journal.

Once an entry is durable, it is folded into the `Tables` of its partition (`tables.py`): values, alarms,
sockets, spent client keys, answered calls, and which commands are done. Folded rows wait in memory
(`memtables.py`) and are written to the store later; reads see both. Outside an owner the same fold
checks and rebuilds state (`fold.py`).

Laws
- The same journal gives the same rows, byte for byte, on every machine. No code of the app runs in a fold.
- No I/O except the store's, and no clock: time comes from the journal.
- Each kind of row has one module that defines its key and its value; `rows.py` defines where each kind is
  kept.
"""
