"""The Worker: a user's `async def fetch(request, env)` in front of the objects, for every path that is not perdure's.

Laws
- A Worker is no turn: nothing of it is journaled or rolled back, and each request runs it beside all others.
- It gets the client's headers as they came, `Authorization` and `Cookie` too; what it passes on to an object goes
  without them, so that they never reach the log.
- Its calls are the client's: they inherit its `traceparent`, what is left of the deadline, and its idempotency key as
  `{key}/{hash of what is asked}.{n}`, n counting equal ones, so that a request repeated under its key asks each once, in
  whatever order. One whose key is in flight, as after a time-out, waits for the first and is answered as that is.
- What it has sent is durable before its response leaves.
- An upgrade is answered with 101 if, and only if, an object that it passed the request on to has accepted the WebSocket.
- Whoever asked has gone, or the deadline has passed: it is cancelled. What it raises is told by type only; the place
  in its code goes to the log of the process.
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
from perdure.api.problems import STATUS, Problem, problem, problem_of, problem_of_reply
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
from perdure.streams.log.base import durable
from perdure.streams.turns.inline_task import is_ctrl_c, user_code
from perdure.streams.turns.supervision.failure_log import error_fields
from perdure.streams.turns.supervision.watchdog import Interrupted

# key, kind, method, path, headers, body, client key, traceparent
_Asked = tuple[str, str, str, str, Pairs, bytes, str | None, str]
Function = Callable[[Request, Env], Coroutine[Any, Any, Any]]
# what these say is for the client, as it would be at an object's door: change the request, or ask again
_TOLD = (BadKey, KeyConflict, TooLarge, Unavailable, OutcomeUnknown, OperatorError)
SUFFIX_CHARS = 40  # that a call's key has beyond its client's
RETRY_S = (0.05, 1.0)  # first and longest pause before a call whose key is in flight is asked again; doubling
_logger = structlog.get_logger("perdure")


class WorkerCaller:
    """The calls of one request: what its stubs find as `current_turn` (a `Caller` of objects/ports.py).

    `headers` are the request's, credentials too: log lines are kept free of them. `asked_for` stands for all of the request:
    with its key, it names what is made for it.
    """

    def __init__(
        self,
        gateway: Gateway,
        new_uuid: Callable[[], str],
        client_key: str | None,
        traceparent: str,
        deadline_s: float,
        headers: Pairs = (),
        passing: SocketRelay | None = None,
        asked_for: str = "",
    ) -> None:
        self._named = f"{client_key}:{asked_for}"
        self.principal = ""  # objects are asked by the app
        self.traceparent = traceparent
        self.headers = headers
        self._passing = passing
        self._gateway = gateway
        self._new_uuid = new_uuid
        self._client_key = client_key
        self._loop = asyncio.get_running_loop()
        self._due_s = self._loop.time() + deadline_s
        self._taken: dict[str, int] = {}  # what was asked -> the numbers under way or answered, as bits
        self._ids = 0
        self._sent: list[asyncio.Future[None]] = []
        self._over = False

    async def call(self, command: Command) -> Reply:
        """Ask an object and wait for its answer."""
        self._inside()
        if command.socket and self._passing is not None:
            asked = self._asked(command, None)  # a stored 101 would open nothing
            return await self._pass_on(self._passing.ask(command.key), asked, self._left_ms(), command.hint)
        if self._client_key is None:
            return await self._ask(self._asked(command, None), command.hint)
        content = content_of(command)
        n = take_number(self._taken, content)
        reply = None
        try:
            reply = await self._ask_once(self._asked(command, self._key(content, n)), command.hint)
        finally:
            if reply is None or reply.outcome == UNAVAILABLE:
                free_number(
                    self._taken, content, n
                )  # it was not done, as far as can be told: the next is the same
        return reply

    def _left_ms(self) -> int:
        return max(int((self._due_s - self._loop.time()) * 1000), 0)

    async def _ask(self, asked: _Asked, hint: str) -> Reply:
        waiting = ReplyFuture()
        self._gateway.submit(waiting, *asked, self._left_ms(), hint=hint)
        return (await waiting.future).reply

    async def _ask_once(self, asked: _Asked, hint: str) -> Reply:
        pause_s = RETRY_S[0]
        while True:
            reply = await self._ask(asked, hint)
            if reply.error is None or reply.error.code != KeyConflict.code or not self._left_ms():
                return reply
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_S[1])

    async def _pass_on(self, accepting: RelayedSocket, asked: _Asked, left_ms: int, hint: str) -> Reply:
        key, kind, method, path, headers, body, _, traceparent = asked
        headers += (("upgrade", "websocket"),)
        asked = key, kind, method, path, headers, body, None, traceparent
        try:
            self._gateway.submit(accepting, *asked, left_ms, socket=accepting.socket, hint=hint)
        except PerdureError as error:
            accepting.failed(error)
        return (await accepting.future).reply

    def send(self, command: Command) -> None:
        """Let a command go at once; nobody waits for its answer. Raises `Overloaded` and its kin: not sent."""
        self._inside()
        key = None
        if self._client_key is not None:
            content = f"send {content_of(command)}"
            key = self._key(content, take_number(self._taken, content))
        self._sent.append(durable(self._gateway.post(*self._asked(command, key), command.hint)))

    async def synced(self) -> None:
        """A Worker has seen nothing but answers, and those were let out."""
        self._inside()

    @property
    def accepted(self) -> bool:
        """Has an object accepted the request's WebSocket?"""
        return self._passing is not None and self._passing.accepted is not None

    def new_id(self) -> str:
        """32 hex digits that nobody else gets; the same for a request that is repeated under its key."""
        self._inside()
        if self._client_key is None:
            return self._new_uuid()
        self._ids += 1
        return blake2b(f"{self._named}:{self._ids}".encode(), digest_size=16).hexdigest()

    @property
    def random(self) -> Random:
        """A Worker has no state whose `random` would be asked for."""
        raise TurnEnded("random numbers that repeat are drawn by an object's turn: self.state.random")

    async def settle(self) -> None:
        """Wait until what was sent is durable. Raises `Unavailable` or `OutcomeUnknown` for what may not be."""
        for sent in self._sent:
            await sent

    def end(self) -> None:
        """The request is over: code that outlives it calls nobody."""
        self._over = True
        for sent in self._sent:
            if sent.done() and not sent.cancelled():
                sent.exception()  # told already, or nobody is left who could be told

    def _inside(self) -> None:
        if self._over:
            raise TurnEnded("the Worker's request is over: await what you start inside fetch")

    def _asked(self, command: Command, client_key: str | None) -> _Asked:
        """What the gateway is to append, without secrets and with the client's trace."""
        headers = command.headers
        if command.kind == FETCH:
            headers = tuple(pair for pair in headers if pair[0].lower() not in NEVER_LOGGED)
        key, kind, method, path = command.key, command.kind, command.method, command.path
        return key, kind, method, path, headers, command.body, client_key, self.traceparent

    def _key(self, content: str, n: int) -> str:
        key = self._client_key
        assert key is not None
        if len(key) + SUFFIX_CHARS > MAX_CLIENT_KEY_CHARS:  # what is made of a long one must still be one
            key = blake2b(key.encode(), digest_size=32).hexdigest()
        return f"{key}/{content}.{n}"


def _hash_of(request: Request) -> str:
    asked = f"{request.method} {request.target}\n".encode() + request.body
    return blake2b(asked, digest_size=16).hexdigest()


class WorkerTracing(Protocol):
    """Whoever traces the Worker's requests (see api/telemetry/spans.py)."""

    async def worker(
        self, method: str, traceparent: str, answer: Callable[[str], Awaitable[Problem]]
    ) -> Problem:
        """`answer(traceparent)`, with the `traceparent` of what comes of the request."""


class Worker:
    """The app's Worker; `answer` runs it for one request."""

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
        self._left: set[asyncio.Task[Any]] = set()  # cancelled, and not ended yet

    async def answer(
        self,
        request: Request,
        client_key: str | None,
        traceparent: str,
        gone: Awaitable[None],
        passing: SocketRelay | None = None,
    ) -> Problem:
        """(status, headers, body) of the Worker's response; `gone` ends when nobody waits for it any more.

        `passing`: of an upgrade, its WebSocket; it is accepted if, and only if, the status is 101. Raises
        `asyncio.CancelledError` when nobody waits.
        """
        if self._tracing is None:
            return await self._answer(request, client_key, traceparent, gone, passing)
        return await self._tracing.worker(
            request.method,
            traceparent,
            lambda parent: self._answer(request, client_key, parent, gone, passing),
        )

    async def _answer(
        self,
        request: Request,
        client_key: str | None,
        traceparent: str,
        gone: Awaitable[None],
        passing: SocketRelay | None,
    ) -> Problem:
        caller = WorkerCaller(
            self._gateway,
            self._new_uuid,
            client_key,
            traceparent,
            self._deadline_s,
            request.headers.pairs,
            passing,
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
            return self._told(work, context)
        if leaving in ended:
            raise asyncio.CancelledError
        late = f"the Worker did not answer within {self._deadline_s:g} s: what it asked of objects may have happened"
        return problem_of(OutcomeUnknown(late))

    @user_code
    async def _run(self, request: Request, caller: WorkerCaller) -> Reply:
        try:
            result = await self._function(request, self._env)
        except Interrupted as error:
            raise Runaway(str(error)) from error
        except (SystemExit, KeyboardInterrupt) as error:  # a request ends by it, not the server
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
                "the Worker answered 101 and no object has the WebSocket: pass the upgrade on to one"
            )
        return reply

    def _leave(self, work: asyncio.Task[Any]) -> None:
        work.cancel()
        self._left.add(work)
        work.add_done_callback(self._ended)

    def _ended(self, work: asyncio.Task[Any]) -> None:
        self._left.discard(work)
        if not work.cancelled():
            work.exception()  # nobody is left who could be told

    def _told(self, work: asyncio.Task[Reply], context: Context) -> Problem:
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
        if isinstance(error, _TOLD):
            return problem_of(error)
        context.run(partial(_logger.error, "the Worker failed", **error_fields(error)))
        told = str(error) if isinstance(error, BadReply) else f"the Worker failed: {type(error).__name__}"
        if isinstance(error, FetchFailed):
            return problem(error.code, told, status=STATUS[error.code])
        return problem("worker-failed", told, status=500)
