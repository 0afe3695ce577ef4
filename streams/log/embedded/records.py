"""The rows of the embedded log in RocksDB, and how its database is made and opened.

Each record is one row. A stream of rows is one (topic, partition); `tail.py` adds
to it what is only in memory.

Laws
- A record's key is topic (1 byte), partition (u16), offset (u64), big endian: one ordered run per stream.
- Its value is msgpack [time_ms, key, value, headers].
- A database is made beside its path, and renamed when it is complete and synced. So a database at its path
  was once complete, and what is missing from it now was lost.
- Trimming keeps a row with the stream's first and next offset: offsets are never used again.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import structlog
from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
)

from perdure.schemas.errors import ConfigError, DataDirError, LogCorrupt, OperatorError, StorageFailed
from perdure.streams.log.base import Headers, LogRecord, Topic
from perdure.streams.log.embedded.acked_page import acked_in
from perdure.streams.log.embedded.wal_check import REMEDY, Cut, fsync_path, open_database, operating_error

FORMAT = 1
MARKER = "perdure-log"
TOPIC_BYTE = {Topic.COMMANDS: b"c", Topic.JOURNAL: b"j", Topic.REPLIES: b"r", Topic.DEAD: b"d"}
META_KEY = b"\x00meta"  # rows of the log itself begin with a zero byte
MARK_KEY = b"\x00mark"
TRIM_PREFIX = b"\x00trim"
MIB = 1024 * 1024
READ_CHUNK = 1_000  # records
_logger = structlog.get_logger(__name__)

encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, bytes | None, bytes | None, Headers]).decode


class _Meta(msgspec.Struct):
    marker: str
    format: int
    partitions: int


class Trimmed(msgspec.Struct, array_like=True):
    """A stream's first offset, and lower bounds of its next offset and last time."""

    start: int
    next: int
    last_time_ms: int


def options() -> Options:
    """RocksDB's options for an append-only log: written once in order, read in order and rarely."""
    made = Options(raw_mode=True)  # never pickle: reading a crafted value would run it
    # Few, large tables: keys rise in each stream, but a flush mixes all streams, so each table of level 0
    # overlaps all others and every compaction rewrites; the fewer the better. Replaying a full WAL of
    # this size takes well under a second.
    made.set_write_buffer_size(64 * MIB)
    made.set_max_write_buffer_number(4)  # a slow disk flushes while the log goes on
    made.set_target_file_size_base(64 * MIB)
    made.set_max_bytes_for_level_base(512 * MIB)
    made.set_level_zero_file_num_compaction_trigger(8)
    # A write that RocksDB slows down on purpose would stop the event loop: let reads suffer first.
    made.set_level_zero_slowdown_writes_trigger(40)
    made.set_level_zero_stop_writes_trigger(64)
    made.set_max_background_jobs(2)
    made.set_bytes_per_sync(
        MIB
    )  # tables are written to the disk in small steps: an fsync of the WAL waits less
    made.set_allow_mmap_reads(False)  # an I/O error under mmap is a SIGBUS, not an error
    made.set_allow_mmap_writes(False)
    made.set_recycle_log_file_num(0)  # old records in a new WAL would look like corruption
    made.set_compression_type(DBCompressionType.lz4())
    made.set_keep_log_file_num(4)
    made.set_max_log_file_size(4 * MIB)
    made.set_stats_dump_period_sec(0)
    table = BlockBasedOptions()
    table.set_block_size(32 * 1024)  # always read in runs
    table.set_block_cache(Cache(16 * MIB))
    made.set_block_based_table_factory(table)
    return made


def open_or_create(path: Path, partitions: int, must_exist: bool) -> tuple[Rdict, Cut | None]:
    """The log's database, made if `path` does not exist, and the torn end that was cut off, if any.

    Raises `LogCorrupt`, `DataDirError`, `StorageFailed`, or `ConfigError` if the log was made with
    another partition count.
    """
    if not path.exists():
        if must_exist:
            raise LogCorrupt(f"the log {path} is gone, but it was there before; restore it from a backup")
        _create(path, partitions)
    database, cut = open_database(path, options(), path.parent / "torn", acked_in(path))
    if cut is not None:
        _logger.warning(
            "the end of the log was torn and is cut off; it was not acknowledged",
            file=str(cut.file),
            byte=cut.position,
            bytes=cut.size_bytes,
            records=cut.records,
            copy=str(cut.copy),
        )
    try:
        _check_meta(database, path, partitions)
    except BaseException:
        database.close()
        raise
    return database, cut


def _create(path: Path, partitions: int) -> None:
    aside = path.with_name(path.name + ".new")
    try:
        shutil.rmtree(aside, ignore_errors=True)  # left by a process that died, never used
        path.parent.mkdir(parents=True, exist_ok=True)
        new = options()
        new.create_if_missing(True)
        database = Rdict(str(aside), new)
        database.put(META_KEY, msgspec.msgpack.encode(_Meta(MARKER, FORMAT, partitions)))
        database.flush_wal(True)
        database.close()
        fsync_path(aside)
        os.rename(aside, path)
        fsync_path(path.parent)
    except Exception as error:  # rocksdict raises nothing finer
        raise StorageFailed(f"cannot create a log in {path}: {error}; check the disk") from error


def _check_meta(database: Rdict, path: Path, partitions: int) -> None:
    there = partitions_in(database, path)
    if there != partitions:
        raise ConfigError(
            f"the log in {path} has {there} partitions, {partitions} are configured; "
            f"the number is fixed at creation: set partitions = {there}"
        )


def partitions_in(database: Rdict, path: Path) -> int:
    """How many partitions a log has. Raises `DataDirError` or `LogCorrupt` if it is not one of perdure."""
    row = get(database, META_KEY, path)
    if row is None:
        raise DataDirError(f"{path} is a RocksDB, but not a log of perdure: choose another data directory")
    try:
        meta = msgspec.msgpack.decode(row, type=_Meta)
    except msgspec.MsgspecError as error:
        raise LogCorrupt(f"the meta row of the log in {path} is unreadable: {error}; {REMEDY}") from error
    if meta.marker != MARKER or meta.format > FORMAT:
        raise DataDirError(
            f"the log in {path} has format {meta.marker} {meta.format}, this version of perdure knows up to "
            f"{MARKER} {FORMAT}: use a newer perdure"
        )
    return meta.partitions


def get(database: Rdict, key: bytes, path: Path) -> bytes | None:
    """One row. Raises `LogCorrupt` or `StorageFailed`."""
    try:
        row: bytes | None = database.get(key)
    except Exception as error:  # rocksdict raises nothing finer
        raise operating_error(error, path, "read") from error
    return row


class Rows:
    """The records of one (topic, partition) in the database.

    database, path: the log's, and the directory that it lies in.
    topic, partition: whose records they are.
    number: how the keys of a topic of clients begin; empty for one of perdure's own.
    """

    __slots__ = ("_database", "_path", "_trim_key", "partition", "prefix", "topic")

    def __init__(
        self, database: Rdict, path: Path, topic: Topic | str, partition: int, number: bytes = b""
    ) -> None:
        self._database = database
        self._path = path
        self.topic = topic
        self.partition = partition
        self.prefix = (number or TOPIC_BYTE[Topic(topic)]) + partition.to_bytes(2, "big")
        self._trim_key = TRIM_PREFIX + self.prefix

    def key(self, offset: int) -> bytes:
        return self.prefix + offset.to_bytes(8, "big")

    def where(self, offset: int) -> str:
        return f"topic {self.topic}, partition {self.partition}, offset {offset}"

    def recover(self) -> Trimmed:
        """Where the stream starts and goes on, records by one seek from its end."""
        row = get(self._database, self._trim_key, self._path)
        known = Trimmed(0, 0, 0) if row is None else msgspec.msgpack.decode(row, type=Trimmed)
        last = self._last()
        if last is not None:
            if last.offset < known.start:
                raise self.missing(known.start, "the stream ends before it")
            known.next = max(known.next, last.offset + 1)
            known.last_time_ms = max(known.last_time_ms, last.time_ms)
        return known

    def trim(self, write: WriteBatch, start: int, trimmed: Trimmed) -> None:
        """Put into `write` that the records from `start` to before `trimmed.start` are removed."""
        write.delete_range(self.key(start), self.key(trimmed.start))
        write.put(self._trim_key, msgspec.msgpack.encode(trimmed))

    def scan(self, start: int, end: int, limit: int) -> list[LogRecord]:
        """Records from `start` up to `end`, at most `limit`. Raises `LogCorrupt` if one is missing."""
        stop = min(end, start + limit)
        return self._run(start, stop) or self._collected(start, stop)

    def scan_bytes(self, start: int, end: int, max_bytes: int) -> list[LogRecord]:
        """As `scan`, up to `max_bytes` of records; at least one record."""
        stop = min(end, start + READ_CHUNK)
        if start >= stop:
            return []
        bounds = ReadOptions()
        bounds.set_iterate_upper_bound(self.key(stop))
        records: list[LogRecord] = []
        left = max_bytes
        try:
            for row in self._database.values(from_key=self.key(start), read_opt=bounds):
                left -= len(row)
                if left < 0 and records:
                    return records
                time_ms, key, value, headers = _decode(row)
                records.append(LogRecord(start + len(records), time_ms, key, value, headers))
        except Exception:  # noqa: BLE001 - as in `_run`
            return self._collected(start, stop)
        return records if len(records) == stop - start else self._collected(start, stop)

    def _run(self, start: int, stop: int) -> list[LogRecord] | None:
        """All records with start <= offset < stop; None if one is missing or unreadable.

        Keys are not read: between these two there are no other rows, so the right
        number of them means that all are there.
        """
        bounds = ReadOptions()
        bounds.set_iterate_upper_bound(self.key(stop))
        records: list[LogRecord] = []
        add = records.append
        try:
            rows = map(_decode, self._database.values(from_key=self.key(start), read_opt=bounds))
            for offset, (time_ms, key, value, headers) in enumerate(rows, start):
                add(LogRecord(offset, time_ms, key, value, headers))
        except Exception:  # noqa: BLE001 - rocksdict raises nothing finer; `_collected` finds out what is wrong
            return None
        return records if len(records) == stop - start else None

    def _collected(self, start: int, stop: int) -> list[LogRecord]:
        """As `_run`, row by row, to find which record is missing or unreadable, and why."""
        records, error = self._collect(start, stop)
        offset = start + len(records)
        if isinstance(error, msgspec.MsgspecError):
            raise self.missing(offset, f"the record is unreadable ({error})")
        if error is not None:
            raise self._failed(error, offset)
        if offset < stop:
            raise self.missing(offset, "the record is missing")
        return records

    def _collect(self, start: int, stop: int) -> tuple[list[LogRecord], Exception | None]:
        """The records from `start` on up to the first gap, and the error that ended the scan, if any.

        The error is returned without its frames: one that is kept must not keep the iterator alive, for
        then the database could not be closed.
        """
        bounds = ReadOptions()
        bounds.set_iterate_upper_bound(self.key(stop))
        records: list[LogRecord] = []
        add, decode, prefix, offset = records.append, _decode, self.prefix, start
        try:
            rows = self._database.iter(bounds)
            rows.seek(self.key(start))
            valid, key, value, advance = rows.valid, rows.key, rows.value, rows.next
            while valid() and key() == prefix + offset.to_bytes(8, "big"):
                add(LogRecord(offset, *decode(value())))
                offset += 1
                advance()
            rows.status()  # raises: a scan over a damaged table only ends early
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing finer
            return records, error.with_traceback(None)
        return records, None

    def mean_bytes(self, start: int, end: int) -> float:
        """The approximate size of a record, from the first and the last one."""
        if start >= end:
            return 0.0
        ends = [*self.scan(start, end, 1), *self.scan(end - 1, end, 1)]
        return sum(len(encode((r.time_ms, r.key, r.value, r.headers))) + 11 for r in ends) / 2

    def missing(self, offset: int, why: str) -> LogCorrupt:
        return LogCorrupt(f"{self.where(offset)} of the log in {self._path}: {why}; {REMEDY}")

    def _failed(self, error: Exception, offset: int) -> OperatorError:
        meant = operating_error(error, self._path, "read")
        return type(meant)(f"{self.where(offset)}: {meant}")

    def _last(self) -> LogRecord | None:
        row, error = self._last_row()
        if error is not None:
            raise self._failed(error, 0)
        if row is None or not row[0].startswith(self.prefix):
            return None
        offset = int.from_bytes(row[0][len(self.prefix) :], "big")
        try:
            return LogRecord(offset, *_decode(row[1]))
        except msgspec.MsgspecError as unreadable:
            raise self.missing(offset, f"the record is unreadable ({unreadable})") from unreadable

    def _last_row(self) -> tuple[tuple[bytes, bytes] | None, Exception | None]:
        """The last row of this stream or of those before it; errors as in `_collect`."""
        try:
            rows = self._database.iter(ReadOptions())
            rows.seek_for_prev(self.key(2**64 - 1))
            row = (rows.key(), rows.value()) if rows.valid() else None
            rows.status()
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing finer
            return None, error.with_traceback(None)
        return row, None
