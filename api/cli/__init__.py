"""The command line: `perdure COMMAND`.

Each module of this package registers its commands with the app below. Some start a server (`serving.py`,
`reload.py`), some talk to a running one over HTTP (`calling.py`, `administering.py`), and some work on the
data of a stopped app (`state.py`, `snapshot.py`, `secret.py`).

Laws
- An error that perdure knows is one line on stderr: whose fault it is, what happened, and what to do. There
  is no traceback.
- Arguments are text. Bytes that are not UTF-8 end the command before it does anything.
- Exit codes: 0 done · 1 something outside failed (port, Kafka, data directory, server) · 2 the command or the
  configuration is wrong · 70 a running node stopped itself.
- Data goes to stdout, everything else to stderr; `--json` prints data as JSON.
- A command imports what it needs when it runs, so that `perdure --help` answers at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from perdure.api.cli import (
    administering,
    auditing,
    bench,
    calling,
    dead_letters,
    decoding,
    describing,
    doctor,
    log_reading,
    projecting,
    querying,
    rescale,
    secret,
    serving,
    settings,
    snapshot,
    starting,
    state,
    token,
)
from perdure.api.cli.output import exit_code, print_error
from perdure.schemas.errors import ConfigError, PerdureError
from perdure.schemas.secrecy import without_credentials

app = typer.Typer(
    name="perdure",
    help="Durable objects for Python on a Kafka-style log.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a bug's traceback is printed plain and whole
    rich_markup_mode="markdown",
)
starting.register(app)
serving.register(app)
calling.register(app)
state.register(app)
auditing.register(app)
log_reading.register(app)
doctor.register(app)
rescale.register(app)
bench.register(app)
settings.register(app)
describing.register(app)
decoding.register(app)
token.register(app)
secret.register(app)
administering.register(app)
dead_letters.register(app)
snapshot.register(app)
projecting.register(app)
querying.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"perdure {version('perdure')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit. `arguments` defaults to those of the process."""
    try:
        if sys.platform == "win32":
            raise ConfigError("perdure runs on Linux and macOS: on Windows, run it in WSL or in a container")
        _check(sys.argv[1:] if arguments is None else arguments)
        app(args=arguments, prog_name="perdure")
    except PerdureError as error:
        print_error(error)
        sys.exit(exit_code(error))


def _check(arguments: list[str]) -> None:
    """Raise `ConfigError` for bytes that are not UTF-8, which Python turns into unprintable surrogates."""
    for number, each in enumerate(arguments, 1):
        if not each.isascii():
            try:
                each.encode()
            except UnicodeEncodeError:
                raise ConfigError(
                    f"argument {number} is not UTF-8: {without_credentials(ascii(each))[:60]}"
                ) from None
