"""Which offsets are done: a watermark, and a bitmap of what is done above it.

Turns of different objects finish in any order. Below the watermark everything is done; above it, behind one
slow turn, millions of offsets may be done. They are kept as words of 512 bits, so a busy hour behind a paused
object costs a few hundred KiB, and what is written is only the words that have changed.

Laws
- Every offset below `mark` is done; `mark` itself is not; `words` holds the done ones above, as bits, and no
  zero.
- Offsets are only ever added. The same set has one form, whatever the order of adding.
- No operation walks all that is done above the mark, except `words`'s own readers at a start (`runs`).
"""

from __future__ import annotations

from collections.abc import Iterator

WORD_BITS = 512
WORD_BYTES = WORD_BITS // 8
_SHIFT = WORD_BITS.bit_length() - 1
_MASK = WORD_BITS - 1


class Watermark:
    """A growing set of offsets, dense from below."""

    __slots__ = ("_changed", "mark", "words")

    def __init__(self, mark: int = 0) -> None:
        self.mark = mark
        self.words: dict[int, int] = {}
        self._changed: set[int] = set()

    def add(self, offset: int) -> None:
        """Note that `offset` is done. Adding it twice changes nothing."""
        if offset == self.mark:
            self.mark = offset + 1
            if self.words:
                self._advance()
        elif offset > self.mark:
            word, words = offset >> _SHIFT, self.words
            words[word] = words.get(word, 0) | 1 << (offset & _MASK)
            self._changed.add(word)

    def add_run(self, first: int, count: int) -> None:
        """Note that `count` offsets from `first` on are done."""
        end = first + count
        if end <= self.mark or not count:
            return
        if first > self.mark:
            while first < end:
                upto = min(end, (first | _MASK) + 1)
                self._set(first >> _SHIFT, ((1 << (upto - first)) - 1) << (first & _MASK))
                first = upto
            return
        before, self.mark = self.mark >> _SHIFT, end
        if not self.words:
            return
        for word in range(before, end >> _SHIFT):
            if self.words.pop(word, None) is not None:
                self._changed.add(word)
        self._advance()

    def load(self, word: int, bits: bytes) -> None:
        """Take over a word that `changed` returned in an earlier process; it counts as written."""
        self.words[word] = int.from_bytes(bits, "little")

    def _set(self, word: int, bits: int) -> None:
        self.words[word] = self.words.get(word, 0) | bits
        self._changed.add(word)

    def _advance(self) -> None:
        """Move the mark over what is done already; what lies below it is dropped."""
        words, mark = self.words, self.mark
        while (bits := words.get(word := mark >> _SHIFT)) is not None:
            bit = mark & _MASK
            rest = bits >> bit
            ones = (~rest & (rest + 1)).bit_length() - 1  # trailing ones
            mark += ones
            left = rest >> ones << (bit + ones)
            if left == bits:
                break
            self._changed.add(word)
            if left:
                words[word] = left
                break
            del words[word]
        self.mark = mark

    @property
    def end(self) -> int:
        """The first offset above all that are done. Reads each word once."""
        if not self.words:
            return self.mark
        last = max(self.words)
        return (last << _SHIFT) + self.words[last].bit_length()

    def __contains__(self, offset: int) -> bool:
        return offset < self.mark or bool(self.words.get(offset >> _SHIFT, 0) >> (offset & _MASK) & 1)

    def changed(self) -> dict[int, bytes | None]:
        """The words that have changed since the last call, as 64 bytes each; None: the word is gone."""
        changed, self._changed = self._changed, set()
        words = self.words
        return {
            word: None if (bits := words.get(word)) is None else bits.to_bytes(WORD_BYTES, "little")
            for word in changed
        }

    def runs(self) -> Iterator[tuple[int, int]]:
        """The done offsets above the mark as runs (first, end), in order."""
        first = end = -1
        for word in sorted(self.words):
            bits, at = self.words[word], word << _SHIFT
            while bits:
                zeros = (bits & -bits).bit_length() - 1
                bits >>= zeros
                at += zeros
                ones = (~bits & (bits + 1)).bit_length() - 1
                if at != end:
                    if end > first:
                        yield first, end
                    first = at
                bits >>= ones
                at += ones
                end = at
        if end > first:
            yield first, end
