"""The HTTP door: it finds the object that a request is for, and writes the response.

`http.py` splits the path, asks the guard, and hands a command to the gateway. The reply becomes a response,
or an error as problem+json. `async_commands.py` answers requests that do not wait (`Prefer: respond-async`)
and `GET /commands/{id}`.

Laws
- A path has one spelling, and a request over a limit is refused before it is read to its end.
- Connections are unknown here: a request comes from `protocol`, complete or by ASGI.
"""
