"""The failure log: one line about a handler that failed, for its author.

Laws
- The place is the innermost line of the traceback that belongs neither to perdure nor to a library, if there
  is one. For an exception group the first error counts.
- No line quotes what a WebSocket's client sent: the words of the message are masked in the error's text.
- A flood of failures is counted, not printed: at most `LINES` a second.
"""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from traceback import FrameSummary
from typing import Any

import structlog

from perdure.objects.turn import missing_await
from perdure.schemas.commands import SOCKET
from perdure.schemas.replies import Reply
from perdure.schemas.secrecy import MASK
from perdure.streams.turns.activation import Turn
from perdure.streams.turns.log_fields import turn_fields

LINES = 10
_TEXT_CHARS = 500  # of what an error says
_CODE_CHARS = 200  # of a line of code
_WORD = re.compile(r"[^\s'\"`(){}\[\]<>,:;=]{3,}")
_HOME = Path(__file__).resolve().parents[3]  # where the rooms are
_ROOMS = tuple(str(_HOME / room) for room in ("api", "streams", "objects", "schemas"))
_NOT_THEIRS = (*_ROOMS, sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))
_logger = structlog.get_logger("perdure")


def user_frames(error: BaseException) -> list[FrameSummary]:
    """Return the frames of a traceback that are in the user's code, innermost last."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return [frame for frame in traceback.extract_tb(error.__traceback__) if is_user_file(frame.filename)]


def is_user_file(filename: str) -> bool:
    """True if a file belongs neither to perdure nor to a library."""
    file = str(Path(filename).resolve())
    return not file.startswith(_NOT_THEIRS) and "site-packages" not in file and not filename.startswith("<")


def place_of(error: BaseException) -> str:
    """Return the `file:line` of the user's code in which the error arose; empty if none was running."""
    frames = user_frames(error)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def error_fields(error: BaseException) -> dict[str, Any]:
    """Return a log line's fields about an error: `error`, and if the user's code
    was running, `at`, `code` and `via`.

    `via`: the callers of the line `at`, innermost last.
    """
    fields: dict[str, Any] = {"error": _words(error)}
    if error.__cause__ is not None:
        place = place_of(error.__cause__)
        fields["cause"] = _words(error.__cause__) + (f" ({place})" if place else "")
    frames = user_frames(error)
    if frames:
        fields |= {"at": place_of(error), "code": (frames[-1].line or "")[:_CODE_CHARS]}
    if len(frames) > 1:
        fields["via"] = [f"{frame.filename}:{frame.lineno}" for frame in frames[-6:-1]]
    return fields


def _words(error: BaseException) -> str:
    words = traceback.format_exception_only(error)[-1].strip()[:_TEXT_CHARS] + missing_await(error)
    return f"{words}: {_words(error.exceptions[0])}" if isinstance(error, BaseExceptionGroup) else words


def _without(message: str, words: str) -> str:
    """Return the text of an error, without the words that are also in a message."""
    kind, colon, rest = words.partition(": ")
    return kind + colon + _WORD.sub(lambda word: MASK if word[0] in message else word[0], rest)


class FailureLog:
    """Writes the failures of one partition's handlers. `clock_s` is any clock that does not jump."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._second = 0
        self._lines = 0

    def failed(self, turn: Turn, why: BaseException | Reply) -> None:
        """Log that a handler raised, or that its return value cannot be a reply."""
        second = int(self._clock_s())
        if second != self._second:
            if self._lines > LINES:
                _logger.error("more handlers failed", count=self._lines - LINES)
            self._second, self._lines = second, 0
        self._lines += 1
        if self._lines <= LINES:
            fields = (
                error_fields(why)
                if isinstance(why, BaseException)
                else {"error": why.error and why.error.message}
            )
            if turn.command.kind == SOCKET:
                message = turn.command.body.decode("utf-8", "replace")
                fields |= {
                    name: _without(message, str(fields[name]))
                    for name in ("error", "cause")
                    if fields.get(name)
                }
            _logger.error("a handler failed", **turn_fields(turn), what=what_of(turn), **fields)


def what_of(turn: Turn) -> str:
    """Return the request in a few words, without the object's name and without the
    query, which may be private.
    """
    command = turn.command
    return f"{command.kind} {command.method} {command.path.partition('?')[0]}".strip()[:200]
