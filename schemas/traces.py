"""Trace context as it travels: W3C `traceparent`, `00-{trace id}-{span id}-{flags}`."""

from __future__ import annotations

import re
from typing import NamedTuple

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)


class Traceparent(NamedTuple):
    """The trace of a request and the span that sent it. Identifiers are hexadecimal digits."""

    trace_id: str
    span_id: str
    flags: int

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


def parse_traceparent(text: str) -> Traceparent | None:
    """The trace context in `text`; None if it is not valid, as any client may send anything."""
    match = _TRACEPARENT.fullmatch(text)
    return None if match is None else Traceparent(match[1], match[2], int(match[3], 16))
