"""`perdure snapshot`: take, list, verify and prune snapshots of an app's partitions.

`take` works on a stopped app, whose data directory it locks, or asks a running one (`--url`). The others read
the place where the snapshots lie.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from perdure.api.cli.administering import Server, Token
from perdure.api.cli.options import AppData, AsJson, with_groups
from perdure.api.cli.state import FAILED, OK

Url = Annotated[
    str | None,
    typer.Option("--url", help="A running server, which is to take them.", show_default=False),
]
Replay = Annotated[
    bool,
    typer.Option("--replay", help="Also compare each with a replay of the journal, and mark it as verified."),
]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Snapshots of an app's partitions.", no_args_is_help=True)
    for function, example in (
        (take, "take app.py --data /var/lib/app"),
        (list_, "list app.py"),
        (verify, "verify app.py --replay"),
        (prune, "prune app.py"),
    ):
        name = function.__name__.rstrip("_")
        group.command(name, epilog=f"Example: `perdure snapshot {example}`")(with_groups(function))
    app.add_typer(group, name="snapshot")


def take(data: AppData, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """Take a snapshot of each partition: of a stopped app, or with --url of a running one."""
    if url is not None:
        result = Server(url, token).post("snapshots/take")
    else:
        import asyncio

        from perdure.streams.snapshots.offline import take_all

        result = asyncio.run(take_all(data.config))
    _print(result, as_json=as_json)


def list_(data: AppData, as_json: AsJson = False) -> None:
    """List the snapshots, by partition, the newest first."""
    from perdure.streams.snapshots.listing import list_all
    from perdure.streams.snapshots.offline import place_of

    config = data.config
    _print(list_all(place_of(config), config.name, config.partitions), as_json=as_json)


def verify(data: AppData, replay: Replay = False, as_json: AsJson = False) -> None:
    """Read each snapshot back and check it; the last line is OK, or FAILED with exit code 1."""
    from perdure.streams.snapshots.offline import verify_all

    result = verify_all(data.config, replay=replay)
    failed = result["failed"]
    if as_json:
        typer.echo(json.dumps({**result, "result": FAILED if failed else OK}, indent=2))
    else:
        for each in failed:
            typer.echo(f"perdure: {each['code']}: {each['reason']}", err=True)
        typer.echo(f"snapshots: {result['snapshots']}")
        typer.echo(f"rows: {result['rows']}")
        typer.echo(FAILED if failed else OK)
    if failed:
        raise typer.Exit(1)


def prune(data: AppData, as_json: AsJson = False) -> None:
    """Remove the snapshots beyond `snapshots.keep`, and the files that only they had."""
    from perdure.streams.snapshots.offline import prune_all

    result = prune_all(data.config)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        typer.echo(
            f"removed: {len(result['removed'])} snapshots, {result['files']} files, {result['bytes']} bytes"
        )


def _print(result: dict[str, Any], *, as_json: bool) -> None:
    Server(as_json=as_json).show(result, result["snapshots"], "snapshots")
