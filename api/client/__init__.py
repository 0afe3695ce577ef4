"""`perdure.connect`: calls to the objects of a running server from another program, with or without `await`.

`app.py` has the connection and `stubs.py` the objects. `requests.py` builds the HTTP request of a call,
`attempts.py` decides, without I/O, whether it is sent again, and `answers.py` turns the answer into a result
or an error.

Law: it imports nothing of the server, so it runs where a server cannot. [the contract in pyproject.toml,
test_client.py]
"""
