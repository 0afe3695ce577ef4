"""`perdure.connect`: calls to the objects of a running server from another program, with or without `await`.

`app.py` has the connection and `stubs.py` the objects. `attempts.py` decides, without I/O, whether a call is
tried again; both styles use it.

Law: it imports nothing of the server, so it runs where a server cannot. [the contract in pyproject.toml,
test_client.py]
"""
