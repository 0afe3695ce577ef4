"""The progress of a long replay: reported once a second, and only if the replay is long.

A server logs it; a command shows a bar.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

REPORT_FROM_RECORDS = 50_000
REPORT_EVERY_S = 1.0


_logger = logging.getLogger("perdure")


class ReplayProgress:
    """A callback that logs lines such as `replaying the journal  partition=3 done=120000 total=1000000`."""

    def __init__(self) -> None:
        self._reported_s = time.monotonic()

    def __call__(self, partition: int, done: int, total: int) -> None:
        now_s = time.monotonic()
        if total < REPORT_FROM_RECORDS or now_s - self._reported_s < REPORT_EVERY_S:
            return
        self._reported_s = now_s
        _logger.info("replaying the journal", extra={"partition": partition, "done": done, "total": total})


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int, int], None]]:
    """A callback `update(partition, done, total)` that shows a bar per partition, if stderr is a terminal."""
    from rich.console import Console  # imported here: a server has no bar, and starts faster without it
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as shown:
        tasks = {}

        def update(partition: int, done: int, total: int) -> None:
            if partition not in tasks:
                tasks[partition] = shown.add_task(f"partition {partition}", total=total)
            shown.update(tasks[partition], completed=done, total=max(total, done))

        yield update
