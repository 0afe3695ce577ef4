"""The fsyncs of the embedded log, one at a time: in a thread of their own, or, of a small commit, where it stands.

Laws
- What became of each is told once, on the event loop, in order.
- An fsync in the thread frees the event loop to fill the next batch. One on the loop keeps it waiting, but spares two
  changes of thread. So only a small commit, such as a lone command with its entry, is synced there, and only while the
  disk is quick.
- The watchdog's alarm interrupts no fsync: RocksDB takes one that was interrupted for one that failed.
"""

from __future__ import annotations

import asyncio
import queue
import signal
import threading
from collections.abc import Callable
from math import inf
from time import perf_counter

from rocksdict import Rdict

from perdure.streams import failpoints
from perdure.streams.embedded_batch import Batch
from perdure.streams.embedded_tail import Stream

QUICK_S = 0.0005
_SMOOTHED = 8  # over about so many fsyncs
_ALARM = (int(signal.SIGALRM),)  # it comes to the main thread, several times a second

Ends = list[tuple[Stream, int]]  # how far a commit made which streams durable
Synced = Callable[[Batch, Ends, BaseException | None], None]


class Sync:
    """Of one database. `synced(batch, ends, error)` is called when a batch is durable, or may not be."""

    def __init__(self, database: Rdict, loop: asyncio.AbstractEventLoop, synced: Synced) -> None:
        self._database = database
        self._loop = loop
        self._synced = synced
        self._mean_s = inf  # none was seen yet
        self._waiting: queue.SimpleQueue[tuple[Batch, Ends] | None] = queue.SimpleQueue()  # one at most
        # A daemon: a process that dies without `close` must not hang on it.
        self._thread = threading.Thread(target=self._run, name="log-sync", daemon=True)
        self._thread.start()

    def sync(self, batch: Batch, ends: Ends, *, small: bool) -> None:
        """Make a batch that is written durable; the one before it is."""
        if not small or self._mean_s >= QUICK_S:
            self._waiting.put((batch, ends))
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, _ALARM)
        error = self._fsync()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ALARM)
        self._synced(batch, ends, error)

    def close(self) -> None:
        """Wait for the end of what is under way; it is not told any more if the loop does not run."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (commit := self._waiting.get()) is not None:
            self._loop.call_soon_threadsafe(self._synced, *commit, self._fsync())

    def _fsync(self) -> BaseException | None:
        began = perf_counter()
        try:
            self._database.flush_wal(True)
            failpoints.hit("log.after_sync")
        except BaseException as raised:  # noqa: BLE001 - told to the log, which stops
            return raised
        took_s = perf_counter() - began
        self._mean_s = took_s if self._mean_s == inf else self._mean_s + (took_s - self._mean_s) / _SMOOTHED
        return None
