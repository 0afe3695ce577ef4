"""Where a handler went wrong: one line on stderr for whoever wrote it.

Laws
- The place is the innermost line of the traceback that is neither perdure's nor a library's, if there is one.
- A flood of failures is counted, not printed: at most `LINES` a second.
"""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path

import structlog

from perdure.schemas.commands import Command

LINES = 10
_HOME = Path(__file__).resolve().parent.parent
_ROOMS = tuple(str(_HOME / room) for room in ("api", "streams", "objects", "schemas"))
_NOT_THEIRS = (*_ROOMS, sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))
_logger = structlog.get_logger("perdure")


def place_of(error: BaseException) -> str:
    """`file:line` of the user's code in which the error arose; empty if none of it was running."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = str(Path(frame.filename).resolve())
        if not file.startswith(_NOT_THEIRS) and "site-packages" not in file and not file.startswith("<"):
            return f"{frame.filename}:{frame.lineno}"
    return ""


class Blame:
    """Of one partition. `clock_s` is any clock that does not jump."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._second = 0
        self._lines = 0

    def failed(self, command: Command, error: BaseException) -> None:
        """A handler raised."""
        second = int(self._clock_s())
        if second != self._second:
            if self._lines > LINES:
                _logger.error("more handlers failed", count=self._lines - LINES)
            self._second, self._lines = second, 0
        self._lines += 1
        if self._lines <= LINES:
            what = f"{command.kind} {command.method} {command.path}".strip()[:200]
            told = traceback.format_exception_only(error)[-1].strip()[:500]
            _logger.error("a handler failed", object=command.key, what=what, error=told, at=place_of(error))
