"""`perdure history`, `state show` and `diff`: what happened to objects, and what they held at another time.

Each reads an app's log: offline or beside its server, by the app's path, or over HTTP with `--url`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from urllib.parse import quote

import typer

from perdure.api.cli.administering import Server
from perdure.api.cli.calling import object_named
from perdure.api.cli.options import AppData, AsJson, Data, EnvName, Log, with_groups

if TYPE_CHECKING:
    from perdure.schemas.config import Config
    from perdure.streams.audit.reader import AuditLog

AppPath = Annotated[
    Path, typer.Option("--app", help="The app: a file or a folder, whose data are read. Not with --url.")
]
OptionalUrl = Annotated[
    str | None, typer.Option("--url", help="Ask the server there instead of reading the app's data.")
]
AdminToken = Annotated[
    str | None,
    typer.Option("--token", envvar="PERDURE_TOKEN", help="Bearer token with the scope admin, for --url."),
]
Target = Annotated[str, typer.Argument(metavar="NAMESPACE[/NAME]", help="An object, or a namespace.")]
ObjectTarget = Annotated[str, typer.Argument(metavar="NAMESPACE/NAME", help="The object.")]
At = Annotated[
    str,
    typer.Option("--at", help="A time (2026-11-01T12:00, or 15m: so long ago), or offset:N of the journal."),
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="Turns or objects.")]


class AuditSource(NamedTuple):
    """The source of what a command shows: the data of an app, or its server."""

    app: AppPath = Path()
    data: Data = None
    log: Log = None
    env: EnvName = None
    url: OptionalUrl = None
    token: AdminToken = None

    @property
    def config(self) -> Config:
        """The configuration of the app. Raises `ConfigError`."""
        return AppData(self.app, self.data, self.log, self.env).config

    def read(self, work: Callable[[AuditLog], Awaitable[Any]]) -> Any:
        """Run `work` on the log of the app, which is opened for reading only."""
        import asyncio

        from perdure.streams.audit.reader import open_audit

        async def run() -> Any:
            async with open_audit(self.config) as log:
                return await work(log)

        return asyncio.run(run())


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: `perdure history Counter/alice --app app.py`")(with_groups(history))
    app.command(epilog="Example: `perdure diff Counter/alice --from 1h --app app.py`")(with_groups(diff))


def register_state(group: typer.Typer) -> None:
    """Add `show` to the group `perdure state`."""
    group.command("show", epilog="Example: `perdure state show Counter/alice --at 2026-11-01T12:00`")(
        with_groups(show)
    )


def history(
    target: ObjectTarget,
    source: AuditSource,
    limit: Limit = 100,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Continue after the page before.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the turns of an object, the newest first: the request, its caller, and what it changed."""
    query = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
    result = _answer(f"history/{_path(target, named=True)}", query, source)
    if as_json:
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    for turn in result["turns"]:
        typer.echo(turn_line(turn))
    if result["scanned_below"] is not None:
        typer.echo(f"scanned below journal offset {result['scanned_below']}: no links there", err=True)
    if result["trimmed_below"] is not None:
        typer.echo(f"the journal was trimmed below offset {result['trimmed_below']}", err=True)
    if result["cursor"]:
        typer.echo(f"more: --cursor {result['cursor']}", err=True)
    elif not result["turns"]:
        typer.echo("no turns", err=True)


def turn_line(turn: dict[str, Any]) -> str:
    """A turn of a history as a line: time, place, request, caller, outcome, changes."""
    arguments = ", ".join(
        [*(_text(each) for each in turn.get("args", ()))]
        + [f"{name}={_text(each)}" for name, each in turn.get("kwargs", {}).items()]
    )
    request = (
        f"{turn.get('method', '?')}({arguments})"
        if turn.get("kind") == "call"
        else " ".join(
            each for each in (turn.get("kind", ""), turn.get("method", ""), turn.get("path", "")) if each
        )
    )
    parts = [turn["time"].replace("+00:00", "Z"), turn["journal"], request, turn.get("outcome", "")]
    if "error" in turn:
        parts.append(f"{turn['error']['code']}: {turn['error']['message']}")
    elif "result" in turn:
        parts.append(f"-> {_text(turn['result'])}")
    if "caller" in turn:
        parts.append(f"by {turn['caller']}")
    parts += [change_text(name, change) for name, change in turn.get("changes", {}).items()]
    parts += [f"called {each['object']} ({each['command']})" for each in turn.get("calls", ())]
    parts += [f"sent to {each['object']}" for each in turn.get("sends", ())]
    return "  ".join(parts)


def change_text(name: str, change: dict[str, Any]) -> str:
    """A change of one value: `count: 1 -> 2`."""
    before = (
        "?" if change.get("before_unknown") else _text(change["before"]) if "before" in change else "(none)"
    )
    return f"{name}: {before} -> {_text(change['after']) if 'after' in change else '(none)'}"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def show(
    target: Target,
    source: AuditSource,
    at: At = "now",
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """Show what an object held at a time, or all objects of a namespace."""
    query = {"at": at} | ({} if "/" in target else {"limit": str(limit)})
    result = _answer(f"state/{_path(target)}", query, source)
    if as_json:
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    for each in result.get("objects", [result]):
        prefix = "" if each is result else f"{each['object']}  "
        for name, value in each["values"].items():
            typer.echo(f"{prefix}{name} = {_text(value)}")
    if not result.get("complete", True):
        typer.echo(f"more than {limit} objects: raise --limit", err=True)


def diff(
    target: Target,
    source: AuditSource,
    from_: Annotated[str, typer.Option("--from", help="A time, or offset:N, as of `state show --at`.")],
    to: Annotated[str, typer.Option("--to", help="The later one.")] = "now",
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """Show which values of an object or a namespace differ between two times."""
    query = {"from": from_, "to": to, "limit": str(limit)}
    result = _answer(f"diff/{_path(target)}", query, source)
    if as_json:
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    for each in result["objects"]:
        for name, change in each["changes"].items():
            typer.echo(f"{each['object']}  {change_text(name, change)}")
    if not result["objects"]:
        typer.echo("no differences", err=True)
    elif not result["complete"]:
        typer.echo(f"more than {limit} objects: raise --limit", err=True)


def _path(target: str, *, named: bool = False) -> str:
    """The object or namespace in a path of `/admin`. Raises `ConfigError`."""
    if not named and "/" not in target and target:
        return quote(target, safe="")
    return "/".join(quote(each, safe="") for each in object_named(target))


def _answer(path: str, query: dict[str, str], source: AuditSource) -> Any:
    """What the server there answers, or the same from the app's data."""
    if source.url is not None:
        return Server(source.url, source.token).get(path, query)
    from perdure.api.admin.audit_pages import audit_answer

    return source.read(lambda log: audit_answer(log, path, query))
