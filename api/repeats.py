"""Requests that repeat all but their first line: known by their bytes, without parsing them again.

A client sends the same headers with each request of a connection. The parser and the calls that it makes cost a third of
a small read.

Laws
- Known is only what the parser took on this very connection: one whole read that was one whole request, with no
  word of upgrade, close, `Expect` or chunks. What follows its first line must come again byte for byte, but for the
  body, whose length the same bytes say.
- The first line is of the plainest form; whatever differs goes to the parser, which stands where a request begins.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from perdure.api.heads import Head

METHODS = {name.encode(): name for name in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")}
# one of these, a path of an object as RFC 3986 has it, and behind it the end of the line
FIRST_LINE = re.compile(
    rb"(" + b"|".join(METHODS) + rb") (/(?:objects|rpc)/[A-Za-z0-9._~%!$&'()*+,;=:@/?-]+) HTTP/1\.1(?=\r\n)"
)


class Repeated(NamedTuple):
    """What follows the first line of a request, up to its body, and what it says."""

    lines: bytes
    size: int  # of the body
    head: Head

    def body(self, data: bytes, at: int) -> bytes | None:
        """The body of a whole request whose first line ends at `at`; None if anything else differs."""
        end = at + len(self.lines)
        return data[end:] if len(data) == end + self.size and data.startswith(self.lines, at) else None


def repeated(data: bytes, head: Head) -> Repeated | None:
    """What to expect again, from a read that the parser took for one request with this head; None: nothing."""
    line = FIRST_LINE.match(data)
    if line is None or head.size is None:
        return None
    lines, end, _ = data[line.end() :].partition(b"\r\n\r\n")
    lines += end
    plain = lines.count(b"\r\n") == lines.count(b"\n") == lines.count(b"\r")
    if not plain or line.end() + len(lines) + head.size != len(data):
        return None
    return Repeated(lines, head.size, head)
