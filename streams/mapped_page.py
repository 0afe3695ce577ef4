"""A page of memory, mapped from a file, that outlives the process: what is stored
there is kept by the kernel.

Nothing of it is fsynced. After a loss of power it may say what was true some seconds before.
"""

from __future__ import annotations

import mmap
from contextlib import ExitStack
from pathlib import Path

from perdure.schemas.errors import DataDirError

FILE_BYTES = 4096


class Page:
    """The page in the file at `path`, made if it is not there; `words` are its
    64-bit words, in the machine's byte order.

    `signed`: they are. Raises `DataDirError` if the file cannot be made or mapped.
    """

    def __init__(self, path: Path, *, signed: bool = True) -> None:
        try:
            # real bytes, not a hole: to touch a hole when the disk is full would kill the process
            with path.open("ab") as file:
                missing = FILE_BYTES - file.tell()
                if missing > 0:
                    file.write(bytes(missing))
            with path.open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), FILE_BYTES)
        except OSError as error:
            raise DataDirError(
                f"cannot use {path}: {error}; check the directory's rights and space"
            ) from error
        self.words = memoryview(self._map).cast("q" if signed else "Q")

    def close(self) -> None:
        """Views of the words must be released before."""
        with ExitStack() as closing:
            closing.callback(self._map.close)
            closing.callback(self.words.release)
