"""`perdure config show`: the effective configuration, after file, environment variables and flags."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from perdure.api.cli.options import AsJson, EnvName, PathArgument

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Look at the configuration.", no_args_is_help=True)
    group.command(epilog="Example: `perdure config show app.py --env production --json`")(show)
    app.add_typer(group, name="config")


def show(
    path: PathArgument = Path(),
    env: EnvName = None,
    as_json: AsJson = False,
) -> None:
    """Print the effective configuration as TOML; values whose name looks secret are masked."""
    from perdure.api.loading import load_config
    from perdure.objects.zones import rules
    from perdure.schemas.config import masked

    shown = masked(load_config(path, env_name=env, environ=os.environ))
    if as_json:
        typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    typer.echo(f"# time zones of cron alarms: {rules()}")
    values = dict(_flat(shown))
    tables = {key: value for key, value in values.items() if _is_tables(value)}
    for key, value in values.items():
        if key not in tables:
            typer.echo(f"# {key} is not set" if value is None else f"{key} = {_toml(value)}")
    for key, rows in tables.items():
        for row in rows:
            typer.echo(f"\n[[{key}]]")
            for name, value in _flat(row):
                if value is not None and value != []:
                    typer.echo(f"{name} = {_toml(value)}")


def _flat(table: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        name = f"{where}{key if _BARE.fullmatch(key) else json.dumps(key, ensure_ascii=False)}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _toml(value: Any) -> str:
    """A value as TOML, which is written as JSON except for tables.

    TOML has no null: such values are left out.
    """
    if isinstance(value, dict):
        return (
            "{ "
            + ", ".join(f"{name} = {_toml(each)}" for name, each in _flat(value) if each is not None)
            + " }"
        )
    if isinstance(value, list):
        return "[" + ", ".join(_toml(each) for each in value if each is not None) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
