"""Requests that repeat all but their first line, idempotency key and trace: known by their bytes, without parsing them again.

A client sends the same headers with each request of a connection. The parser and the calls that it makes cost a third of
a small read.

Laws
- Known is only what the parser took on this very connection: one whole read that was one whole request, with no
  word of upgrade, close, `Expect` or chunks. What follows its first line must come again byte for byte, but for the
  body, whose length the same bytes say, and for the values of `Idempotency-Key` and `traceparent`, if each is there once.
- The first line is of the plainest form; whatever differs goes to the parser, which stands where a request begins.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from perdure.api.http1.heads import TRACEPARENT_CHARS, Head, RawHeaders
from perdure.schemas.commands import MAX_CLIENT_KEY_CHARS

METHODS = {name.encode(): name for name in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")}
# one of these, a path of an object as RFC 3986 has it, and behind it the end of the line
FIRST_LINE = re.compile(
    rb"(" + b"|".join(METHODS) + rb") (/(?:objects|rpc)/[A-Za-z0-9._~%!$&'()*+,;=:@/?-]+) HTTP/1\.1(?=\r\n)"
)


# fields that differ from one request to the next, of the plainest form, up to the end of the line
_VARYING = re.compile(rb"\r\n(idempotency-key|traceparent):[ \t]*([!-~]+)(?=\r\n)", re.IGNORECASE)
_KEY = "idempotency-key"


class Varying(NamedTuple):
    """A field whose value may differ; it stands behind the bytes `before`, and at `at` in the headers of the head."""

    before: bytes
    name: str
    at: int


class CachedHead(NamedTuple):
    """What follows the first line of a request, up to its body, and what it says."""

    varying: tuple[Varying, ...]
    lines: bytes  # behind those
    size: int  # of the body
    head: Head

    def read(self, data: bytes, at: int) -> tuple[Head, bytes] | None:
        """Head and body of a whole request whose first line ends at `at`; None if anything else differs."""
        head = self.head
        if self.varying:
            found = self._varied(data, at)
            if found is None:
                return None
            head, at = found
        end = at + len(self.lines)
        if len(data) != end + self.size or not data.startswith(self.lines, at):
            return None
        return head, data[end:]

    def _varied(self, data: bytes, at: int) -> tuple[Head, int] | None:
        """The head with the values that stand here, and where the last of them ends."""
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
    """What to expect again, from a read that the parser took for one request with this head; None: nothing."""
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
    """True if these headers differ from those of the request before in nothing but what varies."""
    if before is None or len(headers) != len(before):
        return False
    return all(
        new == old or (new[0] == old[0] and new[0] in (b"idempotency-key", b"traceparent"))
        for new, old in zip(headers, before, strict=True)
    )
