"""`perdure token create`: makes a bearer token, and prints the configuration that accepts it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from perdure.api.cli.options import AsJson
from perdure.schemas.errors import ConfigError


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Bearer tokens.", no_args_is_help=True)
    group.callback()(_group)
    group.command(epilog="Example: `perdure token create shop --scope call:Cart --scope read:*`")(create)
    app.add_typer(group, name="token")


def _group() -> None:
    """Bearer tokens."""


def create(
    name: Annotated[str, typer.Argument(help="Its name, which is the principal of requests made with it.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="A right: call:NAMESPACE, read:NAMESPACE, subscribe:NAMESPACE (* for all), admin, metrics."
        ),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="When it expires, such as 2030-01-01T00:00:00Z.", show_default=False)
    ] = None,
    scram: Annotated[
        bool, typer.Option("--scram", help="Print what Kafka clients that use SCRAM are known by, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a token for a client, shown only now, and print the lines that go into the configuration."""
    import secrets
    from datetime import UTC, datetime

    from pydantic import ValidationError

    from perdure.schemas.access import TOKEN_BYTES, Token, token_hash, token_of

    if not scope:
        raise ConfigError(
            "a token without a --scope has no rights; name at least one, such as --scope call:Counter"
        )
    text = token_of(secrets.token_bytes(TOKEN_BYTES))
    try:
        until = None if expires is None else datetime.fromisoformat(expires)
        token = Token(
            name=name,
            scram=_verifiers(text) if scram else (),
            sha256=token_hash(text.encode()),
            scopes=tuple(scope),
            expires=until,
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = first["loc"][0] if first["loc"] else "token"
        raise ConfigError(f"{where}: {str(first['msg']).removeprefix('Value error, ')}") from None
    except ValueError:
        raise ConfigError(
            f'--expires "{expires}" is not a time; write one such as 2030-01-01T00:00:00Z'
        ) from None
    if token.expires is not None and token.expires <= datetime.now(UTC):
        raise ConfigError(f'--expires "{expires}" is in the past: name a later time, or leave it out')
    unset = set() if scram else {"scram"}
    shown: dict[str, Any] = token.model_dump(mode="json", exclude_none=True, exclude=unset)
    if as_json:
        typer.echo(json.dumps({"token": text, **shown}, ensure_ascii=False))
        return
    typer.echo(
        f"the token, shown only now: {text}", err=True
    )  # on stderr, apart from the lines that go into a file
    typer.echo("[[tokens]]")
    for key in [key for key in shown if key != "expires"]:
        typer.echo(f"{key} = {json.dumps(shown[key], ensure_ascii=False)}")
    if token.expires is not None:
        typer.echo(f"expires = {token.expires.isoformat()}")


def _verifiers(token: str) -> tuple[str, ...]:
    """What a configuration has of a token for clients that use SCRAM."""
    import secrets

    from perdure.schemas.scram import HASHES, SALT_BYTES, verifier_of

    return tuple(str(verifier_of(each, token.encode(), secrets.token_bytes(SALT_BYTES))) for each in HASHES)
