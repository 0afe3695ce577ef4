"""The embedded log of another process, read while that process goes on writing it.

A process that folds projections beside a node reads the log this way. RocksDB opens the files as a
*secondary*: it takes no lock, changes nothing, and reads again what the node has written whenever it is asked
to catch up.

Law: only durable records are returned. What is seen at one catch-up is given out once the node's page of
what was acknowledged (acked_page.py) covers it. [test_following.py]
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from rocksdict import AccessType, Rdict

from perdure.schemas.errors import StorageFailed
from perdure.streams.log.base import Bounds, LogRecord, Topic
from perdure.streams.log.embedded.acked_page import acked_in
from perdure.streams.log.embedded.records import READ_CHUNK, Rows, options


class EmbeddedFollowing:
    """The log in the directory `path`, with `partitions`; `close` it."""

    exclusive = True

    def __init__(self, path: Path, partitions: int) -> None:
        self.partitions = partitions
        self.generation = path.name
        self._path = path
        self._scratch = tempfile.mkdtemp(prefix="perdure-log-")
        self._database: Rdict | None = None
        self._seen = -1  # the last change that was visible at the last catch-up
        self._ends: dict[tuple[Topic, int], Bounds] = {}

    async def all_bounds(self, topic: Topic) -> dict[int, Bounds]:
        """The bounds of each partition, as far as records are known to be durable.

        Empty if there is no log yet. Raises `StorageFailed` or `LogCorrupt`.
        """
        if self._open() and (self._seen < 0 or self._durable()):
            assert self._database is not None
            try:
                self._database.try_catch_up_with_primary()
            except Exception as error:  # rocksdict raises nothing finer
                self._reopen()
                raise StorageFailed(f"cannot follow the log in {self._path}: {error}") from error
            self._seen = self._database.latest_sequence_number()
        if not self._durable():
            await asyncio.sleep(0.002)  # its fsync is under way, if the node lives
            if not self._durable():
                return {p: each for (t, p), each in self._ends.items() if t is topic}
        assert self._database is not None
        for partition in range(self.partitions):
            known = Rows(self._database, self._path, topic, partition).recover()
            self._ends[topic, partition] = Bounds(known.start, known.next)
        return {p: each for (t, p), each in self._ends.items() if t is topic}

    def _durable(self) -> bool:
        """True if all that is visible was acknowledged."""
        return self._database is not None and 0 <= self._seen <= acked_in(self._path)

    def _open(self) -> bool:
        """Open the log if it is there; returns whether it is open."""
        if self._database is None and self._path.exists():
            settings = options()
            settings.set_max_open_files(-1)  # files that the node removes stay readable
            try:
                self._database = Rdict(
                    str(self._path), settings, access_type=AccessType.secondary(self._scratch)
                )
            except Exception as error:  # as above
                raise StorageFailed(
                    f"cannot read the log in {self._path} beside its node: {error}"
                ) from error
        return self._database is not None

    def _reopen(self) -> None:
        database, self._database, self._seen = self._database, None, -1
        if database is not None:
            database.close()

    async def read(
        self, topic: Topic, partition: int, start: int, end: int
    ) -> AsyncIterator[Sequence[LogRecord]]:
        """See `Log.read`; `end` is at most that of `all_bounds`."""
        assert self._database is not None, "all_bounds() opens it"
        rows = Rows(self._database, self._path, topic, partition)
        while start < end:
            chunk = rows.scan(start, end, READ_CHUNK)
            start += len(chunk)
            yield chunk

    async def close(self) -> None:
        self._reopen()
        shutil.rmtree(self._scratch, ignore_errors=True)
