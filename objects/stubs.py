"""Stubs: another object as a handler sees it. Here calls become commands, and replies results or errors.

Laws
- A stub is a name only. The caller is the running turn (`current_turn`); outside a turn there is none.
- An error reply is raised again in the caller with its type and message; a `Refusal` with its code and
  detail. An error that was raised for a call is marked (`of_call`), so that it is not mistaken for the
  caller's own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any
from urllib.parse import urlsplit

from perdure.objects.codec import by_name
from perdure.objects.effects import AT_ONCE
from perdure.objects.http import FetchedResponse, Request, is_latin
from perdure.objects.names import ObjectId
from perdure.objects.overlay import current_turn
from perdure.objects.ports import Caller
from perdure.objects.rpc import Methods, json_result, method_named
from perdure.schemas.commands import CALL, FETCH, NEVER_LOGGED, Command, call_body
from perdure.schemas.errors import (
    CallerError,
    HandlerFailed,
    ObjectError,
    PerdureError,
    Refusal,
    TurnEnded,
    Unavailable,
    error_named,
)
from perdure.schemas.keys import namespace_of
from perdure.schemas.replies import FAILED, PARKED, REFUSED, REJECTED, Pairs, Reply
from perdure.schemas.sockets import PASSED_ON

_OF_THE_HOP = NEVER_LOGGED | {"connection", "content-length", "keep-alive", "transfer-encoding", "upgrade"}
_KIN: dict[str, tuple[type[PerdureError], type[PerdureError]]] = {
    # outcome -> the errors that its codes may name, and the error for any other code
    REJECTED: (CallerError, CallerError),
    FAILED: (PerdureError, HandlerFailed),
    PARKED: (ObjectError, HandlerFailed),
}


def caller() -> Caller:
    """The running turn or Worker request. Raises `TurnEnded` outside one."""
    turn: Any = current_turn.get(None)
    if turn is None:
        raise TurnEnded("an object is called from a handler: there is no turn here that could wait for it")
    running: Caller = turn
    return running


class Stub:
    """Another object, as a handler or Worker calls it: `self.env.STOCK.get("tea")`.

    `await stub.take(2)` calls a method and returns its result; `stub.send.take(2)` sends a message without
    waiting. Arguments and results have the types of the method's annotations. Each call takes effect once,
    however often the calling turn runs. Two stubs of one object are equal.

    A call raises the `Refusal` of the other object, `HandlerFailed` if its code failed, `CallerError` for a
    call that it cannot take, `Deadlock` if it waits for the caller, `Unavailable` if nothing was done,
    `OutcomeUnknown` if that is not known, and `TurnEnded` outside a turn.

    Attributes:
        key: `Namespace/name`, such as `Stock/tea`.
    """

    __slots__ = ("_hint", "_methods", "key")

    def __init__(self, key: str, hint: str = "", methods: Methods | None = None) -> None:
        self.key = key
        self._hint = hint
        self._methods = methods

    def __repr__(self) -> str:
        return f"<stub of {self.key}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stub) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def id(self) -> ObjectId:
        """The object's id."""
        return ObjectId(self.key)

    async def fetch(
        self,
        request: Request | str,
        *,
        method: str | None = None,
        headers: Mapping[str, str] | Pairs | None = None,
        body: str | bytes | None = None,
    ) -> FetchedResponse:
        """Call the object's `fetch` and return its response, whatever its status.

        request: a path such as `/items?page=2`, a URL, of which path and query are used, or a `Request`, such
            as the one that a Worker received. A WebSocket request that is passed on connects the client to
            this object.
        method: GET by default, or the request's own.
        headers: a mapping, or pairs of name and value; in place of the request's own.
        body: str, sent as UTF-8, or bytes; in place of the request's own.

        Raises what every call raises, and ValueError for a header that cannot be sent.
        """
        command = fetch_of(self.key, request, method, headers, body, self._hint)
        reply = answered(await caller().call(command))
        return FetchedResponse(reply.status, reply.headers, reply.body)

    @property
    def send(self) -> Sender:
        """`stub.send.method(…)`: a message without an answer. It leaves when this turn has committed, and is
        delivered once, in the order of sending. If this turn fails, it is never sent. It need not be awaited.
        """
        return Sender(self.key, self._hint, self._methods)

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        check_method(self.key, name)

        def method(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
            return _called(call_of(self.key, name, args, kwargs, self._hint, self._methods), self._methods)

        return method


class Sender:
    """Messages to an object: `stub.send.method(…)`."""

    __slots__ = ("_hint", "_methods", "key")

    def __init__(self, key: str, hint: str = "", methods: Methods | None = None) -> None:
        self.key = key
        self._hint = hint
        self._methods = methods

    def __getattr__(self, name: str) -> Callable[..., Awaitable[None]]:
        check_method(self.key, name)

        def method(*args: Any, **kwargs: Any) -> Awaitable[None]:
            caller().send(call_of(self.key, name, args, kwargs, self._hint, self._methods))
            return AT_ONCE

        return method


def check_method(key: str, name: str) -> None:
    """Raises AttributeError for a name that a callable method cannot have."""
    if name.startswith("_"):
        raise AttributeError(
            f"{key}: {name!r} is not a method that can be called: it begins with an underscore"
        )


async def _called(command: Command, methods: Methods | None) -> Any:
    return result_of(answered(await caller().call(command)), command.method, methods)


def result_of(reply: Reply, name: str, methods: Methods | None) -> Any:
    """The result of a call, by its annotation if the method is known. Raises
    `BadReply` if it does not fit.
    """
    return json_result(reply.body) if methods is None else methods[name].result(reply.body)


def call_of(
    key: str,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    hint: str = "",
    methods: Methods | None = None,
) -> Command:
    """The command of a call of a method.

    key: the object, as `Namespace/name`.
    name: the method.
    args, kwargs: its arguments.
    hint: where to place an object that does not exist yet; empty for anywhere.
    methods: those of its class; None if the class is not known here.

    Raises `InvalidArguments` or `UnknownMethod` for a call that the method would not take; where `methods`
    are not known, TypeError for arguments that are not JSON.
    """
    if methods is not None:
        try:
            body = method_named(methods, name, namespace_of(key)).encode(args, kwargs)
        except PerdureError as error:
            error.of_call = True  # as if the other object had refused it
            raise
    else:
        try:
            body = call_body(
                name, list(map(by_name, args)), {key: by_name(each) for key, each in kwargs.items()}
            )
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise TypeError(f"the arguments of {name} for {key} are not JSON: {error}") from error
    return Command(key, CALL, name, body=body, hint=hint)


def fetch_of(
    key: str,
    request: Request | str,
    method: str | None,
    headers: Mapping[str, str] | Pairs | None,
    body: str | bytes | None,
    hint: str = "",
) -> Command:
    """The command of a request. Raises ValueError for a header that cannot be sent.

    key: the object, as `Namespace/name`.
    request: a `Request`, or a path or URL for one.
    method, headers, body: those of the request if `request` is a path or URL; None for GET, none and empty.
    hint: where to place an object that does not exist yet; empty for anywhere.
    """
    if isinstance(request, str):
        parts = urlsplit(request)
        path = parts.path if parts.path.startswith("/") else f"/{parts.path}"
        request = Request("GET", f"{path}?{parts.query}" if parts.query else path)
    given = request._headers if headers is None else headers
    pairs = tuple(given.items() if isinstance(given, Mapping) else given)
    for name, value in pairs:
        if not (name.isascii() and name.isprintable() and value.isprintable() and is_latin(value)):
            raise ValueError(f"the request to {key} has a header that cannot be sent: {name!r}: {value!r}")
    kept = tuple((name.lower(), value) for name, value in pairs if name.lower() not in _OF_THE_HOP)
    upgrade = any(name.lower() == "upgrade" and value.lower() == "websocket" for name, value in pairs)
    if body is None:
        body = request.body
    elif isinstance(body, str):
        body = body.encode()
    method = (method or request.method).upper()
    return Command(
        key, FETCH, method, request.target, kept, body, socket=PASSED_ON if upgrade else "", hint=hint
    )


def answered(reply: Reply) -> Reply:
    """The reply, unless it is an error reply: then its error is raised."""
    if reply.error is None:
        return reply
    raise error_of(reply)


def error_of(reply: Reply) -> PerdureError:
    """The error that a caller gets for an error reply."""
    info = reply.error
    assert info is not None
    if reply.outcome == REFUSED:
        return Refusal(info.message, code=info.code, detail=info.detail)
    kin, default = _KIN.get(reply.outcome, (Unavailable, Unavailable))
    named = error_named(info.code)
    known = named is not None and issubclass(named, kin) and not issubclass(named, Refusal)
    error = named(info.message) if named is not None and known else default(info.message)
    error.of_call = True
    return error
