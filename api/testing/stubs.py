"""Stubs of a world of `perdure.testing`: `env.Counter.get("alice")`, and the calls that it takes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from perdure.objects.http import Request, Response
from perdure.objects.registry import ObjectType
from perdure.objects.results import encode_json
from perdure.objects.rpc import Methods
from perdure.objects.stubs import call_of, check_method, fetch_of, result_of
from perdure.schemas.commands import Command, check_client_key
from perdure.schemas.keys import object_key
from perdure.schemas.replies import Reply

Submit = Callable[[Command, str | None], Coroutine[Any, Any, Reply]]  # of a command and the idempotency key


class Namespace:
    """The objects of one class: `env.Counter`."""

    def __init__(self, submit: Submit, kind: ObjectType) -> None:
        self._submit = submit
        self._methods = kind.methods
        self.name = kind.namespace

    def get(self, name: str) -> Stub:
        """A stub of the object called `name`. Raises `BadKey` for a name that cannot be one."""
        return Stub(self._submit, object_key(self.name, name), self._methods)


class Stub:
    """An object under test, called as a client would: `await stub.increment(2)`.

    Every name other than `fetch` and `keyed` is one of the object's methods. A call raises the object's
    `Refusal`, `HandlerFailed` if its code failed, `CallerError`, `Unavailable`, and `OutcomeUnknown` if
    `World.restart` came before the answer.

    Attributes:
        key: `Namespace/name`, such as `Counter/alice`.

    submit: appends a command and returns its reply; given by the world.
    methods: those of the object's class.
    client_key: the idempotency key of its requests; None for none.
    """

    def __init__(self, submit: Submit, key: str, methods: Methods, client_key: str | None = None) -> None:
        self._submit = submit
        self._methods = methods
        self._client_key = client_key
        self.key = key

    def __repr__(self) -> str:
        return f"<stub of {self.key}>"

    def keyed(self, client_key: str) -> Stub:
        """A stub of the same object whose calls carry this idempotency key. Raises `MalformedCommand`."""
        return Stub(self._submit, self.key, self._methods, check_client_key(client_key))

    async def fetch(
        self,
        request: Request | str = "/",
        *,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: str | bytes | None = None,
        json: Any = None,
    ) -> Response:
        """Send a request to the object's `fetch`, and return its response.

        request: a path with its query, or a `Request`.
        method: GET by default, or the request's own.
        headers: a mapping of names to values; in place of the request's own.
        body: str, sent as UTF-8, or bytes; in place of the request's own.
        json: instead of `body`, a value to send as JSON.
        """
        if json is not None:
            body = encode_json(json)
        reply = await self._submit(fetch_of(self.key, request, method, headers, body), self._client_key)
        return Response(reply.body, reply.status, reply.headers)

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        check_method(self.key, name)

        async def method(*args: Any, **kwargs: Any) -> Any:
            command = call_of(self.key, name, args, kwargs, methods=self._methods)
            return result_of(await self._submit(command, self._client_key), name, self._methods)

        return method
