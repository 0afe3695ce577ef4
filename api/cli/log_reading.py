"""`perdure log tail`, `show` and `export`: the records of an app's log, filtered, decoded, secrets masked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from perdure.api.cli import checkpointing
from perdure.api.cli.administering import Server
from perdure.api.cli.auditing import AuditSource, turn_line
from perdure.api.cli.options import AsJson, with_groups
from perdure.schemas.errors import ConfigError

if TYPE_CHECKING:
    from perdure.streams.audit.query import Query
    from perdure.streams.audit.reader import AuditLog


class Filters(NamedTuple):
    """The filters of records that several commands share; as of `perdure.audit.Query`."""

    topics: Annotated[str, typer.Option("--topics", help="commands, journal, replies, dead, or all.")] = (
        "journal"
    )
    namespace: Annotated[str, typer.Option("--namespace", help="Of the object.")] = ""
    object: Annotated[str, typer.Option("--object", help="NAMESPACE/NAME.")] = ""
    prefix: Annotated[str, typer.Option("--prefix", help="How the object's key begins.")] = ""
    method: Annotated[str, typer.Option("--method", help="Of the request.")] = ""
    caller: Annotated[str, typer.Option("--caller", help="Principal, or @NAMESPACE/NAME.")] = ""
    kind: Annotated[str, typer.Option("--kind", help="fetch, call, alarm, socket or admin.")] = ""
    outcome: Annotated[str, typer.Option("--outcome", help="ok, refused, failed, rejected, …")] = ""
    type: Annotated[str, typer.Option("--type", help="Of the record, such as entry.")] = ""
    since: Annotated[str, typer.Option("--since", help="A time, or 15m: so long ago.")] = ""
    until: Annotated[str, typer.Option("--until", help="As --since.")] = ""
    partition: Annotated[str, typer.Option("--partition", help="Partitions, with commas.")] = ""
    from_offset: Annotated[str, typer.Option("--from-offset", help="First offset.")] = ""
    to_offset: Annotated[str, typer.Option("--to-offset", help="Offset behind the last.")] = ""
    where: Annotated[
        str, typer.Option("--where", help="An expression: outcome == 'failed' and args[0] > 9")
    ] = ""

    @property
    def fields(self) -> dict[str, str]:
        """Those that are set, by name."""
        return {name: value for name, value in self._asdict().items() if value}

    def query(self, partitions: int) -> Query:
        """The selection that they make. Raises `MalformedCommand`."""
        import time

        from perdure.streams.audit.query import parse_query

        return parse_query(self.fields, partitions, int(time.time() * 1000))


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Read the log: what happened, and proofs of it.", no_args_is_help=True)
    for command, example in (
        (tail, "tail --app app.py --follow --outcome failed"),
        (show, "show --app app.py --object Counter/alice --since 1h --json"),
        (export, "export out.jsonl --app app.py --since 24h"),
    ):
        group.command(epilog=f"Example: `perdure log {example}`")(with_groups(command))
    checkpointing.register(group)
    app.add_typer(group, name="log")


def tail(
    source: AuditSource,
    filters: Filters,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=1000, help="Records to begin with.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is appended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the last records, and with --follow those that are appended, until it is interrupted."""
    if source.url is not None:
        if lines:
            page = Server(source.url, source.token).get("log", {**filters.fields, "limit": str(lines)})
            for record in page["records"]:
                _print(record, as_json=as_json)
        if follow:
            _follow_server(source, filters, as_json=as_json)
        return

    async def run(log: AuditLog) -> None:
        query = filters.query(log.partitions)
        places = [(topic, each) for topic in query.topics for each in query.partitions_of(log.partitions)]
        ends = {place: (await log.bounds(*place)).end for place in places}
        for record in await log.last(query, lines) if lines else ():
            _print(record.as_json(), as_json=as_json)
        if follow:
            async for chunk in log.follow(query, ends):
                for record in chunk:
                    _print(record.as_json(), as_json=as_json)

    source.read(run)


def _follow_server(source: AuditSource, filters: Filters, *, as_json: bool) -> None:
    import httpx

    from perdure.api.cli.calling import no_server
    from perdure.api.client.app import checked_url
    from perdure.api.client.requests import authorization

    assert source.url is not None
    url, headers = checked_url(source.url), authorization(source.token)
    timeout = httpx.Timeout(10.0, read=None)
    address = f"{url}/admin/log/events"
    try:
        with httpx.stream("GET", address, params=filters.fields, headers=headers, timeout=timeout) as answer:
            if answer.status_code != 200:
                answer.read()
                raise ConfigError(f"{url} answered {answer.status_code}: {answer.text[:200]}")
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    _print(json.loads(line.removeprefix("data: ")), as_json=as_json)
    except httpx.HTTPError:
        raise no_server(source.url) from None


def show(
    source: AuditSource,
    filters: Filters,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many records.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Print the records that the filters select, in the order of their times."""
    if source.url is not None:
        server, cursor, pages = Server(source.url, source.token), "", []
        left = limit
        while left > 0:
            query = {**filters.fields, "limit": str(min(left, 1000))} | ({"cursor": cursor} if cursor else {})
            page = server.get("log", query)
            pages.append(page["records"])
            left -= len(page["records"])
            cursor = page["cursor"] or ""
            if not cursor:
                break
        for records in reversed(pages):
            for record in records:
                _print(record, as_json=as_json)
        return

    async def run(log: AuditLog) -> None:
        left = limit
        async for record in log.records(filters.query(log.partitions)):
            _print(record.as_json(), as_json=as_json)
            left -= 1
            if not left:
                return

    source.read(run)


def export(
    source: AuditSource,
    filters: Filters,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File; for Parquet a folder of files.")],
    format_: Annotated[
        str, typer.Option("--format", help="jsonl, csv or parquet. [default: by the name]")
    ] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an export to OUT ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the records that the filters select to JSON Lines, CSV, or Parquet with zstd."""
    from perdure.api.telemetry.replay_progress import progress_bar
    from perdure.streams.audit.export import export_log, format_of

    if source.url is not None:
        raise ConfigError("export reads the app's data: give --app, not --url; a server may run meanwhile")
    chosen = format_of(out, format_)
    with progress_bar() as progress:
        result = source.read(
            lambda log: export_log(
                log, filters.query(log.partitions), out, chosen, resume=resume, progress=progress
            )
        )
    typer.echo(json.dumps(result) if as_json else f"{result['records']} records written to {out}")


def _print(record: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(record, ensure_ascii=False))
        return
    place = f"{record['topic']}:{record['partition']}:{record['offset']}"
    line = turn_line({**record, "journal": place, "changes": {}})
    values = record.get("puts", {}).items()
    puts = "  ".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values)
    typer.echo("  ".join(part for part in (line, record.get("object", ""), puts) if part))
