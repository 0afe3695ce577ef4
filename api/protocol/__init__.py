"""Connections: requests are read from sockets here, and answers written to them.

uvicorn is the server; `http.py` is its protocol with the time-outs and limits that uvicorn lacks.
`fast_path.py` answers requests for objects without ASGI, and `authenticated.py` does the same where access is
guarded. `handshake.py` and `websocket.py` carry a WebSocket from its upgrade to its close. `transport.py`
joins writes into one system call.

Laws
- A slow, idle or broken connection harms only itself.
- A request that was read completely is answered, even if the server is ending. [test_direct_connections.py]
"""
