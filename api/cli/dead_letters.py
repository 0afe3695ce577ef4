"""`perdure dead`: the dead letters of a running server, over HTTP."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from perdure.api.cli.administering import Cursor, Limit, Server, page
from perdure.api.cli.options import with_groups

Letter = Annotated[
    str, typer.Argument(metavar="ID", help="The id that `perdure dead list` shows, such as 0:17.")
]


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        help="Records of Kafka clients that were not commands, and why (dead letters).", no_args_is_help=True
    )
    group.command("list", epilog="Example: `perdure dead list --json`")(with_groups(list_))
    group.command(epilog="Example: `perdure dead show 0:17`")(with_groups(show))
    group.command(epilog="Example: `perdure dead redrive 0:17`")(with_groups(redrive))
    app.add_typer(group, name="dead")


def list_(server: Server, limit: Limit = 100, cursor: Cursor = None) -> None:
    """List the dead letters: their reason, and where the record was."""
    result = server.get("dead", page(limit, cursor))
    server.show(result, result["dead"], "dead letters")


def show(server: Server, id_: Letter) -> None:
    """Show a dead letter with its headers and its value."""
    result = server.get(f"dead/{quote(id_, safe='')}")
    server.show(result, result)


def redrive(server: Server, id_: Letter) -> None:
    """Append the record of a dead letter to the commands again, as its sender wrote it; it takes effect
    once.
    """
    server.act("POST", f"dead/{quote(id_, safe='')}/redrive")
