"""`perdure serve` and `perdure dev`: one serves, the other restarts `serve` whenever the app's code changes.

`serve` loads the app, makes the node and runs the HTTP server. `dev` is a supervisor (`reload.py`) that runs
`serve` as its child.

Laws
- `dev` keeps all state: each start recovers what the previous server had acknowledged.
- The server that `dev` started never outlives it, not even when `dev` is killed: a socket pair, the lifeline,
  ties them together. Over it the server reports that it has loaded the app, waits until the data directory is
  free, and reports that it serves.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.api.cli.beside import process_beside
from perdure.api.cli.options import Data, EnvName, Log
from perdure.api.cli.output import (
    EXIT_CONFIG,
    EXIT_STOPPED_ITSELF,
    EXIT_TAKEN,
    print_error,
    show_code,
    without_rich,
)

if TYPE_CHECKING:
    from perdure.api.kafka_listener import KafkaPort
    from perdure.api.loading import LoadedApp
    from perdure.objects.registry import ObjectType
    from perdure.schemas.config import Config

PathArgument = Annotated[
    Path, typer.Argument(help="The app: a Python file, a folder, or a perdure.toml / wrangler.toml.")
]
Host = Annotated[str | None, typer.Option(help="Address to bind. [default: 127.0.0.1]", show_default=False)]
Port = Annotated[
    int | None, typer.Option(help="Port; 0 takes a free one. [default: 8787]", show_default=False)
]
Partitions = Annotated[
    int | None, typer.Option(help="Partitions of a new app. [default: 8]", show_default=False)
]
Public = Annotated[
    bool, typer.Option("--insecure-public", help="Accept requests from other machines without a token.")
]
Kafka = Annotated[
    str | None,
    typer.Option(
        "--kafka",
        "--kafka-listen",
        help="HOST:PORT where the embedded log answers Kafka clients, or off. "
        "[default: off; `perdure dev`: 127.0.0.1:9092 if it is free]",
        show_default=False,
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the address and the namespaces as one line of JSON.")
]
LogFormat = Annotated[
    str | None,
    typer.Option(help="json, pretty, or auto: pretty in a terminal. [default: auto]", show_default=False),
]
LogLevel = Annotated[
    str | None, typer.Option(help="debug, info, warning or error. [default: info]", show_default=False)
]
Dev = Annotated[bool, typer.Option("--dev", hidden=True)]
Listen = Annotated[int | None, typer.Option("--listen-fd", hidden=True)]
Lifeline = Annotated[int | None, typer.Option("--lifeline-fd", hidden=True)]


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: `perdure serve app.py --port 8787 --data /var/lib/app`")(serve)
    app.command(epilog="Example: `perdure dev app.py`")(dev)


def serve(
    path: PathArgument = Path(),
    log: Log = None,
    host: Host = None,
    port: Port = None,
    kafka: Kafka = None,
    data: Data = None,
    env: EnvName = None,
    partitions: Partitions = None,
    insecure_public: Public = False,
    as_json: AsJson = False,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
    lifeline_fd: Lifeline = None,
    listen_fd: Listen = None,
    dev_vars: Dev = False,
) -> None:
    """Serve an app until SIGTERM or Ctrl-C; requests in flight are finished."""
    with without_rich():  # structlog would import it for tracebacks, which logs.py prints itself
        from perdure.api import server
        from perdure.api.telemetry import logs
    from perdure.api.kafka_listener import bind_kafka
    from perdure.api.loading import load_app, load_config
    from perdure.api.node import Node
    from perdure.api.telemetry.tracing import tracing_of
    from perdure.objects.registry import Registry

    flags: dict[str, object] = {"log": log, "host": host, "port": port, "kafka_listen": kafka}
    flags |= {"data_dir": data, "partitions": partitions, "insecure_public": insecure_public or None}
    flags |= {"log_format": log_format, "log_level": log_level}
    _follow(lifeline_fd)
    # before the app is imported, which may log
    logs.set_up(load_config(path, env_name=env, environ=os.environ, flags=flags, dev=dev_vars), dev=dev_vars)
    with _code_of_errors(dev_vars):
        loaded = load_app(path, env_name=env, environ=os.environ, flags=flags, dev=dev_vars, opens_data=True)
    config = loaded.config
    tracing = tracing_of(config.name, os.environ)
    registry = Registry.build(loaded.classes, config, loaded.projections)
    types = list(registry.types.values())
    _take_over(lifeline_fd)
    kafka_port = bind_kafka(config, dev=dev_vars)

    def ready(bound_port: int) -> None:
        _announce(loaded, bound_port, types, as_json=as_json, dev=dev_vars, kafka=kafka_port)
        _report(lifeline_fd)
        if loaded.projections and config.projections.beside:
            begin_folding()

    with (
        nullcontext() if tracing is None else closing(tracing),
        process_beside(_arguments_beside(path, loaded, env, dev=dev_vars)) as begin_folding,
    ):
        reason = server.run(
            lambda: Node(config, registry, loaded.worker, tracing, dev=dev_vars, kafka=kafka_port.listener),
            config,
            ready=ready,
            listen_fd=listen_fd,
        )
    if reason is not None:
        print_error(reason)
        raise typer.Exit(EXIT_STOPPED_ITSELF)


def _arguments_beside(path: Path, loaded: LoadedApp, env: str | None, *, dev: bool) -> list[str]:
    """The arguments of `perdure project` for the app that is served."""
    config = loaded.config
    arguments = [str(path), "--data", str(config.data_dir), "--log", config.log]
    arguments += [] if env is None else ["--env", env]
    return [*arguments, "--dev"] if dev else arguments


def _follow(lifeline_fd: int | None) -> None:
    """As a child of `dev`: raise SIGTERM when `dev` has ended, in whatever way it ended."""

    def look() -> None:
        line = select.poll()
        line.register(lifeline, 0)  # a hang-up is reported without asking for it
        line.poll()
        os.kill(os.getpid(), signal.SIGTERM)

    if lifeline_fd is not None:
        lifeline = lifeline_fd
        threading.Thread(target=look, name="perdure-lifeline", daemon=True).start()


def _take_over(lifeline_fd: int | None) -> None:
    """As a child of `dev`: report that the app is loaded, and wait until the previous server has ended."""
    if lifeline_fd is None:
        return
    interrupted = signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # nothing has begun, so the process may just end
    _report(lifeline_fd)
    if not os.read(lifeline_fd, 1):
        raise typer.Exit(0)
    signal.signal(signal.SIGINT, interrupted)


def _report(lifeline_fd: int | None) -> None:
    if lifeline_fd is not None:
        with suppress(OSError):  # `dev` has ended; SIGTERM follows
            os.write(lifeline_fd, b"\n")


@contextmanager
def _code_of_errors(dev: bool) -> Iterator[None]:
    """While the app is loaded under `dev`: print the user's lines of an error with the error itself."""
    from perdure.schemas.errors import ConfigError

    try:
        yield
    except ConfigError as error:
        if not dev or error.__cause__ is None:
            raise
        print_error(error)
        show_code(error.__cause__)
        raise typer.Exit(EXIT_TAKEN if _is_taken(error.__cause__) else EXIT_CONFIG) from None


def _is_taken(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EAGAIN, errno.EBUSY)


def dev(
    path: PathArgument = Path(),
    host: Host = None,
    port: Port = None,
    kafka: Kafka = None,
    data: Data = None,
    env: EnvName = None,
    insecure_public: Public = False,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
) -> None:
    """Serve an app and restart it when its code changes; state is kept."""
    import asyncio

    from perdure.api.cli.reload import supervise
    from perdure.api.loading import load_config
    from perdure.schemas.errors import ConfigError

    options = {"--host": host, "--port": port, "--kafka": kafka, "--data": data, "--env": env}
    options |= {"--log-format": log_format, "--log-level": log_level}
    arguments = [str(path), "--dev"]
    for name, value in options.items():
        arguments += [] if value is None else [name, str(value)]
    if insecure_public:
        arguments.append("--insecure-public")
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder; name the app's Python file or its folder")
    flags = {"data_dir": data, "host": host, "port": port, "kafka_listen": kafka}
    flags |= {"insecure_public": insecure_public or None}

    def read() -> Config:
        return load_config(path, env_name=env, environ=os.environ, flags=flags, dev=True)

    # A wrong configuration ends `dev` at once; later the server reports it, and `dev` waits for a correction.
    data_dir = load_config(
        path, env_name=env, environ=os.environ, flags=flags, dev=True, opens_data=True
    ).data_dir.resolve()
    folder = path if path.is_dir() else path.parent
    raise typer.Exit(asyncio.run(supervise(arguments, folder.resolve(), data_dir, read)))


def _path_of(kind: ObjectType) -> str:
    """Where the objects of a class answer: over HTTP if it defines `fetch`, otherwise by its methods."""
    from perdure.objects.durable import DurableObject

    if kind.cls.fetch is DurableObject.fetch and kind.methods:
        return f"/rpc/{kind.namespace}/NAME/METHOD"
    return f"/objects/{kind.namespace}/NAME"


def _announce(
    app: LoadedApp,
    port: int,
    types: Sequence[ObjectType],
    *,
    as_json: bool,
    dev: bool = False,
    kafka: KafkaPort | None = None,
) -> None:
    config, has_worker = app.config, app.worker is not None
    host = f"[{config.host}]" if ":" in config.host else config.host
    url = f"http://{host}:{port}"
    if as_json:
        namespaces = [each.namespace for each in types]
        facts = {"app": config.name, "url": url, "namespaces": namespaces, "pid": os.getpid()}
        if kafka is not None and kafka.address is not None:
            facts["kafka"] = kafka.address
        print(json.dumps(facts), flush=True)
        return
    lines = [f"{config.name} is ready at {url} ({config.log} log, data in {config.data_dir})"]
    if has_worker:
        lines.append(f"  {url}/  the Worker: every path that is not perdure's own")
    if not config.is_closed(has_worker):
        lines += [f"  {url}{_path_of(each)}" for each in types]
    else:
        opened = "`expose = true` or [[tokens]] opens"
        lines.append(f"  /objects and /rpc are closed, requests go to the Worker: {opened} them")
        if config.is_closed(has_worker, dev=dev):
            lines.append(f"  /admin is closed: {opened} it, `perdure dev` opens it on this machine")
        else:
            lines.append(
                f"  /admin is open, as this is `perdure dev`: perdure objects list {types[0].namespace}"
            )
    if kafka is not None and kafka.line:
        lines.append(f"  {kafka.line}")
    if config.guarded or not config.is_closed(has_worker, dev=dev):
        lines.append(f"  {url}/console")
    print("\n".join((*lines, f"  {url}/docs")), flush=True)
