"""The embedded log of another process, only read: what was durable when it was opened here.

It takes no lock and changes no record (rocksdict writes its own little file anew, with what stands in it). Its owner may go
on meanwhile: RocksDB keeps the files of whoever has them open, and who comes while one goes cannot open it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from rocksdict import AccessType, Rdict

from perdure.schemas.errors import StorageFailed
from perdure.streams.log.base import LogRecord, Topic
from perdure.streams.log.embedded.records import READ_CHUNK, Rows, options


class EmbeddedReading:
    """The log in the directory `path`. Raises `StorageFailed`."""

    exclusive = True

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._database = Rdict(str(path), options(), access_type=AccessType.read_only())
        except Exception as error:  # rocksdict raises nothing finer
            raise StorageFailed(f"cannot read the log in {path} beside its owner: {error}") from error

    async def read(
        self, topic: Topic, partition: int, start: int, end: int
    ) -> AsyncIterator[Sequence[LogRecord]]:
        """See `Log.read`; what is not there is `LogCorrupt`, as nothing more will come."""
        rows = Rows(self._database, self._path, topic, partition)
        while start < end:
            chunk = rows.scan(start, end, READ_CHUNK)
            start += len(chunk)
            yield chunk

    async def close(self) -> None:
        self._database.close()
