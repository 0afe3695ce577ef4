"""Objects as a test sees them, in a world of `perdure.testing`: `env.Counter.get("alice")` and what can be asked of it."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from perdure.objects.http import Headers, Request, Response
from perdure.objects.stubs import check_method
from perdure.schemas.commands import CALL, FETCH, call_body, check_client_key
from perdure.schemas.keys import object_key
from perdure.schemas.replies import Reply

# stub, kind, method, path, headers, body, client key
Ask = Callable[..., Coroutine[Any, Any, Reply]]


class Namespace:
    """`env.Counter`: the objects of one class."""

    def __init__(self, ask: Ask, name: str) -> None:
        self._ask = ask
        self.name = name

    def get(self, name: str) -> Stub:
        """The object called `name`. Raises `BadKey`."""
        return Stub(self._ask, object_key(self.name, name))


class Stub:
    """An object, as a client sees it: `await stub.fetch(...)`, `await stub.increment(2)`.

    Its errors are raised: `Refusal` with code and detail, `HandlerFailed` and its kin, `CallerError`, `Unavailable`;
    `OutcomeUnknown` if the world was restarted meanwhile. `keyed` gives a stub with an idempotency key.
    """

    def __init__(self, ask: Ask, key: str, client_key: str | None = None) -> None:
        self._ask = ask
        self._client_key = client_key
        self.key = key

    def __repr__(self) -> str:
        return f"<stub of {self.key}>"

    def keyed(self, client_key: str) -> Stub:
        """The same object; what is asked through this stub carries the idempotency key. Raises `MalformedCommand`."""
        return Stub(self._ask, self.key, check_client_key(client_key))

    async def fetch(
        self,
        request: Request | str = "/",
        *,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: str | bytes | None = None,
        json: Any = None,
    ) -> Response:
        """Its answer to a request, or to a path (with its query) and what else is given; `json` is a body too."""
        if isinstance(request, str):
            sent = json_bytes(json) if json is not None else body or b""
            request = Request(
                (method or "GET").upper(),
                request if request.startswith("/") else f"/{request}",
                tuple((name.lower(), value) for name, value in (headers or {}).items()),
                sent.encode() if isinstance(sent, str) else sent,
            )
        elif (method, headers, body, json) != (None, None, None, None):
            raise TypeError("a Request says everything itself: give the rest with a path only")
        pairs = _pairs(request.headers)
        reply = await self._ask(
            self, FETCH, request.method, request.target, pairs, request.body, self._client_key
        )
        return Response(reply.body, reply.status, reply.headers)

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        check_method(self.key, name)

        async def method(*args: Any, **kwargs: Any) -> Any:
            body = call_body(name, list(args), kwargs)
            reply = await self._ask(self, CALL, name, "", (), body, self._client_key)
            return json_module.loads(reply.body)["result"]

        return method


def json_bytes(value: Any) -> bytes:
    return json_module.dumps(value, allow_nan=False).encode()


def _pairs(headers: Headers) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name in headers for value in headers.get_list(name))
