"""Entries and commands as Parquet files: a prefix of a partition is decoded once, and then only read.

    DATA/sql/{generation}/{table}/{partition}-{start}-{end}.parquet     records from `start` up to `end`

Laws [test_sql.py]
- A file is used only if the last record of its span is still the one that it was made of: a log that was
  restored or recreated is decoded again.
- Files may be removed at any time. Several processes may make the same one: it appears whole.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from perdure.streams.audit.reader import AuditLog, Span
from perdure.streams.log.base import Bounds, Topic
from perdure.streams.sql.columns import COMMANDS, ENTRIES, ROWS, arrow_of

FORMAT = b"1"
PIECE_RECORDS = 100_000  # so many are made a file; what is left of a partition is decoded each time
_TOPICS = {ENTRIES: Topic.JOURNAL, COMMANDS: Topic.COMMANDS}
_LAST = b"perdure-last"  # of a file's metadata: a hash of the last record in its span


class Pieces(NamedTuple):
    """A table of records: files, and what is not in one."""

    files: list[Path]
    rest: pa.Table


class PieceFolder:
    """The files of one app's log; `folder` is made when the first one is written."""

    def __init__(self, folder: Path, log: AuditLog) -> None:
        self._folder = folder
        self._log = log

    async def table(self, name: str) -> Pieces:
        """All records of a table. Raises as `AuditLog` does."""
        files: list[Path] = []
        rest: list[pa.Table] = [arrow_of(name, ())]
        for partition in range(self._log.partitions):
            bounds = await self._log.bounds(_TOPICS[name], partition)
            there, at = await self._usable(name, partition, bounds)
            files += there
            while bounds.end - at >= PIECE_RECORDS:
                made = await self._made(name, Span(_TOPICS[name], partition, at, at + PIECE_RECORDS))
                files.append(made)
                at += PIECE_RECORDS
            rest += [
                each async for each in self._decoded(name, Span(_TOPICS[name], partition, at, bounds.end))
            ]
        return Pieces(files, pa.concat_tables(rest))

    async def _usable(self, name: str, partition: int, bounds: Bounds) -> tuple[list[Path], int]:
        """The files of a partition that lead on from its start, and where they end."""
        spans: dict[int, tuple[int, Path]] = {}
        for file in (self._folder / name).glob(f"{partition}-*.parquet"):
            with contextlib.suppress(ValueError):  # a file of something else
                _, start, end = map(int, file.stem.split("-"))
                spans[start] = end, file
        at, files = bounds.start, []
        while at in spans and spans[at][0] <= bounds.end:
            end, file = spans[at]
            if _said(file) != await self._last(name, partition, end):
                break
            files.append(file)
            at = end
        return files, at

    async def _last(self, name: str, partition: int, end: int) -> bytes:
        """A hash of the last record before `end`."""
        hashed = blake2b(FORMAT, digest_size=16)
        async for chunk in self._log.log.read(_TOPICS[name], partition, end - 1, end):
            for record in chunk:
                hashed.update(record.value or b"")
        return hashed.hexdigest().encode()

    async def _made(self, name: str, span: Span) -> Path:
        tables = [each async for each in self._decoded(name, span)]
        last = await self._last(name, span.partition, span.end)
        table = pa.concat_tables(tables).replace_schema_metadata({_LAST: last})
        file = self._folder / name / f"{span.partition}-{span.start}-{span.end}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(f".{os.getpid()}.new")
        pq.write_table(table, aside, compression="zstd")
        aside.rename(file)
        return file

    async def _decoded(self, name: str, span: Span) -> AsyncIterator[pa.Table]:
        row_of = ROWS[name]
        if span.start < span.end:
            async for chunk in self._log.read(span):
                rows = [row for record in chunk if (row := row_of(record)) is not None]
                if rows:
                    yield arrow_of(name, rows)


def _said(file: Path) -> bytes:
    try:
        metadata: dict[bytes, bytes] = pq.read_schema(file).metadata or {}
        return metadata.get(_LAST, b"")
    except (OSError, pa.ArrowInvalid):
        return b""


def paths(files: Sequence[Path]) -> str:
    """Files as a list in SQL."""
    quoted = ", ".join("'" + str(file).replace("'", "''") + "'" for file in files)
    return f"[{quoted}]"
