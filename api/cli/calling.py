"""`perdure call`: one RPC to an object of a running server."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any
from urllib.parse import quote

import typer

from perdure.api.cli.output import EXIT_FAILED
from perdure.schemas.errors import ConfigError, OperatorError

DEFAULT_URL = "http://127.0.0.1:8787"
_MARGIN_S = 5.0  # the server's own deadline should speak first


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: `perdure call Counter/alice increment 2`")(call)


def call(
    target: Annotated[str, typer.Argument(metavar="NAMESPACE/NAME", help="The object.")],
    method: Annotated[str, typer.Argument(help="Its method.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARG]...", help="Each as JSON, else as a string.")
    ] = None,
    url: Annotated[str, typer.Option(envvar="PERDURE_URL", help="The server.")] = DEFAULT_URL,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 30.0,
    key: Annotated[
        str | None,
        typer.Option("--idempotency-key", help="Ask again with the same key, and it is done once."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="PERDURE_TOKEN", help="Bearer token; better in the environment.", show_default=False
        ),
    ] = None,
) -> None:
    """Call a method of an object and print what it returns, as JSON."""
    import httpx

    namespace, separator, name = target.partition("/")
    if not (namespace and separator and name):
        raise ConfigError(f'"{target}" names no object; write NAMESPACE/NAME, such as Counter/alice')
    address = (
        f"{url.rstrip('/')}/rpc/{quote(namespace, safe='')}/{quote(name, safe='')}/{quote(method, safe='')}"
    )
    body = {"args": [_value(text) for text in arguments or ()], "kwargs": {}}
    headers = {} if key is None else {"idempotency-key": key}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    try:
        response = httpx.post(address, json=body, headers=headers, timeout=timeout_s + _MARGIN_S)
    except httpx.InvalidURL as error:
        raise ConfigError(f'--url "{url}": {error}') from None
    except httpx.UnsupportedProtocol:
        raise ConfigError(f'--url "{url}" must start with http:// or https://') from None
    except httpx.ConnectError:
        raise OperatorError(f"no server answers at {url}; start one with: perdure serve APP") from None
    except httpx.TimeoutException:
        raise OperatorError(
            f"{url} did not answer within {timeout_s:g} s; the call may have been done"
        ) from None
    except httpx.TransportError as error:
        raise OperatorError(f"{url}: {error}; the call may have been done") from None
    if response.is_error:
        typer.echo(f"perdure: {_problem(response)}", err=True)
        raise typer.Exit(EXIT_FAILED)
    _print(response)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _problem(response: Any) -> str:
    """One line from an RFC 9457 problem, or from whatever else came."""
    try:
        problem = response.json()
        kind = re.split("[/:]", problem.get("type", ""))[-1] or response.status_code
        return f"{kind}: {problem.get('detail') or problem.get('title') or response.reason_phrase}"
    except (ValueError, AttributeError, TypeError):
        return f"{response.status_code}: {response.text[:500] or response.reason_phrase}"


def _print(response: Any) -> None:
    """What the method returned: the `result` of the answer."""
    try:
        result = response.json()["result"]
    except (ValueError, TypeError, KeyError):
        raise OperatorError(f"{response.url} answered something that is no perdure server's answer") from None
    typer.echo(json.dumps(result, ensure_ascii=False))
