"""How far a long replay is: told once a second, and only if it is long enough to wait for.

A server logs it as all it tells; a command has a bar.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TELL_FROM_RECORDS = 50_000
TELL_EVERY_S = 1.0


_logger = logging.getLogger("perdure")


class ReplayProgress:
    """Lines such as `replaying the journal  partition=3 done=120000 total=1000000`. Call it with those numbers."""

    def __init__(self) -> None:
        self._told_s = time.monotonic()

    def __call__(self, partition: int, done: int, total: int) -> None:
        now_s = time.monotonic()
        if total < TELL_FROM_RECORDS or now_s - self._told_s < TELL_EVERY_S:
            return
        self._told_s = now_s
        _logger.info("replaying the journal", extra={"partition": partition, "done": done, "total": total})


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int, int], None]]:
    """A bar on stderr for each partition that `bar(partition, done, total)` is told of; nothing where nobody watches."""
    from rich.console import Console  # a server has no bar, and starts without it
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as shown:
        tasks = {}

        def tell(partition: int, done: int, total: int) -> None:
            if partition not in tasks:
                tasks[partition] = shown.add_task(f"partition {partition}", total=total)
            shown.update(tasks[partition], completed=done, total=max(total, done))

        yield tell
