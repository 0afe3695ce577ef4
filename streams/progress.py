"""Which offsets are done: a watermark and what lies done above it.

Laws
- Every offset below `mark` is done; `mark` itself is not; `ahead` holds the done ones above.
- Offsets are only ever added. As words of 512 bits the same set has one form, whatever the order of adding.
"""

from __future__ import annotations

from collections.abc import Iterator

WORD_BITS = 512
WORD_BYTES = WORD_BITS // 8


class Watermark:
    """A growing set of offsets, dense from below."""

    __slots__ = ("ahead", "mark")

    def __init__(self, mark: int = 0) -> None:
        self.mark = mark
        self.ahead: set[int] = set()

    def add(self, offset: int) -> None:
        """`offset` is done. Adding it twice changes nothing."""
        if offset == self.mark:
            mark, ahead = offset + 1, self.ahead
            while mark in ahead:
                ahead.remove(mark)
                mark += 1
            self.mark = mark
        elif offset > self.mark:
            self.ahead.add(offset)

    def add_run(self, first: int, count: int) -> None:
        """`count` offsets from `first` on are done."""
        mark, ahead, end = self.mark, self.ahead, first + count
        if first > mark:
            ahead.update(range(first, end))
        elif end > mark:
            if ahead:
                ahead.difference_update(range(mark, end))
                while end in ahead:
                    ahead.remove(end)
                    end += 1
            self.mark = end

    @property
    def end(self) -> int:
        """The offset from which on none is done."""
        return max(self.ahead, default=self.mark - 1) + 1

    def __contains__(self, offset: int) -> bool:
        return offset < self.mark or offset in self.ahead

    def words(self) -> dict[int, bytes]:
        """The done offsets above the mark as a bitmap: word number -> 64 bytes, no empty words."""
        found: dict[int, int] = {}
        for offset in self.ahead:
            word, bit = divmod(offset, WORD_BITS)
            found[word] = found.get(word, 0) | 1 << bit
        return {word: bits.to_bytes(WORD_BYTES, "little") for word, bits in found.items()}


def offsets_in(word: int, bits: bytes) -> Iterator[int]:
    """The offsets that a word of `Watermark.words` stands for."""
    value = int.from_bytes(bits, "little")
    while value:
        low = value & -value
        yield word * WORD_BITS + low.bit_length() - 1
        value ^= low
