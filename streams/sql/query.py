"""Runs one question: a SELECT in DuckDB, over the tables that it names.

Laws [test_sql.py]
- One statement, and only one that reads. The database is in memory, has no access to files beside those of
  `pieces.py` or to the network, and its settings are locked before the question is seen.
- Only the tables that are named are made.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import duckdb

from perdure.schemas.config import Config
from perdure.schemas.errors import MalformedCommand
from perdure.schemas.json_preview import json_preview
from perdure.streams.audit.reader import AuditLog, open_audit
from perdure.streams.datadir import AppFile, app_in, is_data_dir, log_in
from perdure.streams.log.base import Topic
from perdure.streams.sql.columns import FOLDED, PARTITIONS, SCHEMAS, arrow_of, folded_rows
from perdure.streams.sql.pieces import PieceFolder, paths
from perdure.streams.sql.state_at import tables_at
from perdure.streams.state.tables import Tables

FOLDER = "sql"
ROWS_MAX = 1_000_000
MEMORY = "1GB"  # of the database; what does not fit is an error of the question
_READS = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)


class Answer(NamedTuple):
    """The answer to a question: the names of its columns, and its rows as types of JSON.

    `cut`: there were more rows than were requested.
    """

    columns: list[str]
    rows: list[list[Any]]
    cut: bool


async def ask(config: Config, question: str, *, at_ms: int | None = None, limit: int = ROWS_MAX) -> Answer:
    """Answer a question about the app of a configuration, offline or beside its nodes.

    config: the app's configuration.
    question: the SELECT.
    at_ms: as of this time, in ms since 1970; None: as of now.
    limit: so many rows at most.

    Raises `MalformedCommand` for the question, and what `open_audit` raises.
    """
    async with open_audit(config) as log, _database(config, log, question, at_ms) as connection:
        try:
            result = connection.execute(question)
            columns = [each[0] for each in result.description or ()]
            rows = result.fetchmany(limit + 1)
        except duckdb.Error as error:
            raise _wrong(error) from None
    return Answer(columns, [[_shown(each) for each in row] for row in rows[:limit]], len(rows) > limit)


@asynccontextmanager
async def _database(
    config: Config, log: AuditLog, question: str, at_ms: int | None
) -> AsyncIterator[duckdb.DuckDBPyConnection]:
    """A database with the tables that the question names."""
    folder = config.data_dir / FOLDER / _generation(config)
    async with AsyncExitStack() as opened:
        connection = opened.enter_context(duckdb.connect(":memory:"))
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET python_enable_replacements = false")
        named = _named(connection, question)
        for table in sorted(named - FOLDED):
            await _add_records(connection, table, PieceFolder(folder, log), at_ms)
        if named & FOLDED:
            tables = await opened.enter_async_context(tables_at(log, _state(config), at_ms))
            for table in sorted(named & FOLDED):
                rows = await _folded(table, tables, log)
                connection.register(table, rows)
        connection.execute(f"SET allowed_directories = ['{str(folder).replace(chr(39), chr(39) * 2)}']")
        connection.execute(f"SET memory_limit = '{MEMORY}'")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection


def _named(connection: duckdb.DuckDBPyConnection, question: str) -> set[str]:
    """The tables that a question names. Raises `MalformedCommand` if it is not one SELECT."""
    try:
        statements = connection.extract_statements(question)
        if len(statements) != 1 or statements[0].type not in _READS:
            raise MalformedCommand("a question is one SELECT: nothing can be changed here")
        named = {name.lower() for name in connection.get_table_names(question)}
    except duckdb.Error as error:
        raise _wrong(error) from None
    return named & SCHEMAS.keys()


async def _add_records(
    connection: duckdb.DuckDBPyConnection, table: str, folder: PieceFolder, at_ms: int | None
) -> None:
    pieces = await folder.table(table)
    connection.register(f"{table}_rest", pieces.rest)
    parts = [f"SELECT * FROM {table}_rest"]
    if pieces.files:
        parts.insert(0, f"SELECT * FROM read_parquet({paths(pieces.files)})")
    before = "" if at_ms is None else f" WHERE time <= make_timestamptz({at_ms * 1000})"
    connection.execute(f"CREATE VIEW {table} AS SELECT * FROM ({' UNION ALL '.join(parts)}){before}")


async def _folded(table: str, tables: list[Tables], log: AuditLog) -> Any:
    if table != PARTITIONS:
        return arrow_of(table, (row for each in tables for row in folded_rows(table, each)))
    rows = []
    for each in tables:
        journal = await log.bounds(Topic.JOURNAL, each.partition)
        commands = await log.bounds(Topic.COMMANDS, each.partition)
        info = each.info
        rows.append((each.partition, *journal, *commands, each.reader.epoch, info.offset, info.watermark))
    return arrow_of(table, rows)


def _app(config: Config) -> AppFile | None:
    return app_in(config.data_dir) if is_data_dir(config.data_dir) else None


def _generation(config: Config) -> str:
    """Names the log in the folder of files: what was decoded of another one is not used."""
    if not config.kafka_brokers:
        return log_in(config.data_dir).name
    return f"{config.name}-kafka"


def _state(config: Config) -> Path | None:
    app = _app(config)
    if app is None:
        return None
    state = config.data_dir / (f"state.{app.generation}" if app.generation else "state")
    return state if state.exists() else None


def _shown(value: Any) -> Any:
    """A value of an answer as JSON has it."""
    if isinstance(value, datetime):
        shown = value.astimezone(UTC) if value.tzinfo else value
        return shown.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, date | time | timedelta | UUID | Decimal):
        return str(value)
    if isinstance(value, list | tuple):
        return [_shown(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _shown(each) for key, each in value.items()}
    return json_preview(value)


def _wrong(error: Exception) -> MalformedCommand:
    return MalformedCommand(" ".join(str(error).split())[:1000])
