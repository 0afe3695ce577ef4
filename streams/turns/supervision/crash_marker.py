"""The crash marker: which command kills the process. It is a page of memory, mapped
from a file, that outlives it.

The file holds 64-bit words in the machine's byte order: first the word of the turn whose code is running (0:
none), then pairs of a command's word and its number of crashes, the latest first.

Laws [test_crash_marker.py, test_runaways.py]
- The page names a command while its turn's code runs, and is clear otherwise. So a process that died leaves
  the name of the one command that can have killed it; commands that waited or were suspended are innocent.
- The next start counts one crash for that command, and clears the page. A count is
  kept until `CHARGES` other commands were counted.
- An offset names a command only while the log has it. A command that was lost with the process before it was
  durable is not counted, so that the command that gets its offset is not mistaken for it. Senders that repeat
  by themselves (a due alarm, a call from an object) would repeat it forever: after a crash in a turn (`died`)
  such commands run only once they are durable.
- The kernel keeps the page when the process dies: nothing is fsynced. After a power loss the page may be some
  seconds old; at worst one crash is counted once too often.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from perdure.streams.mapped_page import Page

CHARGES = 64
_OFFSET_BITS = 48
_WORD = (1 << 60) - 1  # the watchdog marks a word in the higher bits


def word_of(partition: int, offset: int) -> int:
    """Return the word for the command at `offset`: positive, below 2**60."""
    return (partition + 1) << _OFFSET_BITS | offset


def place_of(word: int) -> tuple[int, int]:
    """Return the (partition, offset) of a word."""
    return (word >> _OFFSET_BITS) - 1, word & ((1 << _OFFSET_BITS) - 1)


class CrashMarker:
    """The page in the file at `path`, created if it is missing. The running turn's word belongs in `now`.

    `died`: the previous process died in a turn.

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
        """Return, by offset, how often the process died while that command of the partition ran.

        `end` is the end of the partition's commands before this process has added any. Commands at offsets
        from there on were lost, and their counts are dropped.
        """
        lost = [place for place in self.charges if place[0] == partition and place[1] >= end]
        for place in lost:
            del self.charges[place]
        if lost:
            self._write()
        return {offset: count for (home, offset), count in self.charges.items() if home == partition}

    def close(self) -> None:
        """Unmap the page: nothing runs any more."""
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
