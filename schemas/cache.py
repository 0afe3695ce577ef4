"""What a pure function gave, kept by its argument.

Laws
- The same as asking the function, which must be pure. What it raises is not kept.
- It holds `most` at the most, in two halves. What is asked for is in the young one, or comes there; when that is full it
  becomes the old one, and what nobody has asked for since the last time goes.
- A hit touches nothing else. An order by use, as `functools.lru_cache` keeps it, is written with every hit, in memory that
  is seldom near: that costs a request 2 % of its time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V")
_ABSENT: Any = object()


class PureCache(dict[K, V]):
    """`remembered[argument]`; as a dict it is the young half."""

    __slots__ = ("_ask", "_half", "_old")

    def __init__(self, ask: Callable[[K], V], most: int) -> None:
        self._ask = ask
        self._half = most // 2
        self._old: dict[K, V] = {}

    def __missing__(self, argument: K) -> V:
        found: V = self._old.get(argument, _ABSENT)
        if found is _ABSENT:
            found = self._ask(argument)
        if len(self) >= self._half:
            self._old = dict(self)
            self.clear()
        self[argument] = found
        return found

    @property
    def held(self) -> int:
        """How much is kept."""
        return len(self.keys() | self._old.keys())
