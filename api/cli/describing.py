"""`perdure openapi` and `perdure asyncapi`: print the documents of an app without starting a server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from perdure.api.cli.options import AlwaysJson, EnvName, Log, PathArgument

if TYPE_CHECKING:  # imported when needed, so that `--help` is quick
    from perdure.api.loading import LoadedApp
    from perdure.objects.registry import Registry
    from perdure.schemas.config import Config


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: `perdure openapi app.py > openapi.json`")(openapi)
    app.command(epilog="Example: `perdure asyncapi app.py --log kafka://kafka:9092 > asyncapi.json`")(
        asyncapi
    )


def openapi(path: PathArgument = Path(), env: EnvName = None, as_json: AlwaysJson = True) -> None:
    """Print the OpenAPI 3.1 document of an app, which its server has at /openapi.json."""
    from perdure.api.openapi.document import document

    app, registry = _loaded(path, env, {})
    _print(document(app.config, registry, has_worker=app.worker is not None))


def asyncapi(
    path: PathArgument = Path(), env: EnvName = None, log: Log = None, as_json: AlwaysJson = True
) -> None:
    """Print the AsyncAPI 3.0 document of an app: the records that Kafka clients may write and read."""
    from perdure.api.openapi.asyncapi import asyncapi as document

    app, registry = _loaded(path, env, {} if log is None else {"log": log})
    _print(document(app.config, registry, _topics(app.config)))


def _topics(config: Config) -> str:
    """What the names of the app's topics begin with: after a rescale on Kafka the brokers know."""
    from perdure.schemas.errors import OperatorError
    from perdure.streams.opening import kafka_topics

    if not config.kafka_brokers:
        return config.name
    try:
        import asyncio

        return asyncio.run(kafka_topics(config))
    except OperatorError as error:
        text = f"the topics are named as before any rescale, since the brokers do not say: {error}"
        typer.echo(text, err=True)
        return config.name


def _loaded(path: Path, env: str | None, flags: dict[str, Any]) -> tuple[LoadedApp, Registry]:
    from perdure.api.loading import load_app
    from perdure.objects.registry import Registry

    app = load_app(path, env_name=env, environ=os.environ, flags=flags)
    return app, Registry.build(app.classes, app.config)


def _print(document: dict[str, Any]) -> None:
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
