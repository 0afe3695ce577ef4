"""`perdure call`: one RPC to an object of a running server.

The command uses the client (`perdure.connect`) and prints the result as JSON.

Law: `--timeout` covers the whole call, and only one attempt is made, so that the printed outcome is that
attempt's.

An argument such as `-1` is a number, not an option. Click's `ignore_unknown_options` would accept it too, but
then a mistyped option such as `--tiemout` would be sent to the object as an argument; the 12 lines of `_Call`
keep the error.
"""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from perdure.api.cli.options import AlwaysJson
from perdure.api.cli.output import without_rich
from perdure.schemas.errors import ConfigError, OperatorError, Unreachable

DEFAULT_URL = "http://127.0.0.1:8787"
_TIMEOUT_S = 35.0  # longer than the server's own deadline (30 s by default), whose error says more
_BELOW_ZERO = re.compile(r"-(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_OPTION = re.compile(r"--[^=]+")  # its value follows
_MARK = "\0"  # cannot be part of a process's argument


class _Call(TyperCommand):
    """A command whose negative numbers are arguments wherever they stand.

    The parser alone takes them for options.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = args[: args.index("--")] if "--" in args else args
        marked = [
            each if not _BELOW_ZERO.fullmatch(each) or _OPTION.fullmatch(before) else _MARK + each
            for before, each in zip(["", *options], options, strict=False)
        ]
        rest = super().parse_args(ctx, marked + args[len(options) :])
        given: list[str] | None = ctx.params.get("arguments")
        ctx.params["arguments"] = [each.removeprefix(_MARK) for each in given or ()]
        return rest


def register(app: typer.Typer) -> None:
    app.command(cls=_Call, epilog="Example: `perdure call Counter/alice increment 2`")(call)


def call(
    target: Annotated[str, typer.Argument(metavar="NAMESPACE/NAME", help="The object.")],
    method: Annotated[str, typer.Argument(help="Its method.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ARG]...",
            help="Read as JSON, or as a string if it is not JSON. Put arguments that begin with - after --.",
        ),
    ] = None,
    url: Annotated[str, typer.Option(envvar="PERDURE_URL", help="The server.")] = DEFAULT_URL,
    timeout_s: Annotated[
        float, typer.Option("--timeout", help="Seconds that the whole call may take.")
    ] = _TIMEOUT_S,
    key: Annotated[
        str | None,
        typer.Option("--idempotency-key", help="A call repeated with the same key takes effect once."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="PERDURE_TOKEN", help="Bearer token; better in the environment.", show_default=False
        ),
    ] = None,
    as_json: AlwaysJson = True,
) -> None:
    """Call a method of an object and print what it returns, as JSON."""
    import asyncio

    with without_rich():
        import httpx  # noqa: F401  # with rich comes its own command line

    import perdure
    from perdure.api.client.requests import Options, call_request, idempotency_key_of, key_of

    if not 0 < timeout_s < math.inf:
        raise ConfigError(f"--timeout {timeout_s:g}: give a number of seconds above 0")
    namespace, name = object_named(target)
    values = [_value(text) for text in arguments or ()]
    try:  # what cannot be sent: JSON may hold lone surrogates, and a key a line break
        call_request(key_of(namespace, name), method, tuple(values), {}, Options(timeout_s, key))
        idempotency_key_of(key)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from None

    async def run() -> Any:  # the async client: the other's timeout is for each wait on the network
        async with perdure.connect(url, token=token, timeout=timeout_s, retry=False) as app:
            return await app.get(namespace, name, idempotency_key=key)._method(method)(*values)

    try:
        result = asyncio.run(run())
    except Unreachable:
        raise no_server(url) from None
    typer.echo(json.dumps(result, ensure_ascii=False))


def object_named(target: str) -> tuple[str, str]:
    """Namespace and name. Raises `ConfigError`."""
    namespace, _, name = target.partition("/")
    if not (namespace and name):
        raise ConfigError(f'"{target}" does not name an object; write NAMESPACE/NAME, such as Counter/alice')
    return namespace, name


def no_server(url: str) -> OperatorError:
    return OperatorError(f"no server answers at {url}; start one with: perdure serve APP")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
