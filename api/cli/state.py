"""`perdure verify` and `perdure state rebuild`: check an app's log and state, or make the state anew.

Both work on the data of a stopped app; a running one holds it.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.api.cli.options import Data, EnvName, Log, PathArgument

if TYPE_CHECKING:
    from perdure.schemas.config import Config

AsJson = Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")]


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: `perdure verify app.py --data /var/lib/app`")(verify)
    group = typer.Typer(help="Look after the state files.", no_args_is_help=True)
    group.command(epilog="Example: `perdure state rebuild app.py --data /var/lib/app`")(rebuild)
    app.add_typer(group, name="state")


def verify(
    path: PathArgument = Path(),
    data: Data = None,
    log: Log = None,
    env: EnvName = None,
    as_json: AsJson = False,
) -> None:
    """Replay the journal and compare it with the state; exit 1 and name the place where they differ."""
    from perdure.api.progress import progress_bar
    from perdure.streams.verify import verify as check

    with progress_bar() as progress:
        findings = asyncio.run(check(_config(path, data, log, env), progress))
    _print(findings, as_json=as_json)


def rebuild(
    path: PathArgument = Path(),
    data: Data = None,
    log: Log = None,
    env: EnvName = None,
    as_json: AsJson = False,
) -> None:
    """Delete the state files and build them anew from the log."""
    from perdure.api.progress import progress_bar
    from perdure.streams.verify import rebuild as build

    with progress_bar() as progress:
        findings = asyncio.run(build(_config(path, data, log, env), progress))
    _print(findings, as_json=as_json)


def _config(path: Path, data: Path | None, log: str | None, env: str | None) -> Config:
    from perdure.api.loading import load_config

    return load_config(path, env_name=env, environ=os.environ, flags={"data_dir": data, "log": log})


def _print(findings: Mapping[str, object], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(findings, indent=2, default=str))
        return
    for name, value in findings.items():
        typer.echo(f"{name}: {value}")
