"""The expiry sweep: removes the rows of expired values, in a turn of the object that an alarm starts.

Laws
- A value is removed only if it expires at the time in its hidden name: one that was put again since stays.
  [test_ttl.py]
- One sweep fits into one turn, whatever the names are; the next one removes the rest. [test_ttl.py]
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from perdure.objects.listing import MAX_LISTED
from perdure.schemas.expiry import HIDDEN, HIDDEN_END, expiry_of, hidden_name, parse_hidden

if TYPE_CHECKING:
    from perdure.objects.listing import Rows
    from perdure.objects.overlay import Overlay, TurnLimits


class ExpirySweep:
    """The part of `self.state` that removes what has expired."""

    __slots__ = ()

    if TYPE_CHECKING:
        _limits: TurnLimits
        _now_ms: int

        def _writable(self) -> Overlay: ...

        def _rows(self, low: str, high: str | None, reverse: bool) -> Rows: ...

        def _lookup(self, name: str) -> bytes | None: ...

    def sweep(self, limit: int = MAX_LISTED) -> int | None:
        """Remove the rows of values that have expired, at most `limit`, the earliest first.

        A value that was put again since, with another expiration or none, stays. Returns when the next one
        that remains expires, in ms since 1970 (it may be due already), None if none remains.
        """
        overlay, now_ms = self._writable(), self._now_ms
        noted: list[tuple[int, str]] = []
        with closing(self._rows(HIDDEN, HIDDEN_END, False)) as rows:
            for hidden, _ in rows:
                noted.append(parse_hidden(hidden))
                if len(noted) > limit or noted[-1][0] > now_ms:
                    break
        for count, (expires_ms, name) in enumerate(noted):
            # half a turn's bytes, so that the entry can be journaled whatever the names are
            if expires_ms > now_ms or count == limit or overlay.size_bytes * 2 > self._limits.turn_bytes:
                return expires_ms
            encoded = self._lookup(name)
            if encoded is not None and expiry_of(encoded) == expires_ms:
                overlay.set(name, None)
            overlay.set(hidden_name(expires_ms, name), None)
        return None
