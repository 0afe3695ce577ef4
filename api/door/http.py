"""The HTTP door: requests for objects become commands, answers become responses.

    ANY  /objects/{namespace}/{name}[/{path}]     a fetch
    POST /rpc/{namespace}/{name}/{method}         a call: {"args": […], "kwargs": {…}}
    perdure's own pages (api/pages.py): /livez, /readyz, /metrics, …
    all other paths are the Worker's, if the app has one (api/worker/worker.py)

It has two ways in, which differ only in who reads the body: `ask` for a request that is complete (see
api/protocol/fast_path.py), and raw ASGI for all others (a framework would cost a third of the throughput).

Laws
- A path has one spelling, but for an object's name, which is percent-decoded once and must then be canonical: the words
  of perdure's own and namespaces stand as they are, nothing is folded, no slash and no dot is left out. The rest of the path
  reaches the object as it was sent.
- Requests of foreign web pages end here (api/access/origins.py).
- What is over a limit is refused before it is read to its end, and before anything is appended.
- Every error is problem+json; an answer names its command (`perdure-command: partition:offset`).
- `Authorization` and `Cookie` go no further than here and the Worker.
- With a Worker in front, objects are reached through it only, unless the app is exposed or access is guarded.
- Where access is guarded, nothing of a request but its head is read before it is known that it may.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache, partial
from typing import Any

from perdure.api.access.guard import OWN, Access, need_of_object, need_of_page, ticket_in
from perdure.api.access.origins import Origins
from perdure.api.door.async_commands import accepted, prefers_async
from perdure.api.gateway import ClientEnvelope, Gateway
from perdure.api.http1.heads import Head, RawHeaders, read_head, whole_request
from perdure.api.pages import (
    PageRequest,
    Pages,
    Refused,
    first_of,
    for_object,
    no_such_path,
    not_allowed,
    parts_of,
    query_of,
    text_of,
)
from perdure.api.problems import Problem, problem, problem_of, problem_of_reply
from perdure.api.replies import PlacedReply, ReplyFuture, ReplyListener
from perdure.api.worker.worker import Worker
from perdure.objects.registry import Registry
from perdure.objects.turn import SWITCHING
from perdure.schemas.access import Grant
from perdure.schemas.cache import PureCache
from perdure.schemas.commands import CALL, FETCH, call_body, parse_arguments
from perdure.schemas.errors import (
    InvalidArguments,
    MalformedCommand,
    OutcomeUnknown,
    PerdureError,
    TooLarge,
)
from perdure.schemas.keys import object_key
from perdure.schemas.replies import FAILED, ErrorInfo, Pairs
from perdure.streams.log.base import durable

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_OPENED_BY = "set expose = true (PERDURE_EXPOSE=true), or give tokens to those who may: [[tokens]], `perdure token create`"
_CLOSED = (
    "this app has a Worker in front of its objects, and requests go to it; /objects and /rpc are closed. To open them "
    f"beside it, {_OPENED_BY}"
)
_ADMIN_CLOSED = (
    "this app has a Worker in front of its objects, and administration (/admin, /commands) is closed. `perdure dev` opens "
    f"it for this machine; for a server, {_OPENED_BY}"
)
NO_BODY = frozenset((204, 304))
_REMEMBERED_CHARS = 256  # of a path; those are 65,536 at most
_NOT_SENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


_Target = tuple[bytes, str, str]  # of a path: `objects` or `rpc`, the key, what follows the name
# key, kind, method, path, headers, body
_Request = tuple[str, str, str, str, Pairs, bytes]


class HttpDoor:
    """`await door(scope, receive, send)`. `pages`: those there are of perdure's own."""

    def __init__(
        self,
        gateway: Gateway,
        registry: Registry,
        *,
        body_bytes: int,
        pages: Pages,
        worker: Worker | None = None,
        exposed: bool = False,
        access: Access | None = None,
        origins: Origins | None = None,
    ) -> None:
        self.origins = origins or Origins()
        self._worker = worker
        self._access = access
        self.closed = worker is not None and not exposed and access is None
        self._gateway = gateway
        self._registry = registry
        self.body_bytes = body_bytes
        self._pages = pages
        self.answered: Counter[int] = Counter()  # by status
        self._targets: PureCache[bytes, _Target] = PureCache(self._resolved, 65_536)

    # A request that is complete

    def ask(
        self,
        asker: ReplyListener,
        method: str,
        raw_path: bytes,
        query: bytes,
        head: Head,
        body: bytes,
        socket: str = "",
    ) -> None:
        """Make the command that a request for an object is. Raises `Refused` or a `PerdureError`: nothing asked.

        `socket`: of an upgrade, see `Command`.
        """
        asked = self._read(method, raw_path, query, head, body)
        _, client_key, traceparent, _, principal = head
        self._gateway.submit(asker, *asked, client_key, traceparent, None, principal, socket)

    def _read(self, method: str, raw_path: bytes, query: bytes, head: Head, body: bytes) -> _Request:
        known = len(raw_path) <= _REMEMBERED_CHARS
        room, key, rest = self._targets[raw_path] if known else self._resolved(raw_path)
        if room == b"objects":
            path = "/" + rest
            if query:
                path += "?" + query.decode("latin-1")
            return key, FETCH, method, path, head.headers, body
        if method != "POST":
            raise not_allowed("a method is called with POST", "POST")
        called = text_of(rest.encode("latin-1"))
        return key, CALL, called, "", (), _call_of(called, body)

    def key_of(self, raw_path: bytes) -> str:
        """The object that a path is for. Raises `Refused` or a `PerdureError`."""
        return self._resolved(raw_path)[1]

    def worker_for(self, raw_path: bytes) -> Worker:
        """Who answers an upgrade to a WebSocket at a path of no object. Raises `Refused`: nobody."""
        if self._worker is None or not self.for_worker(raw_path):
            raise Refused(problem("no-such-path", "WebSockets are at /objects/NAMESPACE/NAME", status=404))
        return self._worker

    def for_worker(self, raw_path: bytes) -> bool:
        """Is a path the Worker's?"""
        return self._worker is not None and first_of(raw_path) not in OWN

    def response_to(self, answer: PlacedReply) -> Problem:
        """(status, headers, body) of the response to an answered command."""
        reply = answer.reply
        if reply.error is None and sendable(reply.headers) and reply.status != SWITCHING:
            told: Problem = reply.status, encoded(reply.headers), reply.body
        else:
            outcome = FAILED if reply.error is None else reply.outcome
            told = problem_of_reply(outcome, reply.error or _UNSENDABLE)
        status, headers, body = told
        return status, [*headers, (b"perdure-command", b"%d:%d" % (answer.partition, answer.offset))], body

    def check_size(self, size: int) -> None:
        """Raises `TooLarge` for a body of so many bytes."""
        if size > self.body_bytes:
            raise TooLarge(f"the body has {size} bytes; {self.body_bytes} are allowed (limits.body_bytes)")

    def count(self, status: int) -> None:
        """A response is sent."""
        self.answered[status] += 1

    def _resolved(self, raw_path: bytes) -> _Target:
        """Raises as `key_of`."""
        _, room, *parts = raw_path.split(b"/", 4)
        if len(parts) < 2:
            raise no_such_path(raw_path.decode("latin-1"))
        rest = parts[2].decode("latin-1") if len(parts) > 2 else ""
        return room, self._canonical(parts[0], parts[1]), rest

    def _canonical(self, namespace: bytes, name: bytes) -> str:
        key = object_key(namespace.decode("ascii", "replace"), text_of(name))
        self._registry.type_of(key.partition("/")[0])
        return key

    # ASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._not_http(scope, receive, send)
            return
        try:
            status, headers, body = await self._answered(scope, receive)
        except (Refused, PerdureError) as error:
            status, headers, body = problem_at_door(error)
            if any(name == b"expect" for name, _ in scope["headers"]):
                # refused before it sent the body, a client may send its next request in place of it
                headers = [*headers, (b"connection", b"close")]
        self.count(status)
        headers = [*headers]
        if status in NO_BODY:
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

    async def _answered(self, scope: Scope, receive: Receive) -> Problem:
        raw_path: bytes = scope["raw_path"]
        if raw_path == b"*":
            return 204, [(b"allow", b"GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS")], b""
        self.origins.check(scope["method"], raw_path, scope["headers"])
        if not for_object(raw_path):
            return await self._page(scope, receive)
        if self.closed:
            raise not_exposed()
        query: bytes = scope["query_string"]
        if (access := self._access) is None:
            head = read_head(scope["headers"])
            body = b"" if head.size == 0 else await self._body(head.size, receive)
        else:
            grant = await access.admit(scope["headers"], need_of_object(scope["method"], raw_path))
            head = read_head(scope["headers"])._replace(principal=grant.principal)
            query = ticket_in(query)[1]
            access.charge(grant, 1, head.size or 0)
            body = b"" if head.size == 0 else await self._body(head.size, receive)
            if head.size is None:
                access.charge(grant, 0, len(body))
        if prefers_async(scope["headers"]):
            return await self._accepted(scope["method"], raw_path, query, head, body)
        waiting = ReplyFuture()
        self.ask(waiting, scope["method"], raw_path, query, head, body)
        return self.response_to(await waiting.future)

    async def _accepted(self, method: str, raw_path: bytes, query: bytes, head: Head, body: bytes) -> Problem:
        """Append a request that is not waited for: what `ask` makes of it, without a deadline."""
        asked = self._read(method, raw_path, query, head, body)
        sent = ClientEnvelope(head.client_key, head.principal, head.traceparent)
        id_, receipt = self._gateway.accept(*asked, sent)
        try:
            await durable(receipt)
        except OutcomeUnknown as error:
            raise OutcomeUnknown(f"command {id_}: {error}: it may run or have run", id_) from error
        return accepted(id_)

    async def _page(self, scope: Scope, receive: Receive) -> Problem:
        raw_path: bytes = scope["raw_path"]
        name = first_of(raw_path)
        grant: Grant | None = None
        query: bytes = scope["query_string"]
        if (access := self._access) is not None:
            need = need_of_page(name, has_worker=self._worker is not None)
            query = ticket_in(query)[1]
            if need is not None:
                grant = await access.admit(scope["headers"], need)
                access.charge(grant, 1, 0)
        if (page := self._pages.get(name)) is not None:
            body = partial(self._whole_body, scope, receive)
            return await page(PageRequest(scope["method"], parts_of(raw_path), query_of(query), grant, body))
        if self.closed and name in ("admin", "commands"):
            raise Refused(problem("not-exposed", _ADMIN_CLOSED, status=403))
        if self._worker is None or name in OWN:
            raise no_such_path(scope["path"])
        return await self._by_worker(self._worker, scope, receive)

    async def _whole_body(self, scope: Scope, receive: Receive) -> bytes:
        size = read_head(scope["headers"]).size
        return b"" if size == 0 else await self._body(size, receive)

    async def _by_worker(self, worker: Worker, scope: Scope, receive: Receive) -> Problem:
        head = read_head(scope["headers"])
        body = b"" if head.size == 0 else await self._body(head.size, receive)
        raw: RawHeaders = scope["headers"]
        principal = "" if self._access is None else await self._access.principal_of(raw)
        asked = scope["method"], scope["raw_path"], scope["query_string"], raw, body
        request = whole_request(*asked, principal=principal)
        return await worker.answer(request, head.client_key, head.traceparent, _gone(receive))

    async def _body(self, size: int | None, receive: Receive) -> bytes:
        self.check_size(size or 0)
        chunks: list[bytes] = []
        read = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError
            chunks.append(message.get("body", b""))
            read += len(chunks[-1])
            self.check_size(read)
            if not message.get("more_body"):
                return b"".join(chunks)


async def _gone(receive: Receive) -> None:
    """Until whoever asked has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def not_exposed() -> Refused:
    """What comes of a request for an object behind a Worker that is alone in front."""
    return Refused(problem("not-exposed", _CLOSED, status=403))


def problem_at_door(error: Refused | PerdureError) -> Problem:
    """The problem of a request for which nothing was asked, or no answer came."""
    return error.problem if isinstance(error, Refused) else problem_of(error)


def _call_of(method: str, body: bytes) -> bytes:
    asked = parse_arguments(body) if body.strip() else {}
    if type(asked) is not dict or asked.keys() - {"args", "kwargs"}:
        raise InvalidArguments('the body of a call is {"args": […], "kwargs": {…}}, both optional')
    args, kwargs = asked.get("args", []), asked.get("kwargs", {})
    if type(args) is not list or type(kwargs) is not dict:
        raise InvalidArguments('"args" is a JSON array, "kwargs" a JSON object')
    try:
        return call_body(method, args, kwargs)
    except (ValueError, TypeError, RecursionError) as error:
        raise MalformedCommand(f"the arguments cannot be written as JSON: {error}") from error


_UNSENDABLE = ErrorInfo("bad-reply", "the answer has a header that cannot be sent")


@lru_cache(1024)
def sendable(headers: Pairs) -> bool:
    """No control characters: an answer that came over the log may be anybody's."""
    return not any(_NOT_SENDABLE.search(name) or _NOT_SENDABLE.search(value) for name, value in headers)


@lru_cache(1024)
def encoded(headers: Pairs) -> tuple[tuple[bytes, bytes], ...]:
    """Headers of a response, as ASGI wants them; a class answers with few different sets of them."""
    return tuple((name.encode(), value.encode("latin-1")) for name, value in headers)
