"""`perdure project` folds an app's projections; `perdure projections` shows them, over HTTP.

`perdure serve` starts the first one beside itself (`beside.py`); more of them, with the same data directory,
share the partitions.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from perdure.api.cli.administering import Cursor, Limit, Prefix, Server, page
from perdure.api.cli.options import AsJson, Data, EnvName, Log, PathArgument, with_groups
from perdure.api.cli.output import without_rich

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perdure.api.loading import LoadedApp
    from perdure.schemas.config import Config
    from perdure.streams.projections.rows import Progress

UntilEnd = Annotated[
    bool, typer.Option("--until-end", help="Fold what is on the log now, print how far, and end.")
]
Events = Annotated[
    bool, typer.Option("--events", help="Also write the audit feed: the topic {app}.events, as CloudEvents.")
]
EventsTo = Annotated[
    str | None,
    typer.Option(
        "--events-to",
        help="HOST:PORT of the brokers that get the feed: for the embedded log, its Kafka listener.",
        show_default=False,
    ),
]
Faust = Annotated[
    str | None,
    typer.Option("--faust", help="Fold this projection in a Faust worker instead.", show_default=False),
]
FaustPort = Annotated[int, typer.Option("--faust-port", help="Port of Faust's web views; 0: none.")]
Beside = Annotated[bool, typer.Option("--beside", hidden=True)]
Dev = Annotated[bool, typer.Option("--dev", hidden=True)]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The projection.")]
Wait = Annotated[
    int,
    typer.Option("--wait", min=0, max=30, help="Seconds to wait until all that is on the journal is folded."),
]
_NICE = 5  # of the process beside a node: turns come first


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: `perdure project app.py --data /var/lib/app`")(project)
    group = typer.Typer(help="Show the projections of a running server.", no_args_is_help=True)
    group.command("list", epilog="Example: `perdure projections list --json`")(with_groups(list_))
    group.command("show", epilog="Example: `perdure projections show activity`")(with_groups(show))
    group.command("rows", epilog="Example: `perdure projections rows activity --prefix Cart`")(
        with_groups(rows)
    )
    app.add_typer(group, name="projections")


def project(
    path: PathArgument = Path(),
    data: Data = None,
    log: Log = None,
    env: EnvName = None,
    until_end: UntilEnd = False,
    events: Events = False,
    events_to: EventsTo = None,
    faust: Faust = None,
    faust_port: FaustPort = 6066,
    as_json: AsJson = False,
    beside: Beside = False,
    dev: Dev = False,
) -> None:
    """Fold an app's projections until SIGTERM or Ctrl-C, beside the server or without it.

    Several of these on one machine share the partitions, if they have the same data directory.
    """
    import asyncio

    from perdure.api.loading import load_app, load_config
    from perdure.api.telemetry import logs
    from perdure.schemas.errors import ConfigError

    if beside:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this process
        os.nice(_NICE)
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    flags = {"data_dir": data, "log": log}
    with without_rich():
        logs.set_up(load_config(path, env_name=env, environ=os.environ, flags=flags, dev=dev), dev=dev)
    loaded = load_app(path, env_name=env, environ=os.environ, flags=flags, dev=dev, opens_data=True)
    if faust is not None:
        _run_faust(loaded, faust, faust_port)
        return
    if not (loaded.projections or events):
        raise ConfigError(
            f"{path}: the app declares no projection: decorate a function with @perdure.projection(version=1), or "
            'write [projections] use = ["activity"] in perdure.toml'
        )
    progress = asyncio.run(_fold(loaded, until_end=until_end, events_to=events_to or "", events=events))
    if until_end:
        _print_progress(progress, as_json=as_json)


async def _fold(
    loaded: LoadedApp, *, until_end: bool, events: bool, events_to: str
) -> Mapping[tuple[int, str], Progress]:
    import asyncio

    from perdure.streams.opening import open_following
    from perdure.streams.projections.worker import ProjectionWorker, folder_in
    from perdure.streams.state.fold import GC_THRESHOLD

    config, loop = loaded.config, asyncio.get_running_loop()
    log = await open_following(config)
    feed = None
    if events:
        from perdure.streams.projections.events import feed_of

        feed = feed_of(config, log.partitions, events_to)
    folder = folder_in(config.data_dir, log)
    worker = ProjectionWorker(list(loaded.projections.values()), log, folder, feed)
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    running = loop.create_task(worker.run(until_end=until_end))
    for sig in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(sig) is not signal.SIG_IGN:
            loop.add_signal_handler(sig, running.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        return {}  # a signal: what was folded is written
    finally:
        await log.close()


def _run_faust(loaded: LoadedApp, name: str, port: int) -> None:
    """Run a Faust worker of one projection until a signal."""
    import asyncio

    from perdure.schemas.errors import ConfigError

    config = loaded.config
    if name not in loaded.projections:
        raise ConfigError(
            f"the app has no projection {name}; it has: {', '.join(sorted(loaded.projections))}"
        )
    if not config.kafka_brokers or config.kafka.security_protocol != "PLAINTEXT":
        raise ConfigError(
            "--faust is for brokers without TLS and SASL; with them, make a faust.App by `faust_app`"
        )
    try:
        import faust

        from perdure.streams.projections.faust_engine import faust_app
    except ImportError as error:
        raise ConfigError(
            f"--faust needs Faust, which is not installed ({error.name}): pip install 'faust-streaming>=0.15.3,<0.16' 'aiokafka>=0.14,<0.15'"
        ) from None
    base, partitions = asyncio.run(_topics(config))
    made = faust_app(
        loaded.projections[name],
        app=base,
        broker=f"kafka://{','.join(config.kafka_brokers)}",
        partitions=partitions,
        data_dir=config.data_dir / "faust" / name,
        settings={"web_port": port or 6066, "web_enabled": bool(port)},
    )
    made.finalize()
    faust.Worker(made, loglevel="ERROR").execute_from_commandline()


async def _topics(config: Config) -> tuple[str, int]:
    """What the names of the app's topics begin with, and how many partitions they have."""
    from perdure.streams.opening import open_following

    log = await open_following(config)
    await log.close()
    return log.generation, log.partitions


def _end_with_stdin() -> None:
    while os.read(0, 1024):
        pass
    os._exit(0)  # at any place: what is written is whole


def _print_progress(progress: Mapping[tuple[int, str], Progress], *, as_json: bool) -> None:
    rows = [
        {
            "projection": name,
            "partition": partition,
            "offset": each.offset,
            "entries": each.entries,
            "skipped": each.skipped,
            "error": each.error,
        }
        for (partition, name), each in sorted(progress.items(), key=lambda item: (item[0][1], item[0][0]))
    ]
    if as_json:
        typer.echo(json.dumps({"projections": rows}, indent=2))
        return
    for row in rows:
        typer.echo("  ".join(f"{name}={value}" for name, value in row.items() if value != ""))
    if any(row["error"] for row in rows):
        sys.exit(1)


def list_(server: Server) -> None:
    """List the projections, with their versions, their states, and how far they are behind the journal."""
    result = server.get("projections")
    server.show(result, [_without(row, "partitions") for row in result["projections"]], "projections")


def show(server: Server, name: Name) -> None:
    """Show how far a projection is in each partition, and which entries it skipped."""
    result = server.get(f"projections/{quote(name, safe='')}")
    server.show(result, result["partitions"])


def rows(
    server: Server,
    name: Name,
    prefix: Prefix = "",
    limit: Limit = 100,
    cursor: Cursor = None,
    wait: Wait = 0,
) -> None:
    """Show the rows of a projection, by key."""
    query = page(limit, cursor, prefix) | ({"wait": str(wait)} if wait else {})
    result = server.get(f"projections/{quote(name, safe='')}/rows", query)
    if result["stale"]:
        typer.echo(f"these rows may be stale: {result['reason']}", err=True)
    server.show(result, {row["key"]: row["row"] for row in result["rows"]}, f"rows in {name}")


def _without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {each: value for each, value in row.items() if each != name}
