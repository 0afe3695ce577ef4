"""`perdure.fetch`: an HTTP request to the outside world, from a handler or a Worker.

Laws
- Nothing goes out before what it was computed from is durable: `synced` of the running turn is awaited
  first. [test_outgoing.py]
- A failure outside is a `FetchFailed`, which a handler may catch.
- perdure adds only `traceparent` to the headers that the caller sends.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Protocol

from perdure.objects.http import FetchedResponse, pairs_of
from perdure.objects.results import encode_json
from perdure.objects.stubs import caller
from perdure.schemas.errors import TurnEnded
from perdure.schemas.replies import Pairs

_ABSENT: Any = object()
# they concern one connection, or are derived from what is sent
_NOT_PASSED_ON = frozenset(
    ("connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
)


class Outside(Protocol):
    """The port to the outside world."""

    async def request(
        self, method: str, url: str, headers: Pairs, body: bytes, timeout_s: float | None
    ) -> FetchedResponse:
        """The complete response. Raises `FetchFailed`.

        method: the HTTP method, in upper case.
        url: with `http://` or `https://`.
        headers: pairs of name and value.
        body: the whole body.
        timeout_s: seconds for the whole response; None for the node's own.
        """


outside: ContextVar[Outside] = ContextVar("perdure_outside")


async def fetch(
    url: str,
    *,
    method: str | None = None,
    headers: Mapping[str, str] | Pairs | None = None,
    body: str | bytes | None = None,
    json: Any = _ABSENT,
    timeout: float | None = None,  # noqa: ASYNC109 - as people know it; the port keeps it
) -> FetchedResponse:
    """Send an HTTP request from a handler or a Worker, and return the whole response, whatever its status.

    The request leaves once all that the turn has seen is durable. If the turn runs again after a crash, so
    does the request. At most 5 redirects are followed; no cookies are kept.

    url: an absolute `http://` or `https://` URL.
    method: GET by default, POST if there is a body.
    headers: a mapping, or pairs of name and value. `host`, `content-length`, `connection` and other headers
        of one connection are left out; `traceparent` is added if the command has one.
    body: str, sent as UTF-8, or bytes.
    json: any value that `Response.json` takes, sent as JSON with `content-type:
        application/json`; instead of `body`.
    timeout: seconds for the whole response, by default `deadline_s` of the configuration. The turn's own
        deadline still ends the turn.

    Raises `FetchFailed` (HTTP 502 if it is not caught) if no HTTP response came, `FetchTimedOut` if it was
    not complete in time, `FetchTooLarge` if its body is over `limits.fetch_bytes`; `TurnEnded` outside a
    handler; ValueError for a URL, header or method that cannot be sent and for `body` with `json`.
    """
    port = outside.get(None)
    if port is None:
        raise TurnEnded("perdure.fetch works inside a handler or a Worker only: none runs here")
    if body is not None and json is not _ABSENT:
        raise ValueError("fetch takes body= or json=, not both")
    if not isinstance(url, str) or not url.lower().startswith(("http://", "https://")):
        raise ValueError(f"fetch takes a URL with http:// or https://, not {str(url)[:80]!r}")
    given = [(name.lower(), value) for name, value in pairs_of(headers or ())]
    pairs = [each for each in given if each[0] not in _NOT_PASSED_ON]
    names = {name for name, _ in pairs}
    if json is not _ABSENT:
        body = encode_json(json)
        if "content-type" not in names:
            pairs.append(("content-type", "application/json"))
    content = body.encode() if isinstance(body, str) else body or b""
    running = caller()
    await running.synced()
    if running.traceparent and "traceparent" not in names:
        pairs.append(("traceparent", running.traceparent))
    wanted = method or ("GET" if body is None else "POST")
    return await port.request(wanted.upper(), url, tuple(pairs), content, timeout)
