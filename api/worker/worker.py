"""The Worker: an app's `async def fetch(request, env)` in front of its objects, for each path that is not
perdure's.

The door calls `Worker.answer` for such a request. It runs the app's function, in whose context stubs find a
`WorkerCaller`: their calls are submitted to the gateway as commands.

Laws [test_worker.py, test_passing.py]
- A Worker is not a turn: nothing of it is journaled or rolled back, and requests run concurrently.
- It gets the client's headers unchanged, with `Authorization` and `Cookie`. Requests that it passes on to an
  object go without these two, so that they never reach the log.
- Its calls inherit the client's `traceparent`, the rest of the deadline, and the idempotency key as
  `{key}/{hash of the call}.{n}`, where n counts equal calls. A request that is repeated under its key thus
  makes each call once, in any order. A call whose key is in flight, as after a time-out, waits for the first
  one and gets its answer.
- Messages that it sent are durable before its response leaves.
- An upgrade is answered with 101 if, and only if, an object that it passed the request on to has accepted the
  WebSocket.
- It is cancelled when the client is gone or the deadline has passed. The client sees only the type of an
  exception; the place in the code goes to the log of the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from functools import partial
from hashlib import blake2b
from random import Random
from typing import Any, Protocol

import structlog

from perdure.api.gateway import Gateway
from perdure.api.problems import Problem, problem, problem_of, problem_of_reply
from perdure.api.replies import ReplyFuture
from perdure.api.sockets.relay import RelayedSocket, SocketRelay
from perdure.objects.durable import Env
from perdure.objects.http import Request
from perdure.objects.outgoing import Outside, outside
from perdure.objects.overlay import current_turn
from perdure.objects.turn import SWITCHING, refused_reply, response_reply
from perdure.schemas.calls import content_of, free_number, take_number
from perdure.schemas.commands import FETCH, MAX_CLIENT_KEY_CHARS, NEVER_LOGGED, Command
from perdure.schemas.errors import (
    BadKey,
    BadReply,
    FetchFailed,
    KeyConflict,
    OperatorError,
    OutcomeUnknown,
    PerdureError,
    Refusal,
    Runaway,
    TooLarge,
    TurnEnded,
    Unavailable,
)
from perdure.schemas.replies import UNAVAILABLE, Pairs, Reply
from perdure.schemas.statuses import STATUS
from perdure.streams.log.base import durable
from perdure.streams.turns.inline_task import is_ctrl_c, user_code
from perdure.streams.turns.supervision.failure_log import error_fields
from perdure.streams.turns.supervision.watchdog import Interrupted

# key, kind, method, path, headers, body, client key, traceparent
_Request = tuple[str, str, str, str, Pairs, bytes, str | None, str]
Function = Callable[[Request, Env], Coroutine[Any, Any, Any]]
# errors whose text the client sees, as from an object: it can change the request, or send it again
_CLIENT_ERRORS = (BadKey, KeyConflict, TooLarge, Unavailable, OutcomeUnknown, OperatorError)
SUFFIX_CHARS = 40  # by which a call's key is longer than its client's
RETRY_S = (
    0.05,
    1.0,
)  # first and longest pause before a call whose key is in flight is sent again; it doubles
_logger = structlog.get_logger("perdure")


class WorkerCaller:
    """The calls of one request: its stubs find it as `current_turn` (a `Caller` of objects/ports.py).

    Args:
        gateway: calls are submitted to it.
        new_uuid: makes random ids, for requests without an idempotency key.
        client_key: the request's idempotency key; None if it has none.
        traceparent: the trace context of the request; empty if it has none.
        deadline_s: seconds until the request's deadline.
        headers: the request's headers, with credentials, which are kept out of log lines.
        relay: of an upgrade, its WebSocket; otherwise None.
        request_hash: a hash of the request; ids of a request with a key are made of both.
    """

    def __init__(
        self,
        gateway: Gateway,
        new_uuid: Callable[[], str],
        client_key: str | None,
        traceparent: str,
        deadline_s: float,
        headers: Pairs = (),
        relay: SocketRelay | None = None,
        request_hash: str = "",
    ) -> None:
        self._named = f"{client_key}:{request_hash}"
        self.principal = ""  # its calls are the app's own
        self.traceparent = traceparent
        self.headers = headers
        self._relay = relay
        self._gateway = gateway
        self._new_uuid = new_uuid
        self._client_key = client_key
        self._loop = asyncio.get_running_loop()
        self._due_s = self._loop.time() + deadline_s
        self._taken: dict[str, int] = {}  # content of calls -> the numbers in flight or answered, as bits
        self._ids = 0
        self._sent: list[asyncio.Future[None]] = []
        self._over = False

    async def call(self, command: Command) -> Reply:
        """Call an object and wait for its reply."""
        self._inside()
        if command.socket and self._relay is not None:
            request = self._submission(command, None)  # a stored 101 would open nothing
            return await self._pass_on(self._relay.begin(command.key), request, self._left_ms(), command.hint)
        if self._client_key is None:
            return await self._await_reply(self._submission(command, None), command.hint)
        content = content_of(command)
        n = take_number(self._taken, content)
        reply = None
        try:
            reply = await self._ask_once(self._submission(command, self._key(content, n)), command.hint)
        finally:
            if reply is None or reply.outcome == UNAVAILABLE:
                free_number(
                    self._taken, content, n
                )  # not done, as far as is known: the next call is the same
        return reply

    def _left_ms(self) -> int:
        return max(int((self._due_s - self._loop.time()) * 1000), 0)

    async def _await_reply(self, request: _Request, hint: str) -> Reply:
        reply = ReplyFuture()
        self._gateway.submit(reply, *request, self._left_ms(), hint=hint)
        return (await reply.future).reply

    async def _ask_once(self, request: _Request, hint: str) -> Reply:
        pause_s = RETRY_S[0]
        while True:
            reply = await self._await_reply(request, hint)
            if reply.error is None or reply.error.code != KeyConflict.code or not self._left_ms():
                return reply
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_S[1])

    async def _pass_on(self, accepting: RelayedSocket, request: _Request, left_ms: int, hint: str) -> Reply:
        key, kind, method, path, headers, body, _, traceparent = request
        headers += (("upgrade", "websocket"),)
        request = key, kind, method, path, headers, body, None, traceparent
        try:
            self._gateway.submit(accepting, *request, left_ms, socket=accepting.socket, hint=hint)
        except PerdureError as error:
            accepting.failed(error)
        return (await accepting.future).reply

    def send(self, command: Command) -> None:
        """Append a command without a reply, at once. Raises as `Gateway.post`; then it is not sent."""
        self._inside()
        key = None
        if self._client_key is not None:
            content = f"send {content_of(command)}"
            key = self._key(content, take_number(self._taken, content))
        self._sent.append(durable(self._gateway.post(*self._submission(command, key), command.hint)))

    async def synced(self) -> None:
        """Return at once: a Worker sees only replies, which are durable."""
        self._inside()

    @property
    def accepted(self) -> bool:
        """True if an object has accepted the request's WebSocket."""
        return self._relay is not None and self._relay.accepted is not None

    def new_id(self) -> str:
        """A unique id of 32 hex digits; the same again for a request that is repeated under its key."""
        self._inside()
        if self._client_key is None:
            return self._new_uuid()
        self._ids += 1
        return blake2b(f"{self._named}:{self._ids}".encode(), digest_size=16).hexdigest()

    @property
    def random(self) -> Random:
        """Raises `TurnEnded`: only a turn has random numbers that repeat."""
        raise TurnEnded(
            "a Worker has no random numbers that repeat: only an object's turn has them (self.state.random)"
        )

    async def settle(self) -> None:
        """Wait until all sent messages are durable; raises `Unavailable` or
        `OutcomeUnknown` if one is not.
        """
        for sent in self._sent:
            await sent

    def end(self) -> None:
        """The request is over: code that still runs cannot make calls any more."""
        self._over = True
        for sent in self._sent:
            if sent.done() and not sent.cancelled():
                sent.exception()  # marks it as retrieved: `settle` has raised it, or nothing will

    def _inside(self) -> None:
        if self._over:
            raise TurnEnded("the Worker's request is over: await what you start inside fetch")

    def _submission(self, command: Command, client_key: str | None) -> _Request:
        """The arguments of `Gateway.submit`: without credentials and with the client's trace context."""
        headers = command.headers
        if command.kind == FETCH:
            headers = tuple(pair for pair in headers if pair[0].lower() not in NEVER_LOGGED)
        key, kind, method, path = command.key, command.kind, command.method, command.path
        return key, kind, method, path, headers, command.body, client_key, self.traceparent

    def _key(self, content: str, n: int) -> str:
        key = self._client_key
        assert key is not None
        if len(key) + SUFFIX_CHARS > MAX_CLIENT_KEY_CHARS:  # the key of the call must not be too long
            key = blake2b(key.encode(), digest_size=32).hexdigest()
        return f"{key}/{content}.{n}"


def _hash_of(request: Request) -> str:
    content = f"{request.method} {request.target}\n".encode() + request.body
    return blake2b(content, digest_size=16).hexdigest()


class WorkerTracing(Protocol):
    """Tracing of the Worker's requests (see api/telemetry/spans.py)."""

    async def worker(
        self, method: str, traceparent: str, answer: Callable[[str], Awaitable[Problem]]
    ) -> Problem:
        """Await `answer` in a span; it is passed the `traceparent` for the Worker's calls."""


class Worker:
    """The app's Worker; `answer` runs it for one request.

    Args:
        function: the app's `async def fetch(request, env)`.
        env: passed to it with each request.
        gateway: calls to objects are submitted to it.
        outgoing: the HTTP client of `perdure.fetch`.
        new_uuid: makes random ids.
        deadline_s: seconds until a request is cancelled.
        tracing: receives a span for each request; None if the process does not trace.
    """

    def __init__(
        self,
        function: Function,
        env: Env,
        gateway: Gateway,
        *,
        outgoing: Outside,
        new_uuid: Callable[[], str],
        deadline_s: float,
        tracing: WorkerTracing | None = None,
    ) -> None:
        self._tracing = tracing
        self._function = function
        self._env = env
        self._gateway = gateway
        self._outgoing = outgoing
        self._new_uuid = new_uuid
        self._deadline_s = deadline_s
        self._left: set[asyncio.Task[Any]] = set()  # cancelled, and still ending

    async def answer(
        self,
        request: Request,
        client_key: str | None,
        traceparent: str,
        gone: Awaitable[None],
        relay: SocketRelay | None = None,
    ) -> Problem:
        """Run the Worker for a request; returns (status, headers, body) of its response.

        Args:
            request: the request, with all headers of the client.
            client_key: its idempotency key; None if it has none.
            traceparent: its trace context; empty if it has none.
            gone: completes when the client has closed the connection.
            relay: of an upgrade, its WebSocket, which is accepted if, and only if, the status is 101.

        Raises `asyncio.CancelledError` if the client is gone.
        """
        if self._tracing is None:
            return await self._answer(request, client_key, traceparent, gone, relay)
        return await self._tracing.worker(
            request.method,
            traceparent,
            lambda parent: self._answer(request, client_key, parent, gone, relay),
        )

    async def _answer(
        self,
        request: Request,
        client_key: str | None,
        traceparent: str,
        gone: Awaitable[None],
        relay: SocketRelay | None,
    ) -> Problem:
        caller = WorkerCaller(
            self._gateway,
            self._new_uuid,
            client_key,
            traceparent,
            self._deadline_s,
            request.headers.pairs,
            relay,
            "" if client_key is None else _hash_of(request),
        )
        context = Context()
        context.run(current_turn.set, caller)
        context.run(outside.set, self._outgoing)
        work = asyncio.get_running_loop().create_task(self._run(request, caller), context=context)
        leaving = asyncio.ensure_future(gone)
        try:
            ended, _ = await asyncio.wait(
                (work, leaving), timeout=self._deadline_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            caller.end()
            leaving.cancel()
            if not work.done():
                self._leave(work)
        if work in ended:
            return self._response(work, context)
        if leaving in ended:
            raise asyncio.CancelledError
        late = f"the Worker did not answer within {self._deadline_s:g} s"
        return problem_of(OutcomeUnknown(f"{late}; its calls to objects may have been done"))

    @user_code
    async def _run(self, request: Request, caller: WorkerCaller) -> Reply:
        try:
            result = await self._function(request, self._env)
        except Interrupted as error:
            raise Runaway(str(error)) from error
        except (SystemExit, KeyboardInterrupt) as error:  # ends the request, not the server
            if is_ctrl_c(error):
                raise
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        except Exception:
            await caller.settle()
            raise
        await caller.settle()
        reply = response_reply(result)
        if reply.status == SWITCHING and not caller.accepted:
            raise BadReply(
                "the Worker answered 101, but no object has accepted the WebSocket: pass the upgrade on to one"
            )
        return reply

    def _leave(self, work: asyncio.Task[Any]) -> None:
        work.cancel()
        self._left.add(work)
        work.add_done_callback(self._ended)

    def _ended(self, work: asyncio.Task[Any]) -> None:
        self._left.discard(work)
        if not work.cancelled():
            work.exception()  # marks it as retrieved: the request is over

    def _response(self, work: asyncio.Task[Reply], context: Context) -> Problem:
        error = asyncio.CancelledError() if work.cancelled() else work.exception()
        if error is None:
            reply = work.result()
            headers = [(name.encode(), value.encode("latin-1")) for name, value in reply.headers]
            return reply.status, headers, reply.body
        try:
            if isinstance(error, Refusal):
                refused = refused_reply(error)
                assert refused.error is not None
                return problem_of_reply(refused.outcome, refused.error)
        except BadReply as bad:
            error = bad
        if isinstance(error, _CLIENT_ERRORS):
            return problem_of(error)
        context.run(partial(_logger.error, "the Worker failed", **error_fields(error)))
        message = str(error) if isinstance(error, BadReply) else f"the Worker failed: {type(error).__name__}"
        if isinstance(error, FetchFailed):
            return problem(error.code, message, status=STATUS[error.code])
        return problem("worker-failed", message, status=500)
