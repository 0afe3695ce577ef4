"""Exports of the log: JSON Lines, CSV, and Parquet with zstd; an export that was cut short can go on.

Partitions are written one after the other. A small file beside the export says how far it is; `--resume`
continues from there.

Laws [tests/integration/test_log_commands.py]
- However often an export was cut short and resumed, it holds each record once, in the same order.
- Secrets are masked, as everywhere in what is read.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from perdure.schemas.errors import ConfigError, StorageFailed
from perdure.streams.audit.columns import COLUMNS, INTEGERS, Row, row_of
from perdure.streams.audit.query import Query
from perdure.streams.audit.reader import AuditLog, Span
from perdure.streams.audit.records import AuditRecord
from perdure.streams.log.base import Progress, silent

FORMATS = ("jsonl", "csv", "parquet")
PART_ROWS = 100_000  # of a Parquet file
CHECKPOINT_ROWS = 20_000
_encode = msgspec.json.Encoder().encode


def format_of(out: Path, named: str) -> str:
    """The format of an export. Raises `ConfigError`."""
    chosen = named or (out.suffix.removeprefix(".") or "jsonl")
    if chosen not in FORMATS:
        raise ConfigError(f"{chosen!r} is not a format of an export: {', '.join(FORMATS)}")
    return chosen


class _Done(msgspec.Struct):
    """The progress of an export: what was written, and up to where it was read."""

    query: Query
    format: str
    places: dict[str, int] = {}
    position: int = 0  # bytes, or files of Parquet
    records: int = 0


class _Sink(Protocol):
    """The destination of an export: a file, or a folder of files."""

    def add(self, records: Sequence[AuditRecord]) -> None: ...

    def checkpoint(self) -> int:
        """Make durable what was added; returns the position behind it."""

    def close(self) -> None: ...


async def export_log(
    log: AuditLog,
    query: Query,
    out: Path,
    format_: str,
    *,
    resume: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write the records that a query selects.

    log: what is read.
    query: selects the records.
    out: the file, for Parquet a folder.
    format_: one of `FORMATS`.
    resume: go on where an earlier export to `out` ended.
    progress: of the reading, by partition.

    Returns the number of records. Raises `ConfigError` if it cannot be resumed, or `out` is there already.
    """
    mark = out.with_name(out.name + ".progress")
    done = _begun(mark, out, query, format_, resume=resume)
    sink: _Sink = (_Parquet if format_ == "parquet" else _Lines)(out, done.position, format_)
    try:
        _write_mark(done, mark)
        for span in await log.spans(query):
            place = f"{span.topic.value}:{span.partition}"
            await _export(log, query, span, place, done, sink, mark, progress)
        done.position = sink.checkpoint()
    except OSError as error:
        raise StorageFailed(
            f"cannot write {out}: {error}; check the disk, then repeat it with --resume"
        ) from error
    finally:
        sink.close()
    mark.unlink(missing_ok=True)
    return {"records": done.records, "out": str(out), "format": format_}


def _begun(mark: Path, out: Path, query: Query, format_: str, *, resume: bool) -> _Done:
    if resume and mark.exists():
        done = msgspec.json.decode(mark.read_bytes(), type=_Done)
        if done.query != query or done.format != format_:
            raise ConfigError(f"{out} was begun with other filters or another format: it cannot be resumed")
        return done
    if out.exists():
        remedy = "it is complete" if resume else "give another name, or --resume"
        raise ConfigError(f"{out} is there already: {remedy}")
    return _Done(query, format_)


async def _export(
    log: AuditLog,
    query: Query,
    span: Span,
    place: str,
    done: _Done,
    sink: _Sink,
    mark: Path,
    progress: Progress,
) -> None:
    start = max(span.start, done.places.get(place, 0))
    at = start
    waiting = 0
    async for chunk in log.read(span._replace(start=start), query):
        sink.add(chunk)
        done.records += len(chunk)
        waiting += len(chunk)
        at = log.read_up_to
        progress(span.partition, at - span.start, span.end - span.start)
        if waiting >= CHECKPOINT_ROWS:
            waiting = 0
            _checkpoint(done, sink, mark, place, at)
    _checkpoint(done, sink, mark, place, span.end)


def _checkpoint(done: _Done, sink: _Sink, mark: Path, place: str, at: int) -> None:
    done.position = sink.checkpoint()
    done.places[place] = at
    _write_mark(done, mark)


def _write_mark(done: _Done, mark: Path) -> None:
    aside = mark.with_name(mark.name + ".new")
    aside.write_bytes(msgspec.json.encode(done))
    os.replace(aside, mark)


class _Lines:
    """A file of JSON Lines or CSV."""

    def __init__(self, out: Path, position: int, format_: str) -> None:
        self._csv = format_ == "csv"
        self._file = out.open("r+b" if position else "wb")
        self._file.truncate(position)
        self._file.seek(position)
        if self._csv and not position:
            self._file.write((",".join(COLUMNS) + "\n").encode())

    def add(self, records: Sequence[AuditRecord]) -> None:
        """Write records."""
        if self._csv:
            text = io.StringIO(newline="")
            csv.writer(text, lineterminator="\n").writerows(row_of(each) for each in records)
            self._file.write(text.getvalue().encode())
        else:
            self._file.write(b"".join(_encode(each.as_json()) + b"\n" for each in records))

    def checkpoint(self) -> int:
        """See `_Sink`."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """See `_Sink`."""
        self._file.close()


class _Parquet:
    """A folder of Parquet files of `PART_ROWS` rows, compressed with zstd."""

    def __init__(self, out: Path, position: int, format_: str) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise ConfigError("Parquet needs the package pyarrow: pip install 'pyarrow>=18,<27'") from error
        self._arrow, self._write = pyarrow, pyarrow.parquet.write_table
        self._schema = pyarrow.schema([(name, _type_of(pyarrow, name)) for name in COLUMNS])
        self._out, self._part = out, position
        out.mkdir(parents=True, exist_ok=True)
        for stale in out.glob("part-*.parquet*"):
            number = stale.name.removeprefix("part-").partition(".")[0]
            if not number.isdecimal() or int(number) >= position or stale.suffix == ".new":
                stale.unlink()
        self._rows: list[Row] = []

    def add(self, records: Sequence[AuditRecord]) -> None:
        """Write records."""
        self._rows += map(row_of, records)
        if len(self._rows) >= PART_ROWS:
            self.checkpoint()

    def checkpoint(self) -> int:
        """See `_Sink`."""
        if self._rows:
            columns = [list(column) for column in zip(*self._rows, strict=True)]
            table = self._arrow.Table.from_arrays(
                [
                    self._arrow.array(column, field.type)
                    for column, field in zip(columns, self._schema, strict=True)
                ],
                schema=self._schema,
            )
            path = self._out / f"part-{self._part:06d}.parquet"
            aside = path.with_name(path.name + ".new")
            self._write(table, aside, compression="zstd")
            os.replace(aside, path)
            self._rows.clear()
            self._part += 1
        return self._part

    def close(self) -> None:
        """See `_Sink`."""


def _type_of(arrow: Any, name: str) -> Any:
    make: Callable[[], Any] = (
        arrow.int64 if name in INTEGERS else arrow.bool_ if name == "cleared" else arrow.string
    )
    return make()
