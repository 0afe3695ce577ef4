"""`perdure doctor`: a table of checks of the log an app has, or of a Kafka cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.api.cli.options import AsJson, Data, EnvName, Log

if TYPE_CHECKING:
    from perdure.schemas.findings import Finding

SIGNS = {"ok": "ok", "warning": "WARNING", "refused": "REFUSED"}


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: `perdure doctor app.py --log kafka://kafka1:9092`")(doctor)


def doctor(
    target: Annotated[
        str, typer.Argument(help="The app: a file or a folder; or kafka://host:port[,host:port].")
    ] = ".",
    data: Data = None,
    log: Log = None,
    env: EnvName = None,
    as_json: AsJson = False,
) -> None:
    """Check what the promises rest on: brokers, topics and rights on Kafka; disk and data directory without
    it.

    Exit code 1 if something is refused, that is, if the app would not start or its promises would not hold.
    Experiments run on a scratch topic, which is deleted again. The app may be running.
    """
    import asyncio

    from perdure.api.loading import load_config
    from perdure.streams.doctor import examine

    if "://" in target:
        target, log = ".", target
    config = load_config(Path(target), env_name=env, environ=os.environ, flags={"data_dir": data, "log": log})
    findings = asyncio.run(examine(config))
    _print(findings, as_json=as_json)
    if any(finding.state == "refused" for finding in findings):
        raise typer.Exit(1)


def _print(findings: Sequence[Finding], *, as_json: bool) -> None:
    if as_json:
        checks = [finding._asdict() for finding in findings]
        worst = next((s for s in ("refused", "warning") if any(f.state == s for f in findings)), "ok")
        typer.echo(json.dumps({"result": worst, "checks": checks}, indent=2))
        return
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        typer.echo(f"{SIGNS[finding.state]:<8} {finding.check:<{width}}  {finding.text}")
        if finding.mend:
            typer.echo(f"{'':<8} {'':<{width}}  -> {finding.mend}")
