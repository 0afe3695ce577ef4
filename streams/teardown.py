"""Closing what was opened: the last first, and all of it, whatever fails on the way.

Laws
- A closer that fails stops no other one. Each failure is one line of the log that names what was not closed.
- Who waits for `close` may be cancelled: the rest is closed all the same, and then the cancellation goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

from perdure.schemas.errors import OperatorError, PerdureError

_logger = logging.getLogger("perdure")


class Closing:
    """A stack of closers, each with the name under which a failure to close is logged."""

    def __init__(self) -> None:
        self._closers: list[tuple[str, Callable[[], Awaitable[None] | None]]] = []
        self._failures: list[tuple[str, Exception]] = []

    def __len__(self) -> int:
        """How much is still to be closed."""
        return len(self._closers)

    def push(self, what: str, close: Callable[[], Awaitable[None] | None]) -> None:
        """From now on `close` is due; it runs before those that were pushed earlier."""
        self._closers.append((what, close))

    def push_blocking(self, what: str, close: Callable[[], None]) -> None:
        """As `push`, for a closer that waits for a disk: it runs in a thread."""
        self.push(what, lambda: asyncio.to_thread(close))

    async def close(self) -> None:
        """Run every closer that is due. Raises nothing but a cancellation; see `failure`."""
        await to_its_end(self._close())

    async def _close(self) -> None:
        while self._closers:
            what, close = self._closers.pop()
            with self.step(f"close {what}"):
                closing = close()
                if closing is not None:
                    await closing

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """One step of ending: if it fails, that is noted, and the next step follows."""
        try:
            yield
        except Exception as error:
            named = f"{error.code}: {error}" if isinstance(error, PerdureError) else repr(error)
            unnamed = None if isinstance(error, PerdureError) else error  # a bug: with its traceback
            _logger.error("could not %s: %s", what, named, exc_info=unnamed)
            self._failures.append((what, error))

    @property
    def failure(self) -> PerdureError | None:
        """What did not end as it should; None: all of it did. A single error of
        perdure's own is that error.
        """
        if not self._failures:
            return None
        if len(self._failures) == 1 and isinstance(self._failures[0][1], PerdureError):
            return self._failures[0][1]
        return OperatorError(
            "; ".join(f"could not {what}: {error or repr(error)}" for what, error in self._failures)
        )


async def to_its_end(coro: Coroutine[Any, Any, None]) -> None:
    """Run `coro` to its end even if who waits is cancelled; the cancellation goes on only then."""
    task = asyncio.ensure_future(coro)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled
