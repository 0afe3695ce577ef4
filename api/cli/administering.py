"""`perdure objects`, `parked`, `partitions` and `memory`: administration of a running server, over HTTP."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer

from perdure.api.cli.calling import DEFAULT_URL, no_server, object_named
from perdure.api.cli.options import AsJson
from perdure.api.cli.output import without_rich
from perdure.schemas.errors import ConfigError, OperatorError

_TIMEOUT_S = 40.0  # the server's own deadline should speak first
Url = Annotated[str, typer.Option("--url", envvar="PERDURE_URL", help="The server.")]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="PERDURE_TOKEN",
        help="Bearer token with the scope admin; better in the environment.",
        show_default=False,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Object = Annotated[str, typer.Argument(metavar="NAMESPACE/NAME", help="The object.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="As `perdure parked list` shows it, such as 0:17.")]
Prefix = Annotated[str, typer.Option("--prefix", help="Only names that begin so.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="So many on one page.")]
Cursor = Annotated[
    str | None, typer.Option("--cursor", help="Go on behind an earlier page.", show_default=False)
]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="See and settle the objects of a running server.", no_args_is_help=True)
    for function, example in (
        (list_, "list Counter --prefix a"),
        (show, "show Counter/alice"),
        (state, "state Counter/alice --json"),
        (alarms, "alarms Counter/alice"),
        (sockets, "sockets Room/lobby"),
        (turns, "turns Counter/alice --limit 10"),
        (delete, "delete Counter/alice --yes"),
        (pause, "pause Counter/alice"),
        (resume, "resume Counter/alice"),
        (skip, "skip Counter/alice 17 --yes"),
    ):
        name = function.__name__.rstrip("_")
        group.command(name, epilog=f"Example: `perdure objects {example}`")(function)
    app.add_typer(group, name="objects")
    group = typer.Typer(help="Commands and alarms that were given up.", no_args_is_help=True)
    group.command("list", epilog="Example: `perdure parked list --json`")(parked)
    group.command(epilog="Example: `perdure parked redrive 0:17`")(redrive)
    group.command(epilog="Example: `perdure parked drop 0:17 --yes`")(drop)
    app.add_typer(group, name="parked")
    app.command(epilog="Example: `perdure partitions --json`")(partitions)
    app.command(epilog="Example: `perdure memory --json`")(memory)


# Objects


def list_(
    namespace: Annotated[
        str | None,
        typer.Argument(help="Whose objects; without it the namespaces are listed.", show_default=False),
    ] = None,
    prefix: Prefix = "",
    limit: Limit = 100,
    cursor: Cursor = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List the objects of a namespace that exist, or the namespaces."""
    if namespace is None:
        told = _ask("GET", "namespaces", url, token)
        _print(told, told["namespaces"], "namespaces", as_json=as_json)
        return
    query = _page(limit, cursor, prefix)
    told = _ask("GET", f"objects/{quote(namespace, safe='')}", url, token, query=query)
    _print(told, told["objects"], f"objects in {namespace}{_so(prefix)}", as_json=as_json)


def show(target: Object, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Show an object: whether it is in memory, paused, what waits for it."""
    told = _ask("GET", _path(target), url, token)
    paused = told["paused"]
    _print(told, {**told, "paused": paused and _dated(paused)}, as_json=as_json)


def state(
    target: Object,
    prefix: Prefix = "",
    limit: Limit = 100,
    cursor: Cursor = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Show what an object keeps."""
    told = _ask("GET", _path(target, "state"), url, token, query=_page(limit, cursor, prefix))
    _print(told, told["values"], f"values in {target}{_so(prefix)}", as_json=as_json)


def alarms(target: Object, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Show the alarms of an object."""
    told = _ask("GET", _path(target, "alarms"), url, token)
    _print(told, told["alarms"], f"alarms of {target}", as_json=as_json)


def sockets(target: Object, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Show the WebSockets of an object."""
    told = _ask("GET", _path(target, "sockets"), url, token)
    _print(told, told["sockets"], f"WebSockets of {target}", as_json=as_json)


def turns(
    target: Object,
    limit: Limit = 100,
    cursor: Cursor = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Show the last turns of an object that changed something or failed, the newest first."""
    told = _ask("GET", _path(target, "turns"), url, token, query=_page(limit, cursor))
    _print(told, told["turns"], f"turns of {target} that changed something or failed", as_json=as_json)


def delete(
    target: Object,
    yes: Yes = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Delete all that an object has: values, alarms, WebSockets. Its name can be used anew."""
    _sure(f"delete all that {target} has", yes=yes)
    _act("DELETE", _path(target), url, token, as_json=as_json)


def pause(target: Object, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Let nothing of an object run until it is resumed; what comes for it waits."""
    _act("POST", _path(target, "pause"), url, token, as_json=as_json)


def resume(target: Object, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Let a paused object go on."""
    _act("POST", _path(target, "resume"), url, token, as_json=as_json)


def skip(
    target: Object,
    offset: Annotated[int, typer.Argument(min=0, help="Of the command, as `perdure objects show` has it.")],
    yes: Yes = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Give up the command that an object works on, or that is the next one to run."""
    _sure(f"give up command {offset} of {target}", yes=yes)
    _act("POST", _path(target, "skip"), url, token, as_json=as_json, body={"offset": offset})


# What is parked


def parked(
    limit: Limit = 100,
    cursor: Cursor = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List the commands and alarms that were given up and wait for somebody to look at them."""
    told = _ask("GET", "parked", url, token, query=_page(limit, cursor))
    _print(told, told["parked"], "parked commands or alarms", as_json=as_json)


def redrive(id_: Id, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Have it run again."""
    _act("POST", f"parked/{quote(id_, safe='')}/redrive", url, token, as_json=as_json)


def drop(
    id_: Id, yes: Yes = False, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False
) -> None:
    """Forget it."""
    _sure(f"forget what is parked at {id_}", yes=yes)
    _act("POST", f"parked/{quote(id_, safe='')}/drop", url, token, as_json=as_json)


# The node


def partitions(url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Show what the server knows of each partition."""
    told = _ask("GET", "partitions", url, token)
    _print(told, told["partitions"], as_json=as_json)


def memory(url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Show what takes the server's memory, estimated."""
    told = _ask("GET", "memory", url, token)
    _print(told, told, as_json=as_json)


# How it asks and prints


def _path(target: str, what: str = "") -> str:
    namespace, name = object_named(target)
    return "/".join(("objects", quote(namespace, safe=""), quote(name, safe=""), *([what] if what else [])))


def _page(limit: int, cursor: str | None, prefix: str = "") -> dict[str, str]:
    said = {"prefix": prefix, "limit": str(limit), "cursor": cursor or ""}
    return {name: value for name, value in said.items() if value}


def _so(prefix: str) -> str:
    return f" that begin with {prefix}" if prefix else ""


def _sure(what: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"this would {what}, and this is not a terminal, so you cannot be asked: add --yes")
    typer.confirm(f"This will {what}. Go on?", abort=True, err=True)


def _act(
    method: str, path: str, url: str, token: str | None, *, as_json: bool, body: dict[str, Any] | None = None
) -> None:
    told = _ask(method, path, url, token, body=body)
    _print(told, told, as_json=as_json)


def _ask(
    method: str,
    path: str,
    url: str,
    token: str | None,
    *,
    query: dict[str, str] | None = None,
    body: dict[str, Any] | None = None,
) -> Any:
    with without_rich():
        import httpx  # with rich comes its own command line

    from perdure.api.client.answers import code_of, error_of
    from perdure.api.client.app import answer_of, checked_url
    from perdure.api.client.asking import authorization

    url, headers = checked_url(url), authorization(token)
    try:
        answer = httpx.request(
            method,
            f"{url}/admin/{path}",
            params=query,
            json=body,
            headers=headers,
            timeout=_TIMEOUT_S,
        )
    except httpx.ConnectError:
        raise no_server(url) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise OperatorError(f"{url} gave no answer ({error!r}): it may be done or not") from None
    try:
        told = answer.json()
    except ValueError:
        told = None
    if answer.status_code == 200 and told is not None:
        return told
    came = answer_of(answer)
    if code_of(came) is not None and (problem := error_of(came)) is not None:
        raise problem
    raise OperatorError(f"{url} answered {answer.status_code}, which is not an answer of a perdure server")


def _print(told: Any, shown: Any, what: str = "", *, as_json: bool) -> None:
    """`shown` of what was told, for people; if that is nothing, a line says that there are none of `what`."""
    if as_json:
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    if isinstance(shown, dict):
        for name, value in shown.items():
            typer.echo(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    else:
        for each in shown:
            typer.echo(each if isinstance(each, str) else _line(each))
    if told.get("cursor"):
        typer.echo(f"more: --cursor {told['cursor']}", err=True)
    elif not shown:
        typer.echo(f"no {what}", err=True)


def _line(row: dict[str, Any]) -> str:
    """`name=value` of what there is to say."""
    said = (
        f"{name}={value if isinstance(value, (str, int)) else json.dumps(value)}"
        for name, value in _dated(row).items()
        if value not in (None, "", [])
    )
    return "  ".join(said)


def _dated(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its times as people read them: `time_ms` is `time`."""
    return dict(_time(name, value) for name, value in row.items())


def _time(name: str, value: Any) -> tuple[str, Any]:
    if name.endswith("_ms") and isinstance(value, int):
        try:
            at = datetime.fromtimestamp(value // 1000, UTC)
        except (ValueError, OverflowError, OSError):  # after the last year that a date can have
            return name, value
        shown = at.replace(microsecond=value % 1000 * 1000).isoformat(timespec="milliseconds")
        return name.removesuffix("_ms"), shown.replace("+00:00", "Z")
    return name, value
