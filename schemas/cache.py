"""A cache of a pure function's results, by argument.

Laws
- A look-up gives what the function gives; the function must be pure. What it raises is not kept.
  [test_cache.py]
- It holds at most `most` results, in two halves. A result that is used is put into the young half; when that
  is full it becomes the old half, and the results of the previous old half are dropped. [test_cache.py]
- A hit in the young half writes nothing. An order by use, as in `functools.lru_cache`, is written at every
  hit, to memory that is rarely in the processor's cache: that costs a request 2 % of its time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V")
_ABSENT: Any = object()


class PureCache(dict[K, V]):
    """A cache that is read as `cache[argument]`; as a dict it is the young half."""

    __slots__ = ("_function", "_half", "_old")

    def __init__(self, function: Callable[[K], V], most: int) -> None:
        self._function = function
        self._half = most // 2
        self._old: dict[K, V] = {}

    def __missing__(self, argument: K) -> V:
        result: V = self._old.get(argument, _ABSENT)
        if result is _ABSENT:
            result = self._function(argument)
        if len(self) >= self._half:
            self._old = dict(self)
            self.clear()
        self[argument] = result
        return result

    @property
    def held(self) -> int:
        """How many results it holds."""
        return len(self.keys() | self._old.keys())
