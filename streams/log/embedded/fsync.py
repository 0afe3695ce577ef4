"""The fsyncs of the embedded log, one at a time: in a thread of their own, or, for
a small commit, on the event loop.

`log.py` writes a sealed batch into RocksDB and hands it over here. When the fsync has returned, the log
acknowledges the commands and entries in it.

Laws
- The outcome of each is reported once, on the event loop, in order.
- An fsync in the thread leaves the event loop free to fill the next batch. One on the loop blocks it, but
  saves two switches of thread. So only a small commit, such as a single command with its entry, is synced
  there, and only while the disk is quick.
- The watchdog's alarm does not interrupt an fsync: RocksDB treats an interrupted fsync as a failed one.
- The page of acked_page.py is updated before the outcome is reported.
- An fsync that takes long is logged while it lasts, after `HUNG_S` and each time its age has doubled, by a
  thread that does nothing else: an fsync on the loop blocks every answer, `/livez` too, and code on the loop
  could not report it.
- An fsync that takes `fsync_s` ends the process, as a SIGKILL would: nothing that waits was acknowledged, and
  a supervisor can restart the process, here or elsewhere. It ends even if the log line cannot be written, as
  to a file on that disk.
"""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import threading
from collections.abc import Callable
from functools import partial
from math import inf
from pathlib import Path
from time import perf_counter

import structlog
from rocksdict import Rdict

from perdure.streams import failpoints
from perdure.streams.log.embedded.acked_page import Acked
from perdure.streams.log.embedded.tail import EmbeddedStream
from perdure.streams.log.embedded.write_batch import CommitBatch

QUICK_S = 0.0005
SMALL_RECORDS, SMALL_BYTES = 2, 64 * 1024  # about one command with its entry, neither of them large
HUNG_S = 5.0
SAYING_S = 1.0  # the longest wait for a log line to be written
EXIT_HUNG = 70  # as whenever a node stops by itself
LOOKS_EVERY_S = 1.0
_SMOOTHED = 8  # over about so many fsyncs
_ALARM = (int(signal.SIGALRM),)  # the main thread gets it several times a second

_logger = structlog.get_logger(__name__)

Ends = list[tuple[EmbeddedStream, int]]  # how far a commit made which streams durable
Synced = Callable[[CommitBatch, Ends, BaseException | None], None]


class Sync:
    """Makes the batches of the database in `path` durable.

    `synced(batch, ends, error)` is called when a batch is durable, or, with an error, may not be. An fsync
    that takes `fsync_s` ends the process.
    """

    def __init__(
        self,
        database: Rdict,
        path: Path,
        loop: asyncio.AbstractEventLoop,
        synced: Synced,
        fsync_s: float = inf,
    ) -> None:
        self._database = database
        self._loop = loop
        self._synced = synced
        self._acked = Acked(path)
        self._mean_s = inf  # until the first fsync
        self._path = path
        self._fsync_s = fsync_s
        self._began_s = 0.0  # of the fsync in progress; 0 if there is none
        self._on_loop = False
        self._over = threading.Event()
        self._waiting: queue.SimpleQueue[tuple[CommitBatch, Ends] | None] = queue.SimpleQueue()  # one at most
        # A daemon: a process that dies without `close` must not hang on it.
        self._thread = threading.Thread(target=self._run, name="log-sync", daemon=True)
        self._thread.start()
        threading.Thread(target=self._look_on, name="log-sync-alarm", daemon=True).start()

    def sync(self, batch: CommitBatch, ends: Ends, size_bytes: int) -> None:
        """Make a batch durable that was written, of `size_bytes`. The previous one is durable, and
        nothing was written after it.
        """
        batch.last_change = self._database.latest_sequence_number()
        if batch.count > SMALL_RECORDS or size_bytes > SMALL_BYTES or self._mean_s >= QUICK_S:
            self._waiting.put((batch, ends))
            return
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALARM)
        self._on_loop = True
        error = self._fsync(batch)
        self._on_loop = False
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._synced(batch, ends, error)

    def close(self) -> None:
        """Wait for the fsync in progress; its outcome is not reported if the loop does not run any more."""
        self._waiting.put(None)
        self._thread.join()
        self._over.set()
        self._acked.close()

    def _run(self) -> None:
        while (commit := self._waiting.get()) is not None:
            self._loop.call_soon_threadsafe(self._synced, *commit, self._fsync(commit[0]))

    def _look_on(self) -> None:
        """Log that an fsync hangs, and when it is over; end the process if it hangs for too long."""
        said_s = 0.0  # when the last one that was logged had begun
        again_s = HUNG_S
        while not self._over.wait(LOOKS_EVERY_S):
            began_s = self._began_s
            if said_s and began_s != said_s:
                self._say("warning", "the fsync that took long is over")
                said_s, again_s = 0.0, HUNG_S
            took_s = perf_counter() - began_s
            if not began_s:
                continue
            if took_s >= self._fsync_s:
                event = "the disk does not answer: an fsync of the log has taken limits.fsync_s, and this process ends"
                self._say("critical", event, seconds=round(took_s))
                os._exit(EXIT_HUNG)
            if took_s < again_s:
                continue
            said_s, again_s = began_s, 2 * took_s
            self._say(
                "critical",
                "the disk does not answer: an fsync of the log hangs, and what waits for it with it",
                seconds=round(took_s),
                loop="waits too: nothing is answered, /livez neither" if self._on_loop else "goes on",
                ends_after_s=self._fsync_s,
            )

    def _say(self, level: str, event: str, **facts: object) -> None:
        """Log a line. If writing it hangs too, it is not waited for."""
        say = partial(getattr(_logger, level), event, log=str(self._path), **facts)
        saying = threading.Thread(target=say, name="log-sync-says", daemon=True)
        saying.start()
        saying.join(SAYING_S)

    def _fsync(self, batch: CommitBatch) -> BaseException | None:
        self._began_s = began = perf_counter()
        try:
            self._database.flush_wal(True)
            if failpoints.armed:
                failpoints.hit("log.after_sync")
            self._acked.store(batch.last_change)
        except BaseException as raised:  # noqa: BLE001 - reported to the log, which stops
            return raised
        finally:
            self._began_s = 0.0
        took_s = perf_counter() - began
        self._mean_s = took_s if self._mean_s == inf else self._mean_s + (took_s - self._mean_s) / _SMOOTHED
        return None
