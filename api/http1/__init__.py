"""HTTP/1.1 requests from bytes, by RFC 9112. No I/O.

`heads.py` reads the head of a request, `parser.py` splits the bytes of a connection into heads and bodies,
and `head_cache.py` recognizes a head that was seen before by its bytes.

Law: what RFC 9112 calls invalid is refused, never repaired, so that no proxy reads a request differently.
[test_http1.py]
"""
