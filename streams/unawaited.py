"""A coroutine that a handler made and never awaited did nothing: the turn says so and fails, in place of silence.

Laws
- Python notices by itself and warns (`RuntimeWarning`); that warning is heard here. A turn that awaits what it makes
  pays nothing.
- Only a line of the user's own code counts. What the handler raised itself comes first.
- Outside of turns the warning is what it was.
"""

from __future__ import annotations

import linecache
import re
import warnings
from collections.abc import Callable
from typing import TextIO

from perdure.objects.overlay import current_turn
from perdure.schemas.errors import ObjectError, TurnEnded
from perdure.streams.blame import is_theirs
from perdure.streams.mailbox import Turn

_NEVER = re.compile(r"coroutine '(.+)' was never awaited")


class NeverAwaited(ObjectError):
    """Ends the turn as any `ObjectError` does."""

    def instead_of(self, error: BaseException | None) -> BaseException:
        """What the turn failed by: this, unless its handler raised something else than what came of this."""
        return self if error is None or isinstance(error, TurnEnded) else error


def watch() -> Callable[[], None]:
    """From here on turns fail by what they do not await; gives what undoes it."""
    as_it_was = warnings.catch_warnings()
    as_it_was.__enter__()
    before = warnings.showwarning

    def heard(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        found = _NEVER.match(str(message)) if issubclass(category, RuntimeWarning) else None
        turn = current_turn.get()
        if found is None or not isinstance(turn, Turn) or turn.over or not is_theirs(filename):
            before(message, category, filename, lineno, file, line)
        elif turn.cut is None:
            what = linecache.getline(filename, lineno).strip() or f"{found[1]}(…)"
            turn.cut = NeverAwaited(f"{filename}:{lineno}: never awaited, so it did nothing: {what}")

    warnings.filterwarnings("always", "coroutine '.+' was never awaited", RuntimeWarning)
    warnings.showwarning = heard
    return lambda: as_it_was.__exit__(None, None, None)
