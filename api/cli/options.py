"""Options that several commands share: which app, where its data is, on which log, in which environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from perdure.schemas.config import Config

PathArgument = Annotated[Path, typer.Argument(help="The app: a file or a folder.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of the log and the state. [default: .perdure beside the app]"),
]
Log = Annotated[str | None, typer.Option("--log", help="embedded, or kafka://host:port[,host:port].")]
EnvName = Annotated[str | None, typer.Option("--env", help="Environment: [env.NAME] of the configuration.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
AlwaysJson = Annotated[bool, typer.Option("--json", help="Accepted for symmetry: the output is always JSON.")]


def config_of(path: Path, data: Path | None, log: str | None, env: str | None) -> Config:
    """The configuration of the app at `path` by these options, for a command that works on its data."""
    from perdure.api.loading import load_config

    flags = {"data_dir": data, "log": log}
    return load_config(path, env_name=env, environ=os.environ, flags=flags, opens_data=True)
