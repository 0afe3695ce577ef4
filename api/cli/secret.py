"""`perdure secret`: show, create and rotate the secret that perdure's own commands are sealed with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from perdure.api.cli.options import AppData, AsJson, Data, EnvName, PathArgument
from perdure.schemas.errors import ConfigError

if TYPE_CHECKING:
    from perdure.schemas.config import Config


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="The secret that an app's own commands are sealed with.", no_args_is_help=True)
    group.command(epilog="Example: `export PERDURE_SEAL_SECRET=$(perdure secret create)`")(create)
    group.command(epilog="Example: `perdure secret show app.py --data /var/lib/app`")(show)
    group.command(epilog="Example: `perdure secret rotate app.py --data /var/lib/app`")(rotate)
    app.add_typer(group, name="secret")


def create(as_json: AsJson = False) -> None:
    """Print a new secret, for PERDURE_SEAL_SECRET or the file named by seal_secret_file."""
    from perdure.streams.secret import new_secret

    secret = new_secret()
    typer.echo(json.dumps({"secret": secret}) if as_json else secret)


def show(
    path: PathArgument = Path(), data: Data = None, env: EnvName = None, as_json: AsJson = False
) -> None:
    """Show where an app's secret is kept and the ids of the accepted ones, the current first.

    Never a secret itself.
    """
    from perdure.streams.datadir import is_data_dir, no_data_dir
    from perdure.streams.secret import configured, kept_in

    config = AppData(path, data, env=env).config
    secrets = configured(config)
    where = _where(config)
    if secrets is None:
        if not is_data_dir(config.data_dir):
            raise no_data_dir(config.data_dir)
        secrets = kept_in(config.data_dir)
    _print(config, where, secrets, as_json=as_json)


def rotate(
    path: PathArgument = Path(), data: Data = None, env: EnvName = None, as_json: AsJson = False
) -> None:
    """Seal with a new secret from the next start on; previous ones stay accepted. The app must be stopped."""
    from contextlib import closing

    from perdure.streams.opening import open_data
    from perdure.streams.secret import configured
    from perdure.streams.secret import rotate as replace

    config = AppData(path, data, env=env).config
    if configured(config) is not None:
        raise ConfigError(
            f"the secret of {config.name} comes from {_where(config)}: put a new one (perdure secret create) in "
            "front of the old one there, `new,old`, on every node, and restart them"
        )
    with closing(open_data(config, must_exist=True)):
        secrets = replace(config.data_dir)
    _print(config, _where(config), secrets, as_json=as_json)


def _where(config: Config) -> str:
    from perdure.streams.secret import FILE

    if config.seal_secret is not None:
        return "PERDURE_SEAL_SECRET"
    return str(config.seal_secret_file or config.data_dir / FILE)


def _print(config: Config, where: str, secrets: tuple[str, ...] | None, *, as_json: bool) -> None:
    from perdure.schemas.seal import Seal

    ids = list(Seal(*secrets, app=config.name).ids) if secrets else []
    if as_json:
        typer.echo(json.dumps({"app": config.name, "secret": where, "ids": ids}))
        return
    typer.echo(f"secret of {config.name}: {where}")
    if not ids:
        typer.echo("none yet: the next start makes it")
    for number, each in enumerate(ids):
        typer.echo(f"{each}  {'seals' if number == 0 else 'accepted'}")
