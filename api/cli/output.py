"""What the commands print on stderr, and the code they exit with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_FAILED = 1
EXIT_CONFIG = 2
EXIT_STOPPED_ITSELF = 70  # EX_SOFTWARE of sysexits.h
EXIT_TAKEN = 75  # EX_TEMPFAIL: another process has what this one wants


@contextmanager
def without_rich() -> Iterator[None]:
    """Hide rich from imports made inside: it takes 50 ms, and some libraries import it without using it."""
    if "rich" in sys.modules:
        yield
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # then `import rich` raises ImportError
    try:
        yield
    finally:
        del sys.modules["rich"]


def show_code(error: BaseException) -> None:
    """Print the user's own lines that led to an error on stderr; the line that raised it is last."""
    import traceback

    from perdure.streams.turns.supervision.failure_log import user_frames

    if isinstance(error, SyntaxError):
        lines = traceback.format_exception_only(error)[:-1]  # the last line has been printed already
    else:
        lines = [f"  {frame.filename}:{frame.lineno}\n    {frame.line}\n" for frame in user_frames(error)]
    print("".join(lines), end="", file=sys.stderr, flush=True)


def exit_code(error: BaseException) -> int:
    """The exit code of a command that failed with this error."""
    from perdure.schemas.errors import ConfigError

    return EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILED


def print_error(error: BaseException) -> None:
    """Print an error as one line on stderr: its code, which says whose fault it is, and its text."""
    code = getattr(error, "code", type(error).__name__)
    print(f"perdure: {code}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
