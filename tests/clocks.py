"""Wall clocks of other processes that a test can move: each is a file, and a library preloaded there.

Only what a process takes for the time of day moves; what it measures as elapsed does not. It needs Linux
and gcc.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "perdure"


def library() -> Path | None:
    """The library, compiled once for each version of its source; None where it cannot be."""
    if not sys.platform.startswith("linux") or shutil.which("gcc") is None:
        return None
    CACHE.mkdir(parents=True, exist_ok=True)
    made = CACHE / f"clock-{SOURCE.stat().st_mtime_ns}.so"
    with (CACHE / "clock.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            command = [
                "gcc",
                "-O2",
                "-shared",
                "-fPIC",
                "-Wall",
                "-Werror",
                str(SOURCE),
                "-o",
                f"{made}.part",
                "-ldl",
            ]
            subprocess.run(command, check=True)
            Path(f"{made}.part").rename(made)
    return made


class Clock:
    """The wall clock of processes that are started with its `environ`; it begins right."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._library = library()
        self.set_ahead(0)

    @property
    def environ(self) -> dict[str, str]:
        """What a process needs to follow this clock; nothing where no clock can be moved."""
        if self._library is None:
            return {}
        return {"LD_PRELOAD": str(self._library), "PERDURE_TEST_CLOCK": str(self._file)}

    @property
    def can_move(self) -> bool:
        """True if processes follow this clock."""
        return self._library is not None

    def set_ahead(self, seconds: float) -> None:
        """Let it be so far ahead of the machine's clock (behind, if negative)."""
        number = int(seconds * 1e9).to_bytes(8, sys.byteorder, signed=True)
        file = os.open(self._file, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(file, number, 0)  # in place: the processes have it mapped
        finally:
            os.close(file)
