"""The store in RocksDB, which an owner's node keeps in its data directory.

Laws, beside those of base.py
- One column family, so that a flush of RocksDB's memtable takes whole writes.
- Files written by `export` are ingested all together or not at all, and survive from then on.
  [contract/test_store.py]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    DBCompressionType,
    IngestExternalFileOptions,
    Options,
    Rdict,
    ReadOptions,
    SstFileWriter,
    WriteBatch,
    WriteOptions,
)

from perdure.schemas.errors import PerdureError, StorageFailed, StoreCorrupt
from perdure.streams.store.base import Range


class RocksStore:
    """The store in a directory. Raises `StoreCorrupt` for damage, `StorageFailed` if the disk refuses."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._options = options = _options()
        with self._errors():
            self._db = self._open(path, options)
        self._unlogged = WriteOptions()
        self._unlogged.disable_wal = True  # type: ignore[method-assign, assignment]  # its stub is wrong: an attribute

    @staticmethod
    def _open(path: Path, options: Options) -> Rdict:
        return Rdict(str(path), options)

    def get(self, key: bytes) -> bytes | None:
        try:
            return self._db.get(key)
        except Exception as error:
            raise self._named(error) from error

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        # the bounds are checked here: rocksdict's `set_iterate_lower_bound` sets the upper one (findings/)
        with self._errors():
            rows = self._db.iter(ReadOptions())
            if reverse:
                rows.seek_for_prev(end)
                if rows.valid() and rows.key() == end:
                    rows.prev()
                while rows.valid() and (key := rows.key()) >= start:
                    yield key, rows.value()
                    rows.prev()
            else:
                rows.seek(start)
                while rows.valid() and (key := rows.key()) < end:
                    yield key, rows.value()
                    rows.next()
            rows.status()  # raises if the scan ended early because of damage

    def write(self, removed: Iterable[Range], rows: Iterable[tuple[bytes, bytes | None]]) -> None:
        batch = WriteBatch(raw_mode=True)
        for start, end in removed:
            batch.delete_range(start, end)
        put, delete = batch.put, batch.delete
        for key, value in rows:
            if value is None:
                delete(key)
            else:
                put(key, value)
        with self._errors():
            self._db.write(batch, self._unlogged)

    def flush(self) -> None:
        with self._errors():
            self._db.flush(True)

    def export(self, start: bytes, end: bytes, file: Path) -> bool:
        """Write the rows with start <= key < end to a file that another store can `take_in`; False if there
        are none."""
        rows = self.scan(start, end)
        first = next(rows, None)
        if first is None:
            return False
        write_rows(chain((first,), rows), file)
        return True

    def take_in(self, files: Iterable[Path]) -> None:
        """Ingest files of `export`, by moving them. The store may have no row in the range of any of them."""
        options = IngestExternalFileOptions()
        options.set_move_files(True)
        with self._errors():
            self._db.ingest_external_file([str(file) for file in files], options)

    def close(self) -> None:
        with self._errors():
            self._db.close()

    def _errors(self) -> _Errors:
        return _Errors(self)

    def _named(self, error: Exception) -> Exception:
        if "orruption" in str(error):
            return StoreCorrupt(
                f"the state in {self._path} is damaged: {error}. Stop perdure and run `perdure state rebuild`: "
                "the log has everything"
            )
        return StorageFailed(f"the state in {self._path} cannot be read or written: {error}")


class RocksReading(RocksStore):
    """The flushed rows of a store that another process has open, as they were when it was opened here."""

    @staticmethod
    def _open(path: Path, options: Options) -> Rdict:
        return Rdict(str(path), options, access_type=AccessType.read_only())


def write_rows(rows: Iterable[tuple[bytes, bytes]], file: Path) -> None:
    """Write rows, in order and at least one, to a file that a store can `take_in`. Raises `StorageFailed`."""
    try:
        writer = SstFileWriter(_options())
        writer.open(str(file))
        for key, value in rows:
            writer[key] = value
        writer.finish()
    except PerdureError:
        raise  # of where the rows come from
    except Exception as error:
        raise StorageFailed(f"cannot write {file}: {error}; check the disk") from error


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_paranoid_checks(True)
    options.set_write_buffer_size(64 << 20)
    # the store's own files hold no WAL, so several memtables may wait for their flush in the background
    options.set_max_write_buffer_number(4)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_atomic_flush(True)
    _filter(options)
    return options


def _filter(options: Options) -> None:
    """Add bloom filters of 10 bits a row, so that RocksDB skips files and memtables that do not have a key.

    Most reads are of keys that do not exist, such as client keys, or that lie in one of many files. Files
    written without filters can still be read.
    """
    blocks = BlockBasedOptions()
    blocks.set_bloom_filter(10, False)
    options.set_block_based_table_factory(blocks)
    options.set_memtable_prefix_bloom_ratio(0.05)
    options.set_memtable_whole_key_filtering(True)


class _Errors:
    """A context that raises what RocksDB raised as an error of `perdure.schemas.errors`."""

    __slots__ = ("_store",)

    def __init__(self, store: RocksStore) -> None:
        self._store = store

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            raise self._store._named(error) from error
