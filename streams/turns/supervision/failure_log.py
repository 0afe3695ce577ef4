"""Where a handler went wrong: one line in the log for whoever wrote it.

Laws
- The place is the innermost line of the traceback that is neither perdure's nor a library's, if there is one. Of a
  group of errors the first counts.
- What a WebSocket's client has said is in no line: an error that quotes it is shown without those words.
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
    """The user's own lines in a traceback, the innermost last."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return [frame for frame in traceback.extract_tb(error.__traceback__) if is_user_file(frame.filename)]


def is_user_file(filename: str) -> bool:
    """Is a file neither perdure's nor a library's?"""
    file = str(Path(filename).resolve())
    return not file.startswith(_NOT_THEIRS) and "site-packages" not in file and not filename.startswith("<")


def place_of(error: BaseException) -> str:
    """`file:line` of the user's code in which the error arose; empty if none of it was running."""
    frames = user_frames(error)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def error_fields(error: BaseException) -> dict[str, Any]:
    """What a log line says of an error: `error`, and as far as the user's code was running `at`, `code` and `via`.

    `via`: where the line `at` was called from, the innermost last.
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


def _without(said: str, words: str) -> str:
    """The words of an error, those masked that were also said in a message."""
    kind, colon, rest = words.partition(": ")
    return kind + colon + _WORD.sub(lambda word: MASK if word[0] in said else word[0], rest)


class FailureLog:
    """Of one partition. `clock_s` is any clock that does not jump."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._second = 0
        self._lines = 0

    def failed(self, turn: Turn, why: BaseException | Reply) -> None:
        """A handler raised, or what it returned is no reply, which says so."""
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
                said = turn.command.body.decode("utf-8", "replace")
                fields |= {
                    name: _without(said, str(fields[name])) for name in ("error", "cause") if fields.get(name)
                }
            _logger.error("a handler failed", **turn_fields(turn), what=what_of(turn), **fields)


def what_of(turn: Turn) -> str:
    """What was asked of the object, without its name; what stands behind `?` is between it and its client."""
    command = turn.command
    return f"{command.kind} {command.method} {command.path.partition('?')[0]}".strip()[:200]
