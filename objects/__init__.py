"""The programming model: the classes that an author uses, and one turn of an object.

`durable.py` has the base class, `state.py` the storage of an object, `stubs.py` other objects, `sockets.py`
WebSockets. `turn.py` is one turn as a function: from a command, a class and ports to its effects. The
packages of `streams` run it and make its effects durable.

Law: no I/O and no clock. A turn gets time, ids and randomness from its owner only.
"""
