"""`perdure objects`, `parked`, `partitions` and `memory`: administration of a running server, over HTTP."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote

import typer

from perdure.api.cli.calling import DEFAULT_URL, no_server, object_named
from perdure.api.cli.options import AsJson, with_groups
from perdure.api.cli.output import without_rich
from perdure.schemas.errors import ConfigError, OperatorError

_TIMEOUT_S = 40.0  # longer than the server's own deadline, whose error says more
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
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
Object = Annotated[str, typer.Argument(metavar="NAMESPACE/NAME", help="The object.")]
Id = Annotated[
    str, typer.Argument(metavar="ID", help="The id that `perdure parked list` shows, such as 0:17.")
]
Prefix = Annotated[str, typer.Option("--prefix", help="Only names that begin with this text.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="Rows on one page.")]
Cursor = Annotated[
    str | None,
    typer.Option("--cursor", help="Continue after the page that printed this cursor.", show_default=False),
]


class Server(NamedTuple):
    """The server that a command administers, by the options of all such commands."""

    url: Url = DEFAULT_URL
    token: Token = None
    as_json: AsJson = False

    def get(self, path: str, query: dict[str, str] | None = None) -> Any:
        """What `/admin/{path}` answers."""
        return _request("GET", path, self.url, self.token, query=query)

    def act(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        """Change something, and print the answer."""
        result = _request(method, path, self.url, self.token, body=body)
        self.show(result, result)

    def request(self, method: str, path: str, body: dict[str, Any]) -> Any:
        """The answer to a request with a body."""
        return _request(method, path, self.url, self.token, body=body)

    def post(self, path: str) -> Any:
        """The answer to a POST without a body, as JSON types."""
        return _request("POST", path, self.url, self.token)

    def show(self, result: Any, shown: Any, what: str = "") -> None:
        """Print `result` as JSON, or `shown`, a part of it, for people.

        If that is empty, `what` says of what there is none.
        """
        if self.as_json:
            typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
            return
        if isinstance(shown, dict):
            for name, value in shown.items():
                typer.echo(f"{name} = {json.dumps(value, ensure_ascii=False)}")
        else:
            for each in shown:
                typer.echo(each if isinstance(each, str) else _line(each))
        if result.get("cursor"):
            typer.echo(f"more: --cursor {result['cursor']}", err=True)
        elif not shown:
            typer.echo(f"no {what}", err=True)


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Inspect and manage the objects of a running server.", no_args_is_help=True)
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
        group.command(name, epilog=f"Example: `perdure objects {example}`")(with_groups(function))
    app.add_typer(group, name="objects")
    group = typer.Typer(
        help="Commands and alarms that are parked: they failed too often and run no more.",
        no_args_is_help=True,
    )
    group.command("list", epilog="Example: `perdure parked list --json`")(with_groups(parked))
    group.command(epilog="Example: `perdure parked redrive 0:17`")(with_groups(redrive))
    group.command(epilog="Example: `perdure parked drop 0:17 --yes`")(with_groups(drop))
    app.add_typer(group, name="parked")
    app.command(epilog="Example: `perdure partitions --json`")(with_groups(partitions))
    app.command(epilog="Example: `perdure memory --json`")(with_groups(memory))


# Objects


def list_(
    server: Server,
    namespace: Annotated[
        str | None,
        typer.Argument(
            help="The namespace to list; without it the namespaces are listed.", show_default=False
        ),
    ] = None,
    prefix: Prefix = "",
    limit: Limit = 100,
    cursor: Cursor = None,
) -> None:
    """List the objects that exist in a namespace, or the namespaces."""
    if namespace is None:
        result = server.get("namespaces")
        server.show(result, result["namespaces"], "namespaces")
        return
    query = page(limit, cursor, prefix)
    result = server.get(f"objects/{quote(namespace, safe='')}", query=query)
    server.show(result, result["objects"], f"objects in {namespace}{_prefixed(prefix)}")


def show(server: Server, target: Object) -> None:
    """Show an object: whether it is in memory, whether it is paused, and what waits for it."""
    result = server.get(_path(target))
    paused = result["paused"]
    server.show(result, {**result, "paused": paused and _dated(paused)})


def state(
    server: Server, target: Object, prefix: Prefix = "", limit: Limit = 100, cursor: Cursor = None
) -> None:
    """Show the stored values of an object."""
    result = server.get(_path(target, "state"), page(limit, cursor, prefix))
    server.show(result, result["values"], f"values in {target}{_prefixed(prefix)}")


def alarms(server: Server, target: Object) -> None:
    """Show the alarms of an object."""
    result = server.get(_path(target, "alarms"))
    server.show(result, result["alarms"], f"alarms of {target}")


def sockets(server: Server, target: Object) -> None:
    """Show the WebSockets of an object."""
    result = server.get(_path(target, "sockets"))
    server.show(result, result["sockets"], f"WebSockets of {target}")


def turns(server: Server, target: Object, limit: Limit = 100, cursor: Cursor = None) -> None:
    """Show the last turns of an object that changed something or failed, newest first."""
    result = server.get(_path(target, "turns"), page(limit, cursor))
    server.show(result, result["turns"], f"turns of {target} that changed something or failed")


def delete(server: Server, target: Object, yes: Yes = False) -> None:
    """Delete everything an object has: values, alarms, WebSockets. Its name can be used again."""
    _confirm(f"delete everything {target} has", yes=yes)
    server.act("DELETE", _path(target))


def pause(server: Server, target: Object) -> None:
    """Run nothing of an object until it is resumed; commands for it wait."""
    server.act("POST", _path(target, "pause"))


def resume(server: Server, target: Object) -> None:
    """Resume a paused object."""
    server.act("POST", _path(target, "resume"))


def skip(
    server: Server,
    target: Object,
    offset: Annotated[
        int, typer.Argument(min=0, help="Offset of the command, as `perdure objects show` prints it.")
    ],
    yes: Yes = False,
) -> None:
    """Give up the command that an object runs now, or the next one to run; nothing of it is kept."""
    _confirm(f"give up command {offset} of {target}", yes=yes)
    server.act("POST", _path(target, "skip"), body={"offset": offset})


# Parked commands and alarms


def parked(server: Server, limit: Limit = 100, cursor: Cursor = None) -> None:
    """List the parked commands and alarms, which wait for an operator to redrive or drop them."""
    result = server.get("parked", page(limit, cursor))
    server.show(result, result["parked"], "parked commands or alarms")


def redrive(server: Server, id_: Id) -> None:
    """Run a parked command or alarm again."""
    server.act("POST", f"parked/{quote(id_, safe='')}/redrive")


def drop(server: Server, id_: Id, yes: Yes = False) -> None:
    """Drop a parked command or alarm: it will never run."""
    _confirm(f"drop what is parked at {id_}", yes=yes)
    server.act("POST", f"parked/{quote(id_, safe='')}/drop")


# The node


def partitions(server: Server) -> None:
    """Show the state of each partition."""
    result = server.get("partitions")
    server.show(result, result["partitions"])


def memory(server: Server) -> None:
    """Show an estimate of what takes the server's memory."""
    result = server.get("memory")
    server.show(result, result)


# Requests and output


def _path(target: str, what: str = "") -> str:
    namespace, name = object_named(target)
    return "/".join(("objects", quote(namespace, safe=""), quote(name, safe=""), *([what] if what else [])))


def page(limit: int, cursor: str | None, prefix: str = "") -> dict[str, str]:
    """The query for one page."""
    parameters = {"prefix": prefix, "limit": str(limit), "cursor": cursor or ""}
    return {name: value for name, value in parameters.items() if value}


def _prefixed(prefix: str) -> str:
    return f" that begin with {prefix}" if prefix else ""


def _confirm(what: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"this would {what}, and there is no terminal to confirm it in: add --yes")
    typer.confirm(f"This will {what}. Continue?", abort=True, err=True)


def _request(
    method: str,
    path: str,
    url: str,
    token: str | None,
    *,
    query: dict[str, str] | None = None,
    body: dict[str, Any] | None = None,
) -> Any:
    with without_rich():
        import httpx  # together with rich it would load its own command line

    from perdure.api.client.answers import code_of, error_of
    from perdure.api.client.app import answer_of, checked_url
    from perdure.api.client.requests import authorization

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
        raise OperatorError(
            f"{url} gave no answer ({error!r}): the request may or may not have taken effect"
        ) from None
    try:
        result = answer.json()
    except ValueError:
        result = None
    if answer.status_code == 200 and result is not None:
        return result
    whole = answer_of(answer)
    if code_of(whole) is not None and (problem := error_of(whole)) is not None:
        raise problem
    raise OperatorError(
        f"{url} answered {answer.status_code}, which is not an answer of a perdure server: check the URL"
    )


def _line(row: dict[str, Any]) -> str:
    """A row as `name=value` pairs, without its empty fields."""
    pairs = (
        f"{name}={value if isinstance(value, (str, int)) else json.dumps(value)}"
        for name, value in _dated(row).items()
        if value not in (None, "", [])
    )
    return "  ".join(pairs)


def _dated(row: dict[str, Any]) -> dict[str, Any]:
    """A row with readable times: `time_ms` becomes `time`."""
    return dict(_time(name, value) for name, value in row.items())


def _time(name: str, value: Any) -> tuple[str, Any]:
    if name.endswith("_ms") and isinstance(value, int):
        try:
            at = datetime.fromtimestamp(value // 1000, UTC)
        except (ValueError, OverflowError, OSError):  # later than the last year of `datetime`
            return name, value
        shown = at.replace(microsecond=value % 1000 * 1000).isoformat(timespec="milliseconds")
        return name.removesuffix("_ms"), shown.replace("+00:00", "Z")
    return name, value
