"""Objects as a test sees them, in a world of `perdure.testing`: `env.Counter.get("alice")` and what can be asked of it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from perdure.objects.http import Request, Response
from perdure.objects.registry import Kind
from perdure.objects.results import encode_json
from perdure.objects.rpc import Methods
from perdure.objects.stubs import call_of, check_method, fetch_of, result_of
from perdure.schemas.commands import Command, check_client_key
from perdure.schemas.keys import object_key
from perdure.schemas.replies import Reply

Ask = Callable[[Command, str | None], Coroutine[Any, Any, Reply]]  # what is asked, and the client's key


class Namespace:
    """`env.Counter`: the objects of one class."""

    def __init__(self, ask: Ask, kind: Kind) -> None:
        self._ask = ask
        self._methods = kind.methods
        self.name = kind.namespace

    def get(self, name: str) -> Stub:
        """The object called `name`. Raises `BadKey`."""
        return Stub(self._ask, object_key(self.name, name), self._methods)


class Stub:
    """An object, as a client sees it: `await stub.fetch(...)`, `await stub.increment(2)`.

    Its errors are raised: `Refusal` with code and detail, `HandlerFailed` and its kin, `CallerError`, `Unavailable`;
    `OutcomeUnknown` if the world was restarted meanwhile. `keyed` gives a stub with an idempotency key.
    """

    def __init__(self, ask: Ask, key: str, methods: Methods, client_key: str | None = None) -> None:
        self._ask = ask
        self._methods = methods
        self._client_key = client_key
        self.key = key

    def __repr__(self) -> str:
        return f"<stub of {self.key}>"

    def keyed(self, client_key: str) -> Stub:
        """The same object; what is asked through this stub carries the idempotency key. Raises `MalformedCommand`."""
        return Stub(self._ask, self.key, self._methods, check_client_key(client_key))

    async def fetch(
        self,
        request: Request | str = "/",
        *,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: str | bytes | None = None,
        json: Any = None,
    ) -> Response:
        """Its answer to a request or a path, as an object's stub asks for it; `json` is a body too."""
        if json is not None:
            body = encode_json(json)
        reply = await self._ask(fetch_of(self.key, request, method, headers, body), self._client_key)
        return Response(reply.body, reply.status, reply.headers)

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        check_method(self.key, name)

        async def method(*args: Any, **kwargs: Any) -> Any:
            command = call_of(self.key, name, args, kwargs, methods=self._methods)
            return result_of(await self._ask(command, self._client_key), name, self._methods)

        return method
