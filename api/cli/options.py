"""Options that several commands share: which app, where its data is, on which log, in which environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PathArgument = Annotated[Path, typer.Argument(help="The app: a file or a folder.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of the log and the state. [default: .perdure beside the app]"),
]
Log = Annotated[str | None, typer.Option("--log", help="embedded, or kafka://host:port[,host:port].")]
EnvName = Annotated[str | None, typer.Option("--env", help="Environment: [env.NAME] of the configuration.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
AlwaysJson = Annotated[bool, typer.Option("--json", help="Accepted for symmetry: the output is always JSON.")]
