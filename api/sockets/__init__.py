"""The WebSockets of a gateway: connections stay here while their objects leave memory or move.

`registry.py` knows the open sockets, sends their events to the log, and passes on the frames that objects
send. `relay.py` handles an upgrade that the Worker passes on to an object. The connection itself is in
api/protocol/websocket.py.

Laws
- A frame reaches only sockets of the object that sent it, once and in order.
- An object learns of the end of each of its sockets. [test_gateway_sockets.py]
"""
