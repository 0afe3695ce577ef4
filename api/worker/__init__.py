"""The Worker: an app's own `fetch(request, env)` in front of its objects.

It runs for each path that belongs neither to an object nor to perdure (`worker.py`), and calls objects or
answers by itself. `outgoing.py` is the HTTP client that Workers and handlers share.

Law: a Worker is not a turn. Nothing of it is journaled, and what it sent is durable before its response
leaves.
"""
