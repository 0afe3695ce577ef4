"""What a pure function gave, kept by its argument.

Laws
- The same as asking the function, which must be pure. What it raises is not kept.
- It holds `most` at the most: full, it begins anew. An order by use would be touched with every hit, in memory that is
  seldom near: `functools.lru_cache` costs a request more than what it saves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Remembered(dict[K, V]):
    """`remembered[argument]`."""

    __slots__ = ("_ask", "_most")

    def __init__(self, ask: Callable[[K], V], most: int) -> None:
        self._ask = ask
        self._most = most

    def __missing__(self, argument: K) -> V:
        found = self._ask(argument)
        if len(self) >= self._most:
            self.clear()
        self[argument] = found
        return found
