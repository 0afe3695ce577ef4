"""`perdure config show`: the configuration as it is after file, environment and flags."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Look at the configuration.", no_args_is_help=True)
    group.command(epilog="Example: `perdure config show app.py --env production --json`")(show)
    app.add_typer(group, name="config")


def show(
    path: Annotated[Path, typer.Argument(help="The app: a file or a folder.")] = Path(),
    env: Annotated[str | None, typer.Option("--env", help="Environment: [env.NAME].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Print the effective configuration; values whose name looks secret are masked."""
    from perdure.api.loading import load_config
    from perdure.schemas.config import masked

    shown = masked(load_config(path, env_name=env, environ=os.environ))
    if as_json:
        typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    for key, value in _flat(shown):
        typer.echo(f"{key} = {json.dumps(value, ensure_ascii=False)}")


def _flat(table: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{where}{key}.")
        else:
            yield f"{where}{key}", value
