"""`perdure.testing`: the objects of an app in a test, on virtual time, with the real owner.

`world.py` has the world of a test, and its docstring shows how to write one. `stubs.py` has objects as a test
calls them, and `sockets.py` has WebSockets as a client sees them.

Law: nothing here decides what an object does. Calls go through a gateway, a log and an owner, as in a server.
"""
