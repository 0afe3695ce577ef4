"""`perdure verify` and `perdure state rebuild`: check an app's log and state, or rebuild the state.

They work on the data of a stopped app, since a running one has it locked; `verify --online` works beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated

import typer

from perdure.api.cli.auditing import register_state
from perdure.api.cli.options import AppData, AsJson, with_groups
from perdure.api.cli.output import exit_code, print_error
from perdure.schemas.errors import ConfigError, PerdureError

OK, FAILED = "OK", "FAILED"


def register(app: typer.Typer) -> None:
    app.command("verify", epilog="Example: `perdure verify app.py --data /var/lib/app`")(with_groups(verify))
    group = typer.Typer(help="Maintain the state files.", no_args_is_help=True)
    group.command(epilog="Example: `perdure state rebuild app.py --data /var/lib/app`")(with_groups(rebuild))
    group.command(epilog="Example: `perdure state adopt app.py --log kafka://broker:9092`")(
        with_groups(adopt)
    )
    register_state(group)
    app.add_typer(group, name="state")


def verify(
    data: AppData,
    online: Annotated[
        bool,
        typer.Option(
            "--online", help="Beside the app's server; also checks links and the entries' commands."
        ),
    ] = False,
    from_snapshot: Annotated[
        bool, typer.Option("--from-snapshot", help="With --online: begin with the newest verified snapshots.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Replay the journal and compare it with the state; the last line is OK, or FAILED with exit code 1.

    The reason of a failure is on stderr: the place where log and state differ, or what could not be read.
    """
    import asyncio

    from perdure.api.telemetry.replay_progress import progress_bar
    from perdure.streams.audit.verifying import verify_online
    from perdure.streams.rebuild.verify import verify as check

    if from_snapshot and not online:
        raise ConfigError("--from-snapshot needs --online")
    try:
        with progress_bar() as progress:
            checking = (
                verify_online(data.config, progress, from_snapshot=from_snapshot)
                if online
                else check(data.config, progress)
            )
            findings = asyncio.run(checking)
    except Exception as error:
        known, code = isinstance(error, PerdureError), getattr(error, "code", type(error).__name__)
        if known:
            print_error(error)
        if as_json:
            typer.echo(json.dumps({"result": FAILED, "code": code, "reason": str(error)}, indent=2))
        else:
            typer.echo(FAILED)
        if not known:
            raise  # a bug: its traceback is printed
        raise typer.Exit(exit_code(error)) from None
    _print({**findings, "result": OK}, as_json=as_json)


def rebuild(data: AppData, as_json: AsJson = False) -> None:
    """Delete the state files and build them again from the log."""
    import asyncio

    from perdure.api.telemetry.replay_progress import progress_bar
    from perdure.streams.rebuild.verify import rebuild as build

    with progress_bar() as progress:
        findings = asyncio.run(build(data.config, progress))
    _print({**findings, "result": OK}, as_json=as_json)


def adopt(data: AppData, as_json: AsJson = False) -> None:
    """Accept the existing Kafka topics as the app's own, after one was restored or created again."""
    import asyncio

    from perdure.streams.rebuild.adopt_topics import adopt as take

    _print(asyncio.run(take(data.config)), as_json=as_json)


def _print(findings: Mapping[str, object], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(findings, indent=2, default=str))
        return
    for name, value in findings.items():
        if name == "result":
            typer.echo(value)
        elif name == "chain" and isinstance(value, list):
            for partition, link in enumerate(value):
                typer.echo(f"chain of partition {partition}: {link}")
        else:
            typer.echo(f"{name.replace('_', ' ')}: {value}")
