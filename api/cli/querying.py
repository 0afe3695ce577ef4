"""`perdure sql`: a question over all objects and records of an app, on its data or at a running server."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from perdure.api.cli.administering import Server, Token
from perdure.api.cli.options import AppData, AsJson, with_groups

Query = Annotated[
    str,
    typer.Argument(
        help="A SELECT over entries, commands, state, alarms, sockets, parked or partitions.", metavar="QUERY"
    ),
]
At = Annotated[
    str | None,
    typer.Option(
        "--at", help="As of this time: 2026-11-01T12:00, 15m (so long ago), or ms.", show_default=False
    ),
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="Rows at most.")]
Url = Annotated[
    str | None,
    typer.Option("--url", help="Ask this running server instead of reading the data.", show_default=False),
]
_CELL_CHARS = 60


def register(app: typer.Typer) -> None:
    example = 'perdure sql "select * from entries limit 9" app.py'
    app.command("sql", epilog=f"Example: `{example}`")(with_groups(sql))


def sql(
    query: Query,
    app: AppData,
    at: At = None,
    limit: Limit = 1_000,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Ask a question in SQL (DuckDB) over all objects, as of now or of a time. Nothing is changed.

    The app may be running. `puts`, `value`, `args`, `kwargs` and `result` are JSON: `puts->>'count'`.
    """
    if url is not None:
        body: dict[str, Any] = {"query": query, "limit": limit} | ({} if at is None else {"at": at})
        answer = Server(url, token).request("POST", "sql", body)
        columns, rows, cut = answer["columns"], answer["rows"], answer["cut"]
    else:
        columns, rows, cut = _answered(app, query, at, limit)
    if as_json:
        named = [dict(zip(columns, row, strict=True)) for row in rows]
        typer.echo(json.dumps(named, indent=2, ensure_ascii=False))
    else:
        _print(columns, rows)
    if cut:
        typer.echo(f"there are more rows than {limit}: --limit", err=True)


def _answered(
    app: AppData, query: str, at: str | None, limit: int
) -> tuple[list[str], list[list[Any]], bool]:
    import asyncio

    from perdure.schemas.errors import ConfigError
    from perdure.streams.audit.query import parse_time

    try:
        from perdure.streams.sql.query import ask
    except ImportError as error:
        raise ConfigError(
            f"questions need DuckDB and pyarrow, which are not installed ({error.name}): pip install 'duckdb>=1.4,<3' 'pyarrow>=18,<27'"
        ) from None
    at_ms = None if at is None else parse_time(at, int(time.time() * 1000))
    answer = asyncio.run(ask(app.config, query, at_ms=at_ms, limit=limit))
    return answer.columns, answer.rows, answer.cut


def _print(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    cells = [[_cell(each) for each in row] for row in (columns, *rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
    for row in cells:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    text = value if type(value) is str else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _CELL_CHARS else f"{text[: _CELL_CHARS - 1]}…"
