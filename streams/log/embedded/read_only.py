"""The embedded log of another process, only read: what was durable when it was opened here.

Commands such as `perdure state verify` use it beside a running node. It takes no lock and does not change any
record (rocksdict rewrites its own small file with the same content). The node may go on meanwhile: RocksDB
keeps the files that a reader has open. While it removes files, opening can fail.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from rocksdict import AccessType, Rdict

from perdure.schemas.errors import StorageFailed
from perdure.streams.log.base import Bounds, LogRecord, Stamped, Topic
from perdure.streams.log.embedded.records import READ_CHUNK, Rows, options, partitions_in


class EmbeddedReading:
    """The log in the directory `path`, for reading only. Raises `StorageFailed` if it cannot be opened."""

    exclusive = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = self._open()
        self.partitions = partitions_in(self._database, path)

    def _open(self) -> Rdict:
        try:
            return Rdict(str(self._path), options(), access_type=AccessType.read_only())
        except Exception as error:  # rocksdict raises nothing finer
            raise StorageFailed(f"cannot read the log in {self._path} beside its owner: {error}") from error

    def refresh(self) -> None:
        """Show what has become durable since it was opened. Not while a `read` is under way."""
        database = self._open()
        self._database.close()
        self._database = database

    async def bounds(self, topic: Topic, partition: int) -> Bounds:
        """See `Log.bounds`: as of when it was opened, or refreshed."""
        known = Rows(self._database, self._path, topic, partition).recover()
        return Bounds(known.start, known.next)

    async def since(self, topic: Topic, partition: int, time_ms: int) -> Stamped | None:
        """See `Local.since`."""
        raise NotImplementedError("a log of one process is searched by reading")

    async def read(
        self, topic: Topic, partition: int, start: int, end: int
    ) -> AsyncIterator[Sequence[LogRecord]]:
        """See `Log.read`. Raises `LogCorrupt` if a record is missing: none will be added."""
        rows = Rows(self._database, self._path, topic, partition)
        while start < end:
            chunk = rows.scan(start, end, READ_CHUNK)
            start += len(chunk)
            yield chunk

    async def close(self) -> None:
        self._database.close()
