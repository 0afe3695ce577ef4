"""The process that folds an app's projections beside its server, which `perdure serve` starts and keeps.

Laws [tests/acceptance/test_projections.py]
- It is a process of its own, so that no turn waits for a fold: the server's interpreter has one lock.
- It ends with the server, whatever that dies of: when its stdin ends. If it ends by itself it is started
  again, after a pause that grows; the server goes on.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

# -P: what lies in the current directory is the user's
PROGRAM = (sys.executable, "-P", "-m", "perdure.api.cli", "project", "--beside")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_STOP_S = 5.0

_logger = logging.getLogger("perdure")


@contextmanager
def process_beside(arguments: Sequence[str]) -> Iterator[Callable[[], None]]:
    """Yields a function that starts the process; it is ended with the block.

    `arguments` are those of `perdure project`.
    """
    kept = _Kept([*PROGRAM, *arguments])
    try:
        yield kept.start
    finally:
        kept.end()


class _Kept:
    """A process that is started again when it ends."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._ending = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._keep, name="perdure-projections", daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                with self._lock:
                    if self._ending.is_set():
                        return
                    self._process = subprocess.Popen(
                        self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
                    )
                code = self._process.wait()
                reason = f"exit status {code}"
            except OSError as error:
                reason = str(error)
            if self._ending.wait(pause_s):
                return
            _logger.warning("the process of projections ended (%s) and is started again", reason)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def end(self) -> None:
        with self._lock:
            self._ending.set()
            process = self._process
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()  # it ends with it
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._thread is not None:
            self._thread.join()
