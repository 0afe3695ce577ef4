"""`perdure openapi`: the OpenAPI document of an app, without a server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: `perdure openapi app.py > openapi.json`")(openapi)


def openapi(
    path: Annotated[Path, typer.Argument(help="The app: a file or a folder.")] = Path(),
    env: Annotated[str | None, typer.Option("--env", help="Environment: [env.NAME].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, which it always is.")] = True,
) -> None:
    """Print the OpenAPI 3.1 document of an app: what a server of it has at /openapi.json."""
    import msgspec

    from perdure.api.loading import load_app
    from perdure.api.openapi.document import document
    from perdure.objects.registry import Registry

    app = load_app(path, env_name=env, environ=os.environ)
    registry = Registry.build(app.classes, app.config)
    told = document(app.config, registry, has_worker=app.worker is not None)
    typer.echo(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())
