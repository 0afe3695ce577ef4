"""What the commands print, and with which code they exit."""

from __future__ import annotations

import sys

EXIT_FAILED = 1
EXIT_CONFIG = 2
EXIT_STOPPED_ITSELF = 70  # EX_SOFTWARE of sysexits.h


def tell(error: BaseException) -> None:
    """One line on stderr: the error's code, which says whose fault it is, and its text."""
    code = getattr(error, "code", type(error).__name__)
    print(f"perdure: {code}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
