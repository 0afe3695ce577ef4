"""Stubs, the objects as a client sees them: `app.get(Counter, "alice")` or `app.get("Counter", "alice")`.

Laws
- A stub is a key and options; it sends nothing until one of its methods is called.
- With a class, an unknown method raises `AttributeError` at once; with a name, only the server knows the
  methods.
- Whether a call returns its value or an awaitable depends on its app only.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from perdure.api.client.answers import ClientResponse, RawResponse, result_of
from perdure.api.client.requests import ObjectRequest, Options, call_request, fetch_request, path_of, rooted
from perdure.api.client.sockets import Reopening, Socket
from perdure.api.client.sync_sockets import SyncSocket
from perdure.objects.rpc import Methods

Send = Callable[[ObjectRequest, Options, Callable[[RawResponse], Any]], Any]


class _Stub:
    def __init__(
        self,
        key: str,
        methods: Methods | None,
        options: Options,
        send: Send,
        reopening: Callable[[str, Options], Reopening],
    ) -> None:
        self._key = key
        self._methods = methods
        self._options = options
        self._send = send
        self._reopening = reopening

    def __repr__(self) -> str:
        return f"<stub of {self._key}>"

    def _method(self, name: str) -> Callable[..., Any]:
        if self._methods is not None and name not in self._methods:
            near = difflib.get_close_matches(name, self._methods, 3) or sorted(self._methods)[:10]
            raise AttributeError(
                f"{self._key} has no method {name!r} that can be called; did you mean: {', '.join(near)}?"
            )

        known = None if self._methods is None else self._methods[name]

        def method(*args: Any, **kwargs: Any) -> Any:
            request = call_request(self._key, name, args, kwargs, self._options, known)
            return self._send(request, self._options, partial(result_of, method=known))

        return method

    def _socket_at(self, path: str) -> Reopening:
        return self._reopening(path_of("objects", self._key) + rooted(path), self._options)


def _check(name: str) -> None:
    if name.startswith("_"):
        raise AttributeError(f"{name!r} is not a method that can be called: it begins with an underscore")


def _response(answer: RawResponse) -> ClientResponse:
    return ClientResponse(answer.status, answer.headers.pairs, answer.body)


class Stub(_Stub):
    """An object of a running app, called with `await`: `await stub.increment(2)`.

    Every name other than `fetch` and `websocket` is one of the object's methods. A call is repeated, with one
    idempotency key, until it has an answer or its timeout has passed, and so takes effect once. It raises the
    server's errors, such as the object's `Refusal`; `Unreachable`, an `Unavailable`, if no server could be
    reached; `OutcomeUnknown` if an attempt may have taken effect and no answer came in time.
    """

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        _check(name)
        return self._method(name)

    async def fetch(
        self,
        method: str,
        path: str = "/",
        *,
        json: Any = None,
        body: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ClientResponse:
        """Send an HTTP request to the object's `fetch`, and return its response, whatever its status.

        method: the HTTP method, such as `POST`.
        path: the path below the object, with its query; without `.` and `..`.
        json: a value to send as JSON with `content-type: application/json`.
        body: instead of `json`, str, sent as UTF-8, or bytes.
        headers: a mapping of names to values, printable ASCII.

        Raises perdure's own errors; ValueError for a method, path or header that cannot be sent, TypeError
        for `json` with `body` or a value that is not JSON: then nothing was sent.
        """
        request = fetch_request(self._key, method, path, json, body, headers, self._options)
        answered: ClientResponse = await self._send(request, self._options, _response)
        return answered

    def websocket(
        self, path: str = "/", *, on_reconnect: Callable[[Socket], Coroutine[Any, Any, None]] | None = None
    ) -> Socket:
        """A WebSocket to the object, for `async with`. It opens again by itself when the connection is lost.

        path: the path below the object, with its query.
        on_reconnect: awaited with the socket each time it has opened again, before further messages are
            received.
        """
        return Socket(self._socket_at(path), on_reconnect)


class SyncStub(_Stub):
    """An object of a running app, called without `await`: `stub.increment(2)`. Otherwise as `Stub`."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        _check(name)
        return self._method(name)

    def fetch(
        self,
        method: str,
        path: str = "/",
        *,
        json: Any = None,
        body: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ClientResponse:
        """As `Stub.fetch`, without `await`."""
        request = fetch_request(self._key, method, path, json, body, headers, self._options)
        answered: ClientResponse = self._send(request, self._options, _response)
        return answered

    def websocket(
        self, path: str = "/", *, on_reconnect: Callable[[SyncSocket], None] | None = None
    ) -> SyncSocket:
        """As `Stub.websocket`, for `with`; `on_reconnect` is called, not awaited."""
        return SyncSocket(self._socket_at(path), on_reconnect)
