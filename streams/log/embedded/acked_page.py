"""How far the embedded log was acknowledged: a page of memory, mapped from a file in the log's folder.

The page holds the number of the last change of RocksDB in a commit that was fsynced, and the same number
inverted. RocksDB numbers all changes without a gap (see wal_check.py), so a log that ends before that number
has lost acknowledged records.

Laws
- The number is stored after the fsync has returned and before any answer leaves: it is never ahead of what is
  durable, and after the death of the process never behind what was acknowledged. [test_acked.py]
- After a loss of power it may be behind. A flipped bit in records that it does not cover then looks like a
  torn end, as it does without a page (an older log, a copy without it).
- It lies in the log's folder, so a backup of the folder has both, and a restored
  backup does not look like a loss.
- If the two numbers differ (the process died between the two stores, or one is damaged) the lower one counts.
"""

from __future__ import annotations

from pathlib import Path

from perdure.streams.mapped_page import FILE_BYTES, Page

NAME = "ACKED"
_ALL = (1 << 64) - 1


def acked_in(folder: Path) -> int:
    """The last change that is known to have been acknowledged in the log in `folder`; 0 if none is known."""
    try:
        with (folder / NAME).open("rb") as file:
            page = file.read(FILE_BYTES)
    except OSError:
        return 0
    if len(page) < FILE_BYTES:
        return 0
    number, inverted = memoryview(page).cast("Q")[:2]
    return min(number, inverted ^ _ALL)


class Acked:
    """The page of the log in `folder`, for the process that writes it. Raises
    `DataDirError` if it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        known = acked_in(folder)
        self._page = Page(folder / NAME, signed=False)
        self._words = self._page.words
        self.store(known)

    def store(self, number: int) -> None:
        """Record that all changes up to this one are durable."""
        words = self._words
        words[0] = number
        words[1] = number ^ _ALL

    def close(self) -> None:
        self._page.close()
