"""A coroutine that a handler made and never awaited did nothing: the turn says so and fails, in place of silence.

Laws
- Python notices by itself, when it frees the coroutine, and calls `warnings._warn_unawaited_coroutine`: that one
  function is wrapped. Filters, `showwarning` and `catch_warnings` are as the program has them. A turn that awaits what it
  makes pays nothing.
- Only a line of the user's own code counts. What the handler raised itself comes first.
- Outside of turns the warning is what it was.
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
from perdure.schemas.errors import ObjectError, PerdureError, TurnEnded
from perdure.streams.turns.activation import Turn
from perdure.streams.turns.supervision.failure_log import is_user_file

HOOK = "_warn_unawaited_coroutine"  # CPython's, in 3.11 to 3.14; a test looks that it is there and called
Warn = Callable[["CoroutineType[Any, Any, Any]"], None]
_STDLIBS = ("warnings", "_py_warnings")


class NeverAwaited(ObjectError):
    """Ends the turn as any `ObjectError` does."""

    def instead_of(self, error: BaseException | None) -> BaseException:
        """What the turn failed by: this, unless its handler raised something else than what came of this."""
        return self if error is None or isinstance(error, TurnEnded) else error


def error_of_cut(cut: PerdureError, error: BaseException | None) -> BaseException:
    """What a turn that was cut short failed with; `error`: what its handler made of that."""
    if isinstance(cut, NeverAwaited):
        return cut.instead_of(error)
    return cut.with_traceback(error.__traceback__ if error is not None else None)


class _Hook:
    """The wrapper, which is in place while anybody watches: the watches of several worlds end in any order."""

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
            # else it was wrapped by others meanwhile, who still call this: it stays, and passes on
            setattr(warnings, HOOK, self.before)
            self.before = None


_hook = _Hook()


def watch() -> Callable[[], None]:
    """From here on turns fail by what they do not await; returns what undoes it.

    A Python without the hook warns, as it does without perdure.
    """
    _hook.watch()
    return _hook.unwatch


def _warn(coroutine: CoroutineType[Any, Any, Any]) -> None:
    """The standard library's own warning, which cannot be called through a wrapper: it names its caller's line."""
    lines = [f"coroutine '{coroutine.__qualname__}' was never awaited\n"]
    if coroutine.cr_origin is not None:
        lines.append("Coroutine created at (most recent call last)\n")
        lines += traceback.format_list(
            [(*place, linecache.getline(*place[:2])) for place in reversed(coroutine.cr_origin)]
        )
    warnings.warn("".join(lines).rstrip("\n"), RuntimeWarning, stacklevel=3, source=coroutine)


def _ends_a_turn(turn: Turn, coroutine: CoroutineType[Any, Any, Any]) -> bool:
    """Have the turn fail by it, if it was let go of in a line of the user's own; False: the warning is to be given."""
    frame = sys._getframe(2)  # of the code in which the coroutine was freed
    filename, line = frame.f_code.co_filename, frame.f_lineno
    if not is_user_file(filename):
        return False
    if turn.cut is None:
        what = linecache.getline(filename, line).strip() or f"{coroutine.__qualname__}(…)"
        turn.cut = NeverAwaited(f"{filename}:{line}: never awaited, so it did nothing: {what}")
    return True
