"""Range reads of an object's state: `list` and `items`, over the turn's writes and what was committed.

Laws [test_state_model.py]
- A range shows what `get` would return for each of its names at the same moment: the turn's own writes hide
  the committed rows, and an expired value is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure.objects.listing import MAX_LISTED, Listing, Rows, bounds, checked_limit, page_of, values_of
from perdure.objects.overlay import in_range, merged

if TYPE_CHECKING:
    from perdure.objects.overlay import Overlay, View


class RangeMethods:
    """The part of `self.state` that reads several names in their order."""

    __slots__ = ()

    if TYPE_CHECKING:
        _now_ms: int
        _view: View

        def inside(self) -> Overlay: ...

    async def list(
        self,
        *,
        prefix: str = "",
        start: str | None = None,
        start_after: str | None = None,
        end: str | None = None,
        limit: int = MAX_LISTED,
        reverse: bool = False,
        cursor: str | None = None,
    ) -> Listing:
        """A page of names in the order of their UTF-8 bytes, each with the time at which it expires.

        prefix: only names that begin with it.
        start, end: only names from `start` on and before `end`, also in reverse.
        start_after: instead of `start`, only names behind this one.
        limit: at most this many names; never more than 1,000.
        reverse: from the last name to the first.
        cursor: the previous page's `cursor`, with the same options: the next page. It is safe in a URL.

        Raises TypeError or ValueError for an invalid option, `ObjectError` for `start` with `start_after`.
        """
        low, high = bounds(prefix, start, start_after, end, cursor, reverse=reverse)
        return page_of(self._rows(low, high, reverse), min(checked_limit(limit), MAX_LISTED), self._now_ms)

    async def items(
        self,
        *,
        prefix: str = "",
        start: str | None = None,
        start_after: str | None = None,
        end: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
        cursor: str | None = None,
    ) -> dict[str, Any]:
        """Names and values in the order of the names. As `list`, except that `limit` has no maximum."""
        low, high = bounds(prefix, start, start_after, end, cursor, reverse=reverse)
        most = None if limit is None else checked_limit(limit)
        return values_of(self._rows(low, high, reverse), most, self._now_ms)

    def _rows(self, low: str, high: str | None, reverse: bool) -> Rows:
        """Names and encoded values with low <= name < high, expired ones too."""
        overlay = self.inside()
        names = in_range(overlay.changes, low, high, reverse=reverse)
        try:
            base = () if overlay.cleared else self._view.scan(low, high, reverse=reverse)
            yield from merged(base, overlay.changes, names, reverse=reverse)
        except Exception as error:
            overlay.failure = error
            raise
