"""The HTTP door: a raw ASGI application (a framework would cost a third of the throughput).

    ANY  /objects/{namespace}/{name}[/{path}]     a fetch
    POST /rpc/{namespace}/{name}/{method}         a call: {"args": […], "kwargs": {…}}
    GET  /livez  /readyz  /metrics

Laws
- A name is decoded once, from the raw path, and must then be canonical; the rest of the path reaches the object
  as it was sent.
- What is over a limit is refused before it is read to its end, and before anything is appended.
- Every error is problem+json; an answer names its command (`perdure-command: partition:offset`).
- `Authorization` and `Cookie` go no further than here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes

from perdure.api.gateway import Answer, Gateway
from perdure.api.problems import Problem, problem, problem_of, problem_of_reply
from perdure.objects.registry import Registry
from perdure.schemas.commands import CALL, FETCH, NEVER_LOGGED, call_body, check_client_key, parse_json
from perdure.schemas.errors import BadKey, InvalidArguments, MalformedCommand, PerdureError, TooLarge
from perdure.schemas.keys import object_key
from perdure.schemas.replies import Pairs

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# hop-by-hop headers concern the connection, not the object (RFC 9110 §7.6.1)
_DROPPED = NEVER_LOGGED | {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
_DROPPED_BYTES = frozenset(name.encode() for name in _DROPPED)
_NO_BODY = frozenset((204, 304))


class _Refused(Exception):
    """A request that ends at the door, with its problem."""

    def __init__(self, told: Problem) -> None:
        super().__init__(told)
        self.problem = told


class HttpDoor:
    """`await door(scope, receive, send)`. `status` answers /livez, /readyz and /metrics."""

    def __init__(
        self, gateway: Gateway, registry: Registry, *, body_bytes: int, pages: Callable[[str], Problem | None]
    ) -> None:
        self._gateway = gateway
        self._registry = registry
        self._body_bytes = body_bytes
        self._pages = pages
        self.answered: dict[int, int] = {}
        self._key = lru_cache(65_536)(self._canonical)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._not_http(scope, receive, send)
            return
        place = b""
        try:
            asked = await self._asked(scope, receive)
            if isinstance(asked, tuple):
                told = asked
            else:
                try:
                    reply, partition, offset = await asked
                except asyncio.CancelledError:
                    asked.cancel()  # the client has gone; the command goes its way
                    raise
                place = b"%d:%d" % (partition, offset)
                if reply.error is None:
                    told = reply.status, _encoded(reply.headers), reply.body
                else:
                    told = problem_of_reply(reply.outcome, reply.error)
        except _Refused as refused:
            told = refused.problem
        except PerdureError as error:
            told = problem_of(error)
        status, headers, body = told
        self.answered[status] = self.answered.get(status, 0) + 1
        headers = [*headers, (b"perdure-command", place)] if place else [*headers]
        if status in _NO_BODY:
            body = b""
        else:
            headers.append((b"content-length", b"%d" % len(body)))
        if scope["method"] == "HEAD":
            body = b""
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _not_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})  # before accepting: the client sees 403

    async def _asked(self, scope: Scope, receive: Receive) -> asyncio.Future[Answer] | Problem:
        """What a request comes to: the answer of the command it became, or a page."""
        raw: bytes = scope["raw_path"]
        parts = raw.split(b"/", 4)
        root = parts[1] if len(parts) > 1 else b""
        if root == b"objects" and len(parts) > 3:
            key = self._key(parts[2], parts[3])
            path = "/" + parts[4].decode("latin-1") if len(parts) > 4 else "/"
            if query := scope["query_string"]:
                path += "?" + query.decode("latin-1")
            headers, client_key, traceparent, size = _read_headers(scope["headers"])
            body = b"" if size == 0 else await self._body(size, receive)
            return self._gateway.submit(
                key, FETCH, scope["method"], path, headers, body, client_key, traceparent
            )
        if root == b"rpc" and len(parts) > 3:
            return await self._call(parts, scope, receive)
        page = self._pages(scope["path"])
        if page is not None:
            return page
        told = f"{scope['path'][:80]} is nothing here: /objects/NAMESPACE/NAME, /rpc/NAMESPACE/NAME/METHOD"
        raise _Refused(problem("no-such-path", told, status=404))

    async def _call(self, parts: list[bytes], scope: Scope, receive: Receive) -> asyncio.Future[Answer]:
        if scope["method"] != "POST":
            raise _Refused(problem("method-not-allowed", "a method is called with POST", status=405))
        key = self._key(parts[2], parts[3])
        method = unquote_to_bytes(parts[4]).decode("utf-8", "replace") if len(parts) > 4 else ""
        _, client_key, traceparent, size = _read_headers(scope["headers"])
        body = b"" if size == 0 else await self._body(size, receive)
        asked = parse_json(body) if body.strip() else {}
        if type(asked) is not dict or asked.keys() - {"args", "kwargs"}:
            raise InvalidArguments('the body of a call is {"args": […], "kwargs": {…}}, both optional')
        args, kwargs = asked.get("args", []), asked.get("kwargs", {})
        if type(args) is not list or type(kwargs) is not dict:
            raise InvalidArguments('"args" is a JSON array, "kwargs" a JSON object')
        try:
            encoded = call_body(method, args, kwargs)
        except (ValueError, TypeError, RecursionError) as error:
            raise MalformedCommand(f"the arguments cannot be written as JSON: {error}") from error
        return self._gateway.submit(key, CALL, method, "", (), encoded, client_key, traceparent)

    def _canonical(self, namespace: bytes, name: bytes) -> str:
        try:
            decoded = unquote_to_bytes(name).decode()
            key = object_key(namespace.decode("ascii", "replace"), decoded)
        except UnicodeDecodeError as error:
            raise BadKey(f"the name {name[:60]!r} is not UTF-8") from error
        self._registry.kind(key.partition("/")[0])
        return key

    async def _body(self, size: int | None, receive: Receive) -> bytes:
        limit = self._body_bytes
        if size is not None and size > limit:
            raise TooLarge(f"the body has {size} bytes; {limit} are allowed (limits.body_bytes)")
        message = await receive()
        body: bytes = message.get("body", b"")
        if not message.get("more_body"):
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError
            return self._fitting(body)
        chunks, read = [body], len(body)
        while message.get("more_body"):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError
            chunks.append(message.get("body", b""))
            read += len(chunks[-1])
            if read > limit:
                raise TooLarge(f"the body has more than {limit} bytes, which are allowed (limits.body_bytes)")
        return b"".join(chunks)

    def _fitting(self, body: bytes) -> bytes:
        if len(body) > self._body_bytes:
            raise TooLarge(
                f"the body has {len(body)} bytes; {self._body_bytes} are allowed (limits.body_bytes)"
            )
        return body


@lru_cache(1024)
def _encoded(headers: Pairs) -> tuple[tuple[bytes, bytes], ...]:
    """Headers of a response, as ASGI wants them; a class answers with few different sets of them."""
    return tuple((name.encode(), value.encode("latin-1")) for name, value in headers)


def _read_headers(raw: list[tuple[bytes, bytes]]) -> tuple[Pairs, str | None, str, int | None]:
    """(headers for the object, idempotency key, traceparent, size of the body: 0 if none, None if not said)."""
    headers: list[tuple[str, str]] = []
    client_key, traceparent, size = None, "", 0
    chunked = False
    for name, value in raw:
        if name == b"content-length":
            size = int(value) if value.isdigit() and len(value) < 16 else 1 << 62
        elif name == b"transfer-encoding":
            chunked = True
        elif name == b"idempotency-key":
            client_key = check_client_key(value.decode("latin-1"))
        elif name == b"traceparent":
            traceparent = value.decode("latin-1")[:64]
        if name not in _DROPPED_BYTES:
            headers.append((name.decode("latin-1"), value.decode("latin-1")))
    return tuple(headers), client_key, traceparent, None if chunked else size
