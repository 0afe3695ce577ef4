"""Which command kills the process: a page of memory, mapped from a file, that outlives it.

The file holds 64-bit words in the machine's byte order: first the word of the turn whose code is running (0: none),
then pairs of a command's word and how often it was charged, the latest first.

Laws
- While a turn's code runs the page names its command; the page is clear whenever none runs. So a process that died
  leaves the name of the one command that can have killed it, and those that waited or were under way are innocent.
- The next start charges that command once, and clears the page. What is charged is kept until `CHARGES` others were.
- An offset names a command only while the log has it: what ran and was lost with the process before it was durable is
  not charged, so that whoever gets its offset is not taken for it. What sends it again by itself (an alarm that is due, a
  message from an object) would send it for ever: after a death in a turn (`died`) such commands run once they are durable.
- The kernel keeps the page when the process dies: nothing is fsynced. After a power loss it may say what was true
  some seconds before; at the worst one command is charged once too often.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from perdure.streams.mapped_page import Page

CHARGES = 64
_OFFSET_BITS = 48
_WORD = (1 << 60) - 1  # higher bits are marks of whoever looks on


def word_of(partition: int, offset: int) -> int:
    """What stands for the command at `offset`: positive, below 2**60."""
    return (partition + 1) << _OFFSET_BITS | offset


def place_of(word: int) -> tuple[int, int]:
    """(partition, offset) of a word."""
    return (word >> _OFFSET_BITS) - 1, word & ((1 << _OFFSET_BITS) - 1)


class CrashMarker:
    """The page in the file at `path`, made if it is not there. `now` is where the running turn is to be told.

    `died`: the process before this one died in a turn.

    Raises `DataDirError` if the file cannot be made or mapped.
    """

    def __init__(self, path: Path) -> None:
        self._page = Page(path)
        self._words = self._page.words
        self.now = self._words[:1]
        self.charges = {place_of(word): count for word, count in self._read() if word}
        self.died = bool(self.now[0] & _WORD)
        self._charge(self.now[0] & _WORD)

    def charged(self, partition: int, end: int) -> dict[int, int]:
        """Offset → how often the process died while that command of the partition ran.

        `end` is the end of the partition's commands, before this process has added any: what was charged to offsets
        from there on was lost, and is forgotten.
        """
        lost = [place for place in self.charges if place[0] == partition and place[1] >= end]
        for place in lost:
            del self.charges[place]
        if lost:
            self._write()
        return {offset: count for (home, offset), count in self.charges.items() if home == partition}

    def close(self) -> None:
        """Nothing runs any more."""
        with ExitStack() as closing:
            closing.callback(self._page.close)
            closing.callback(self.now.release)

    def _read(self) -> list[tuple[int, int]]:
        pairs = self._words[1 : 1 + 2 * CHARGES].tolist()
        return list(zip(pairs[::2], pairs[1::2], strict=True))

    def _charge(self, word: int) -> None:
        if word:
            place = place_of(word)
            times = self.charges.pop(place, 0) + 1
            self.charges = dict([(place, times), *self.charges.items()][:CHARGES])
            self._write()
        self.now[0] = 0

    def _write(self) -> None:
        pairs = [(word_of(*place), count) for place, count in self.charges.items()]
        for at, pair in enumerate(pairs + [(0, 0)] * (CHARGES - len(pairs))):
            self._words[1 + 2 * at], self._words[2 + 2 * at] = pair
