"""Unawaited coroutines: a coroutine that a handler made and never awaited did
nothing, so the turn fails with a message.

Laws [test_unawaited.py]
- Python itself notices when it frees the coroutine, and calls `warnings._warn_unawaited_coroutine`: only that
  function is wrapped. Filters, `showwarning` and `catch_warnings` stay as the program has set them. A turn
  that awaits its coroutines pays nothing.
- Only a line of the user's own code counts. An error that the handler raised itself comes first.
- Outside of turns the warning is unchanged.
"""

from __future__ import annotations

import linecache
import sys
import traceback
import warnings
from collections.abc import Callable
from types import CoroutineType
from typing import Any

from perdure.objects.overlay import current_turn
from perdure.schemas.errors import NeverAwaited, PerdureError, TurnEnded
from perdure.streams.turns.activation import Turn
from perdure.streams.turns.supervision.failure_log import is_user_file

HOOK = "_warn_unawaited_coroutine"  # CPython's, in 3.11 to 3.14; a test looks that it is there and called
Warn = Callable[["CoroutineType[Any, Any, Any]"], None]
_STDLIBS = ("warnings", "_py_warnings")


def error_of_cut(cut: PerdureError, error: BaseException | None) -> BaseException:
    """Return the error of a turn that was cut short; `error`: what its handler raised then."""
    if isinstance(cut, NeverAwaited):
        return cut if error is None or isinstance(error, TurnEnded) else error  # unless it is unrelated
    return cut.with_traceback(error.__traceback__ if error is not None else None)


class _Hook:
    """The wrapper, in place while there is a watch: the watches of several test worlds end in any order."""

    watches = 0
    before: Warn | None = None

    def __call__(self, coroutine: CoroutineType[Any, Any, Any]) -> None:
        turn = current_turn.get()
        if self.watches and isinstance(turn, Turn) and not turn.over and _ends_a_turn(turn, coroutine):
            return
        if self.before is None or self.before.__module__ in _STDLIBS:
            _warn(coroutine)
        else:
            self.before(coroutine)

    def watch(self) -> None:
        self.watches += 1
        if self.before is None and (before := getattr(warnings, HOOK, None)) is not None:
            self.before = before
            setattr(warnings, HOOK, self)

    def unwatch(self) -> None:
        self.watches -= 1
        if self.watches == 0 and getattr(warnings, HOOK, None) is self:
            # otherwise other code has wrapped it and still calls this one, which then only passes the warning
            # on
            setattr(warnings, HOOK, self.before)
            self.before = None


_hook = _Hook()


def watch() -> Callable[[], None]:
    """Fail turns that leave a coroutine unawaited, from now on; returns a function that undoes it.

    A Python without the hook warns, as it does without perdure.
    """
    _hook.watch()
    return _hook.unwatch


def _warn(coroutine: CoroutineType[Any, Any, Any]) -> None:
    """The standard library's own warning, which cannot be called through a wrapper:
    it names its caller's line.
    """
    lines = [f"coroutine '{coroutine.__qualname__}' was never awaited\n"]
    if coroutine.cr_origin is not None:
        lines.append("Coroutine created at (most recent call last)\n")
        lines += traceback.format_list(
            [(*place, linecache.getline(*place[:2])) for place in reversed(coroutine.cr_origin)]
        )
    warnings.warn("".join(lines).rstrip("\n"), RuntimeWarning, stacklevel=3, source=coroutine)


def _ends_a_turn(turn: Turn, coroutine: CoroutineType[Any, Any, Any]) -> bool:
    """Fail the turn if the coroutine was dropped in a line of the user's code;
    False: Python's warning applies.
    """
    frame = sys._getframe(2)  # of the code in which the coroutine was freed
    filename, line = frame.f_code.co_filename, frame.f_lineno
    if not is_user_file(filename):
        return False
    if turn.cut is None:
        what = linecache.getline(filename, line).strip() or f"{coroutine.__qualname__}(…)"
        turn.cut = NeverAwaited(f"{filename}:{line}: never awaited, so it did nothing: {what}")
    return True
