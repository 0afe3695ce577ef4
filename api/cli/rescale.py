"""`perdure rescale`: gives a stopped app another number of partitions."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from perdure.api.cli.options import AppData, AsJson, with_groups


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: `perdure rescale app.py --partitions 32 --data /var/lib/app`")(
        with_groups(rescale)
    )


def rescale(
    data: AppData,
    partitions: Annotated[int, typer.Option("--partitions", help="The new number of partitions.")],
    as_json: AsJson = False,
) -> None:
    """Give a stopped app another number of partitions: its state is copied, compared, and then switched to.

    Stop the app first, in order (SIGTERM), so that nothing is under way. The old log is kept. If this is
    interrupted before the switch, the app is as it was, and running it again begins from scratch.
    """
    import asyncio

    from perdure.api.telemetry.replay_progress import progress_bar
    from perdure.streams.rescale.rescale import rescale as change

    with progress_bar() as progress:
        findings = asyncio.run(change(data.config, partitions, progress))
    if as_json:
        typer.echo(json.dumps(findings, indent=2))
        return
    for name, value in findings.items():
        typer.echo(f"{name.replace('_', ' ')}: {value}")
    typer.echo(f"Set partitions = {partitions} and start the app.")
