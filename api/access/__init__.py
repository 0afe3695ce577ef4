"""Access control: authentication, rights and quotas of requests.

Before the door reads more of a request than its head, it asks `guard.py`. The guard finds the principal of a
token, of a JSON Web Token (`jwts.py`, with the keys of `jwks.py`) or of a WebSocket's ticket (`tickets.py`),
and the right that the path needs. `quotas.py` counts the requests of each principal. `origins.py` refuses
requests from the web pages of other sites.

Laws
- Without tokens and without an issuer none of this runs, except for `origins.py`, and requests pay nothing
  for it.
- Everything is decided before the append, from the bytes that are then used.
- No answer says which part of a credential was wrong. [test_access.py]
"""
