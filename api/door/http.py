"""The HTTP door: requests for objects become commands, answers become responses.

    ANY  /objects/{namespace}/{name}[/{path}]     a fetch
    POST /rpc/{namespace}/{name}/{method}         a call: {"args": […], "kwargs": {…}}
    perdure's own pages (api/pages.py): /livez, /readyz, /metrics, …
    all other paths are the Worker's, if the app has one (api/worker/worker.py)

`submit` takes a complete request for an object from the fast path (api/protocol/fast_path.py). All other
requests arrive by raw ASGI; a framework would cost a third of the throughput. Both become a command by the
gateway, and its answer a response.

Laws [test_http.py, test_keys.py]
- A path has one spelling, except for an object's name, which is percent-decoded once and must then be
  canonical. No case is folded, and no slash or dot is dropped. The rest of the path reaches the object as it
  was sent.
- Requests from web pages of other sites end here (api/access/origins.py).
- A request over a limit is refused before it is read to its end, and before anything is appended.
- Every error is problem+json; an answer names its command (`perdure-command: partition:offset`).
- `Authorization` and `Cookie` reach the Worker only, never an object.
- With a Worker in front, objects are reachable through it only, unless the app is exposed or has access
  control.
- With access control, only the head of a request is read before its right is checked.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache, partial
from typing import Any

from perdure.api.access import browser_sessions
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
from perdure.api.streaming import Streamed, send_stream
from perdure.api.telemetry.access_log import logged
from perdure.api.worker.worker import Worker
from perdure.objects.registry import Registry
from perdure.objects.turn import SWITCHING
from perdure.schemas.access import Grant
from perdure.schemas.cache import PureCache
from perdure.schemas.commands import CALL, FETCH, call_body, parse_arguments
from perdure.schemas.errors import (
    Forbidden,
    InvalidArguments,
    MalformedCommand,
    OutcomeUnknown,
    PerdureError,
    TooLarge,
    Unauthenticated,
)
from perdure.schemas.keys import object_key
from perdure.schemas.replies import FAILED, ErrorInfo, Pairs
from perdure.streams.log.base import durable

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_OPENED_BY = (
    "set expose = true (PERDURE_EXPOSE=true), or configure tokens: [[tokens]], `perdure token create`"
)
_CLOSED = (
    "this app has a Worker in front of its objects, and requests go to it; /objects and /rpc are closed. "
    f"To open them beside it, {_OPENED_BY}"
)
_ADMIN_CLOSED = (
    "this app has a Worker in front of its objects, and administration (/admin, /commands) is closed. "
    f"`perdure dev` opens it for this machine; for a server, {_OPENED_BY}"
)
NO_BODY = frozenset((204, 304))
_CACHED_CHARS = 256  # of a path; at most 65,536 of them are cached
_NOT_SENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


_Target = tuple[bytes, str, str]  # of a path: `objects` or `rpc`, the key, the rest after the name
# key, kind, method, path, headers, body
_Request = tuple[str, str, str, str, Pairs, bytes]


class HttpDoor:
    """The HTTP door of an app: an ASGI application, and `submit` for the fast path.

    Args:
        gateway: commands are submitted to it.
        registry: the app's classes.
        body_bytes: the limit of a request's body.
        pages: perdure's own pages, by the first part of their path.
        worker: the app's Worker; None if it has none.
        exposed: True if objects are reachable beside the Worker.
        access: the access control; None if all requests are allowed.
        origins: the check of requests from web pages; by default each name of this server is accepted.
    """

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
        self.logs = False  # True to log requests that come by ASGI
        self.answered: Counter[int] = Counter()  # by status
        self._targets: PureCache[bytes, _Target] = PureCache(self._resolved, 65_536)

    # A request that is complete

    def submit(
        self,
        listener: ReplyListener,
        method: str,
        raw_path: bytes,
        query: bytes,
        head: Head,
        body: bytes,
        socket: str = "",
    ) -> None:
        """Submit the command of a complete request for an object.

        Args:
            listener: receives the answer.
            method: the HTTP method.
            raw_path: the path as it was sent; it begins with /objects/ or /rpc/.
            query: the query without its question mark; may be empty.
            head: the request's headers, as `read_head` returns them.
            body: the body, complete.
            socket: of an upgrade to a WebSocket, its id and gateway (see `Command`); otherwise empty.

        Raises `Refused` or a `PerdureError`; then nothing is appended.
        """
        key, kind, method, path, headers, body = self._read(method, raw_path, query, head, body)
        _, client_key, traceparent, _, principal = head
        self._gateway.submit(
            listener, key, kind, method, path, headers, body, client_key, traceparent, None, principal, socket
        )

    def _read(self, method: str, raw_path: bytes, query: bytes, head: Head, body: bytes) -> _Request:
        known = len(raw_path) <= _CACHED_CHARS
        room, key, rest = self._targets[raw_path] if known else self._resolved(raw_path)
        if room == b"objects":
            path = "/" + rest
            if query:
                path += "?" + query.decode("latin-1")
            return key, FETCH, method, path, head.headers, body
        if method != "POST":
            raise not_allowed("a method is called with POST", "POST")
        name = text_of(rest.encode("latin-1"))
        return key, CALL, name, "", (), _call_of(name, body)

    def key_of(self, raw_path: bytes) -> str:
        """The key of the object that a path names. Raises `Refused` or a `PerdureError`."""
        return self._resolved(raw_path)[1]

    def worker_for(self, raw_path: bytes) -> Worker:
        """The Worker, for an upgrade at a path outside of objects. Raises `Refused` if there is none."""
        if self._worker is None or not self.for_worker(raw_path):
            raise Refused(problem("no-such-path", "WebSockets are at /objects/NAMESPACE/NAME", status=404))
        return self._worker

    def for_worker(self, raw_path: bytes) -> bool:
        """True if a path belongs to the Worker."""
        return self._worker is not None and first_of(raw_path) not in OWN

    def response_to(self, answer: PlacedReply) -> Problem:
        """(status, headers, body) of the response to an answered command."""
        reply = answer.reply
        if reply.error is None and sendable(reply.headers) and reply.status != SWITCHING:
            response: Problem = reply.status, encoded(reply.headers), reply.body
        else:
            outcome = FAILED if reply.error is None else reply.outcome
            response = problem_of_reply(outcome, reply.error or _UNSENDABLE)
        status, headers, body = response
        return status, [*headers, (b"perdure-command", b"%d:%d" % (answer.partition, answer.offset))], body

    def check_size(self, size: int) -> None:
        """Raises `TooLarge` for a body of so many bytes."""
        if size > self.body_bytes:
            raise TooLarge(f"the body has {size} bytes; {self.body_bytes} are allowed (limits.body_bytes)")

    def count(self, status: int) -> None:
        """Count a response that is sent."""
        self.answered[status] += 1

    def _resolved(self, raw_path: bytes) -> _Target:
        """Split a path of an object. Raises as `key_of`."""
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
        if self.logs:
            send = logged(scope, send)
        try:
            status, headers, body = await self._answered(scope, receive)
        except (Refused, PerdureError) as error:
            status, headers, body = problem_at_door(error)
            if any(name == b"expect" for name, _ in scope["headers"]):
                # the body was not read: the client might send its next request in place of it
                headers = [*headers, (b"connection", b"close")]
        self.count(status)
        headers = [*headers]
        if isinstance(body, Streamed) and scope["method"] != "HEAD":
            await send_stream(status, headers, body, receive, send)
            return
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
        reply = ReplyFuture()
        self.submit(reply, scope["method"], raw_path, query, head, body)
        return self.response_to(await reply.future)

    async def _accepted(self, method: str, raw_path: bytes, query: bytes, head: Head, body: bytes) -> Problem:
        """Append the command of a request that does not wait: as `submit`, without a deadline."""
        request = self._read(method, raw_path, query, head, body)
        envelope = ClientEnvelope(head.client_key, head.principal, head.traceparent)
        id_, receipt = self._gateway.accept(*request, envelope)
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
        body = partial(self._whole_body, scope, receive)
        if (access := self._access) is not None:
            if raw_path in browser_sessions.PATHS:
                return await browser_sessions.sign_in_or_out(
                    access, raw_path, scope["method"], scope["headers"], body
                )
            need = need_of_page(name, has_worker=self._worker is not None)
            query = ticket_in(query)[1]
            try:
                if need is not None:
                    grant = await access.admit(browser_sessions.with_session(name, scope["headers"]), need)
                    access.charge(grant, 1, 0)
            except (Unauthenticated, Forbidden) as error:
                if not browser_sessions.is_browser(name, scope["headers"]):
                    raise
                return browser_sessions.login_form(raw_path + (b"?" + query if query else b""), error)
        if (page := self._pages.get(name)) is not None:
            return await page(PageRequest(scope["method"], parts_of(raw_path), query_of(query), grant, body))
        if self.closed and name in ("admin", "commands", "console"):
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
        method, raw_path, query = scope["method"], scope["raw_path"], scope["query_string"]
        request = whole_request(method, raw_path, query, raw, body, principal=principal)
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
    """Wait until the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def not_exposed() -> Refused:
    """The refusal of a request for an object that is reachable through the Worker only (403)."""
    return Refused(problem("not-exposed", _CLOSED, status=403))


def problem_at_door(error: Refused | PerdureError) -> Problem:
    """The response to a request that failed at the door, or whose command has no answer."""
    return error.problem if isinstance(error, Refused) else problem_of(error)


def _call_of(method: str, body: bytes) -> bytes:
    arguments = parse_arguments(body) if body.strip() else {}
    if type(arguments) is not dict or arguments.keys() - {"args", "kwargs"}:
        raise InvalidArguments('the body of a call is {"args": […], "kwargs": {…}}, both optional')
    args, kwargs = arguments.get("args", []), arguments.get("kwargs", {})
    if type(args) is not list or type(kwargs) is not dict:
        raise InvalidArguments('"args" is a JSON array, "kwargs" a JSON object')
    try:
        return call_body(method, args, kwargs)
    except (ValueError, TypeError, RecursionError) as error:
        raise MalformedCommand(f"the arguments cannot be written as JSON: {error}") from error


_UNSENDABLE = ErrorInfo("bad-reply", "the answer has a header that cannot be sent")


@lru_cache(1024)
def sendable(headers: Pairs) -> bool:
    """True if no header has control characters; a reply from the log may come from any producer."""
    return not any(_NOT_SENDABLE.search(name) or _NOT_SENDABLE.search(value) for name, value in headers)


@lru_cache(1024)
def encoded(headers: Pairs) -> tuple[tuple[bytes, bytes], ...]:
    """Headers of a response as bytes. Cached, since a class answers with few different sets of them."""
    return tuple((name.encode(), value.encode("latin-1")) for name, value in headers)
