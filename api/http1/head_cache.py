"""Recognizes a head by its bytes, without parsing it again, if only first line, idempotency key and trace
differ.

Most clients send the same headers with each request of a connection. The parser and its callbacks cost a
third of a small read; `fast_path.py` first compares the bytes with the `CachedHead` of the previous request.

Laws [test_head_cache.py]
- A head is cached only after the parser accepted it on the same connection: one read that was one complete
  request, without upgrade, close, `Expect` or chunks. All bytes after its first line must repeat, except for
  the body, whose length those bytes state, and for the values of `Idempotency-Key` and `traceparent`, if each
  is there once.
- The first line has the plainest form. Any other request goes to the parser, which is at the start of a
  request.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from perdure.api.http1.heads import TRACEPARENT_CHARS, Head, RawHeaders
from perdure.schemas.commands import MAX_CLIENT_KEY_CHARS

METHODS = {name.encode(): name for name in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")}
# one of these methods, a path of an object by RFC 3986, and the end of the line after it
FIRST_LINE = re.compile(
    rb"(" + b"|".join(METHODS) + rb") (/(?:objects|rpc)/[A-Za-z0-9._~%!$&'()*+,;=:@/?-]+) HTTP/1\.1(?=\r\n)"
)


# fields that differ from one request to the next, of the plainest form, up to the end of the line
_VARYING = re.compile(rb"\r\n(idempotency-key|traceparent):[ \t]*([!-~]+)(?=\r\n)", re.IGNORECASE)
_KEY = "idempotency-key"


class Varying(NamedTuple):
    """A field whose value may differ: it follows the bytes `before`, and is header number `at`."""

    before: bytes
    name: str
    at: int


class CachedHead(NamedTuple):
    """The bytes of a head after its first line, and the `Head` that they were parsed to."""

    varying: tuple[Varying, ...]
    lines: bytes  # after the varying fields
    size: int  # of the body
    head: Head

    def read(self, data: bytes, at: int) -> tuple[Head, bytes] | None:
        """Head and body of a complete request whose first line ends at `at`; None if the head differs."""
        varying, lines, size, head = self
        if varying:
            varied = self._varied(data, at)
            if varied is None:
                return None
            head, at = varied
        end = at + len(lines)
        if len(data) != end + size or not data.startswith(lines, at):
            return None
        return head, data[end:]

    def _varied(self, data: bytes, at: int) -> tuple[Head, int] | None:
        """The head with the values in `data`, and the end of the last of them."""
        headers, client_key, traceparent, size, principal = self.head
        pairs = list(headers)
        for before, name, place in self.varying:
            if not data.startswith(before, at):
                return None
            start = at + len(before)
            at = data.find(b"\r\n", start)
            value = data[start:at]
            if at <= start or not value.isascii():
                return None
            text = value.decode("ascii")
            if not text.isprintable() or " " in text:
                return None
            pairs[place] = name, text
            if name != _KEY:
                traceparent = text[:TRACEPARENT_CHARS]
            elif len(text) > MAX_CLIENT_KEY_CHARS:
                return None
            else:
                client_key = text
        # as `Head(…)`, at a third of its cost
        return tuple.__new__(Head, (tuple(pairs), client_key, traceparent, size, principal)), at


def cached_head_of(data: bytes, head: Head) -> CachedHead | None:
    """The head to recognize, from the bytes of a request that was read as `head`; None: do not cache it."""
    line = FIRST_LINE.match(data)
    if line is None or head.size is None:
        return None
    lines, end, _ = data[line.end() :].partition(b"\r\n\r\n")
    lines += end
    plain = lines.count(b"\r\n") == lines.count(b"\n") == lines.count(b"\r")
    if not plain or line.end() + len(lines) + head.size != len(data):
        return None
    varying, at = [], 0
    names = [name for name, _ in head.headers]
    for field in _VARYING.finditer(lines):
        name = field[1].decode("ascii").lower()
        if names.count(name) != 1:
            return None
        varying.append(Varying(lines[at : field.start(2)], name, names.index(name)))
        at = field.end()
    return CachedHead(tuple(varying), lines[at:], head.size, head)


def alike(headers: RawHeaders, before: RawHeaders | None) -> bool:
    """True if these headers differ from the previous ones only in the values of varying fields."""
    if before is None or len(headers) != len(before):
        return False
    return all(
        new == old or (new[0] == old[0] and new[0] in (b"idempotency-key", b"traceparent"))
        for new, old in zip(headers, before, strict=True)
    )
