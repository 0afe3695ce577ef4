"""Where the rows of projections lie: one RocksDB for each partition of the journal.

    DATA/projections/{generation}/{partition}/     written by the process that has the partition (shares.py)

All projections of a partition share its database. A row of it is the progress of a projection, or a row that
its function made; both are written in one batch.

Laws [test_projections.py]
- A batch is all or nothing after any crash, and batches survive in order: RocksDB's own WAL keeps them. So
  rows and position always belong together, and what a loss of power takes is folded again.
- Other processes read what was written, without a lock, and never change it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
from rocksdict import AccessType, Options, Rdict, WriteOptions

from perdure.schemas.errors import PerdureError, StorageFailed, StoreCorrupt
from perdure.schemas.journal import NO_CHAIN
from perdure.streams.journal.reader import NO_EPOCH, Position
from perdure.streams.store.rocks import RocksStore

FORMAT = 1
FOLDER = "projections"
_PROGRESS, _ROW, _END = b"m", b"r", b"\0"
_BUFFER_BYTES = 8 << 20


class SkippedEntry(msgspec.Struct, array_like=True, frozen=True):
    """An entry that a projection left out, as its function raised."""

    offset: int
    error: str


class Progress(msgspec.Struct, array_like=True):
    """The progress of a projection in a partition.

    `position` is the reader's; `entries` is how many were folded, the last of them at log time `time_ms`.
    `complete`: the rows have once reached the end of the journal. `error` says why it has stopped, before
    `offset`. `skips` are the last entries that were left out, `skipped` is how many there were.
    """

    format: int = FORMAT
    fingerprint: str = ""
    offset: int = 0
    epoch: int = NO_EPOCH
    seq: int = 0
    chain: bytes = NO_CHAIN
    entries: int = 0
    time_ms: int = 0
    complete: bool = False
    skipped: int = 0
    skips: tuple[SkippedEntry, ...] = ()
    error: str = ""
    live: bool = False

    @property
    def position(self) -> Position:
        """Where the reader goes on."""
        return Position(self.offset, self.epoch, self.seq, self.chain)


encode_progress = msgspec.msgpack.Encoder().encode
_decode_progress = msgspec.msgpack.Decoder(Progress).decode


class RowKeys:
    """The keys of one version of a projection in a database."""

    __slots__ = ("behind", "progress", "rows")

    def __init__(self, name: str, version: int) -> None:
        named = name.encode() + _END + version.to_bytes(4, "big")
        self.progress = _PROGRESS + named
        self.rows = _ROW + named
        self.behind = _ROW + name.encode() + _END + (version + 1).to_bytes(4, "big")

    def of(self, key: str) -> bytes:
        """The key of a row in the database."""
        return self.rows + key.encode()

    def name_in(self, key: bytes) -> str:
        """The row's own key."""
        return key[len(self.rows) :].decode()


def after(prefix: bytes) -> bytes:
    """The first key behind all that begin with `prefix`."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes((kept[-1] + 1,)) if kept else b"\xff" * 64


class RowStore(RocksStore):
    """The database of one partition, for the process that folds it. Raises as `RocksStore`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(path)
        self._unlogged = WriteOptions()  # with the WAL: there is nothing else that would keep a batch

    @staticmethod
    def _open(path: Path, options: Options) -> Rdict:
        options.set_write_buffer_size(_BUFFER_BYTES)
        return Rdict(str(path), options)

    def _named(self, error: Exception) -> Exception:
        return _named(self._path, error)


class RowReading(RocksStore):
    """The database of one partition as another process writes it; `catch_up` shows what was written since."""

    def __init__(self, path: Path) -> None:
        self._scratch = tempfile.mkdtemp(prefix="perdure-rows-")
        try:
            super().__init__(path)
        except BaseException:
            self._forget()
            raise

    def _open(self, path: Path, options: Options) -> Rdict:  # type: ignore[override]  # it needs a folder
        options.create_if_missing(False)
        return Rdict(str(path), options, access_type=AccessType.secondary(self._scratch))

    def catch_up(self) -> None:
        """See what has been written until now."""
        with self._errors():
            self._db.try_catch_up_with_primary()

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._forget()

    def _forget(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _named(self, error: Exception) -> Exception:
        return _named(self._path, error)


def _named(path: Path, error: Exception) -> PerdureError:
    if "orruption" in str(error):
        return StoreCorrupt(
            f"the rows of projections in {path} are damaged: {error}. Stop the processes that fold them and remove "
            "this folder: they are made again from the journal"
        )
    return StorageFailed(f"the rows of projections in {path} cannot be read or written: {error}")


def progress_in(store: RocksStore, keys: RowKeys) -> Progress | None:
    """The progress of a projection in a database; None if it was never begun. Raises `StoreCorrupt`."""
    row = store.get(keys.progress)
    return None if row is None else decode_progress(row)


def decode_progress(row: bytes) -> Progress:
    """Read a row of progress. Raises `StoreCorrupt`."""
    try:
        progress = _decode_progress(row)
    except msgspec.MsgspecError as error:
        raise StoreCorrupt(f"the progress of a projection is unreadable: {error}") from error
    if progress.format > FORMAT:
        raise StoreCorrupt(
            f"the rows of a projection have format {progress.format}, this version of perdure reads {FORMAT}: use a "
            "newer perdure"
        )
    return progress


def versions_in(store: RocksStore) -> Iterator[tuple[str, int, Progress]]:
    """(name, version, progress) of each projection in a database, the older versions first."""
    for key, row in store.scan(_PROGRESS, after(_PROGRESS)):
        name, _, version = key[1:].partition(_END)
        yield name.decode(), int.from_bytes(version, "big"), decode_progress(row)
