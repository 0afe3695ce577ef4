"""`perdure.connect`: the connection to an app on a server, used with or without `await`.

A stub builds a request and hands it to `App._send` or `SyncApp._send`, which drives the steps of `attempts`
over httpx.

Laws
- Both styles drive the same steps; each has its own way to send and to pause, and nothing else.
- A call that waits for a free connection has sent nothing, and learns so before its attempt ends.
- The token goes into `Authorization` of every request and nowhere else.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar, overload

import httpx

from perdure.api.client.answers import RawResponse
from perdure.api.client.attempts import Attempt, Lost, Policy, Wait, attempts
from perdure.api.client.requests import (
    ObjectRequest,
    Options,
    authorization,
    current_trace,
    idempotency_key_of,
    key_of,
    seconds_of,
)
from perdure.api.client.sockets import Reopening
from perdure.api.client.stubs import Stub, SyncStub
from perdure.objects.durable import DurableObject
from perdure.objects.http import Headers
from perdure.objects.rpc import Methods, methods_of
from perdure.schemas.errors import ConfigError

TIMEOUT_S = 60.0
CONNECTIONS = 100
_CONNECT_S = 5.0
_CONNECT_PART = 0.9  # of an attempt at most, so that a request that was never sent is known as such
_NONE_FREE = Lost(False, f"none of the client's {CONNECTIONS} connections was free in time, nothing was sent")
_BEFORE_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)
_TRANSPORT = (
    httpx.TransportError,
    OSError,
    ExceptionGroup,
)  # a group: anyio's tasks, under httpx with `await`
Object = TypeVar("Object", bound=DurableObject)


class Settings:
    """The settings of a connection.

    url: the server's `http://` or `https://` URL.
    token: the bearer token to send; None where access is not guarded.
    timeout_s: seconds for a whole call with all its attempts.
    retry: False makes one attempt of each call.
    now: returns the time in seconds, from any start.
    chance: returns a number from 0 to 1, for the length of pauses.

    Raises `ConfigError` for a URL, token or timeout that cannot be used.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        timeout_s: float,
        retry: bool,
        now: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self.url = checked_url(url)
        self.headers = authorization(token)
        try:
            self.timeout_s = seconds_of(timeout_s)
        except ValueError as error:
            raise ConfigError(f"connect({url!r}): {error}") from None
        self.retry = retry
        self.now = now
        self.chance = chance

    def policy(self, options: Options) -> Policy:
        return Policy(options.timeout_s, self.now, self.chance, self.retry)

    def options(self, timeout: float | None, key: str | None, traceparent: str | None) -> Options:
        seconds = self.timeout_s if timeout is None else seconds_of(timeout)
        return Options(seconds, idempotency_key_of(key), traceparent)

    def reopening(self, pause: Callable[[float], Any], place: str, options: Options) -> Reopening:
        headers = dict(self.headers)
        if trace := options.traceparent or current_trace():
            headers["traceparent"] = trace
        url = "ws" + self.url.removeprefix("http") + place
        return Reopening(url, headers, self.policy(options), pause)

    def http(self) -> dict[str, Any]:
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))  # objects must not share cookies
        return {"base_url": self.url, "headers": self.headers, "limits": limits, "cookies": no_cookies}


class Connections:
    """The connection pool of an async app: `take` a connection, `give` it back.

    Each is an httpx client with one connection. The pool inside an httpx client scans all its connections and
    waiters for each request, so that some hundred connections in one client take seconds. The connection used
    last is used next.
    """

    def __init__(self, make: Callable[[], httpx.AsyncClient], most: int) -> None:
        self._make = make
        self._places = asyncio.Semaphore(most)
        self._all = [make()]
        self._idle = self._all[:]

    async def take(self, wait_s: float) -> httpx.AsyncClient:
        """A connection that is free. Raises `TimeoutError` if none is within `wait_s`."""
        async with asyncio.timeout(wait_s):
            await self._places.acquire()
        if not self._idle:
            self._idle.append(self._make())
            self._all.append(self._idle[-1])
        return self._idle.pop()

    def give(self, client: httpx.AsyncClient) -> None:
        self._idle.append(client)
        self._places.release()

    async def close(self) -> None:
        for each in self._all:
            await each.aclose()


class App:
    """A running app, whose objects are called with `await`: `async with perdure.connect(…) as app`."""

    def __init__(self, settings: Settings, pause: Callable[[float], Awaitable[None]]) -> None:
        self._settings = settings
        self._pause = pause
        made = settings.http() | {"verify": httpx.create_ssl_context()}  # slow to make, so all share one
        self._connections = Connections(lambda: httpx.AsyncClient(**made), CONNECTIONS)

    @overload
    def get(
        self,
        kind: type[Object],
        name: str,
        *,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> Object: ...

    @overload
    def get(
        self,
        kind: str,
        name: str,
        *,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> Stub: ...

    def get(
        self,
        kind: type[DurableObject] | str,
        name: str,
        *,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> Any:
        """A stub of an object. Nothing is sent until one of its methods is called.

        kind: the object's class, for typed arguments and results, or the name of its namespace.
        name: the object's name. An object need not be created.
        timeout: seconds for each call with all its attempts; by default that of `connect`.
        idempotency_key: 1 to 255 printable ASCII characters; by default each call has a new one. A stub with
            a key is for one call.
        traceparent: the W3C trace context to send; by default that of OpenTelemetry's current span,
            if there is one.

        A type checker sees the class, and so its methods; the client's `fetch` and `websocket` it sees on a
        stub got by name. Raises `BadKey` for a name that cannot be one, ValueError for an invalid timeout or
        idempotency key, TypeError for a class that is not a subclass of `DurableObject`.
        """
        options = self._settings.options(timeout, idempotency_key, traceparent)
        key, methods = _named(kind, name)
        return Stub(key, methods, options, self._send, partial(self._settings.reopening, self._pause))

    async def _send(
        self, request: ObjectRequest, options: Options, read: Callable[[RawResponse], Any]
    ) -> Any:
        steps = attempts(request.name, self._settings.policy(options))
        outcome: RawResponse | Lost | None = None
        try:
            while True:
                step = steps.send(outcome)
                if isinstance(step, Wait):
                    await self._pause(step.seconds)
                    outcome = None
                else:
                    outcome = await self._attempt(request, step)
        except StopIteration as done:
            answer: RawResponse = done.value
        return read(answer)

    async def _attempt(self, request: ObjectRequest, step: Attempt) -> RawResponse | Lost:
        until_s = asyncio.get_running_loop().time() + step.timeout_s
        try:
            client = await self._connections.take(step.timeout_s * _CONNECT_PART)
        except TimeoutError:
            return _NONE_FREE
        try:
            left_s = until_s - asyncio.get_running_loop().time()
            async with asyncio.timeout(left_s):
                return answer_of(await client.request(**_request(request, left_s)))
        except _TRANSPORT as error:
            return _lost(error)
        finally:
            self._connections.give(client)


class SyncApp:
    """A running app, whose objects are called without `await`: `with perdure.connect(…) as app`."""

    def __init__(self, settings: Settings, pause: Callable[[float], None]) -> None:
        self._settings = settings
        self._pause = pause
        self._http = httpx.Client(**settings.http())

    def get(
        self,
        kind: type[DurableObject] | str,
        name: str,
        *,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> SyncStub:
        """As `App.get`, for calls without `await`. A type checker accepts any method with any arguments."""
        options = self._settings.options(timeout, idempotency_key, traceparent)
        reopening = partial(self._settings.reopening, self._pause)
        return SyncStub(*_named(kind, name), options, self._send, reopening)

    def _send(self, request: ObjectRequest, options: Options, read: Callable[[RawResponse], Any]) -> Any:
        steps = attempts(request.name, self._settings.policy(options))
        outcome: RawResponse | Lost | None = None
        try:
            while True:
                step = steps.send(outcome)
                if isinstance(step, Wait):
                    self._pause(step.seconds)
                    outcome = None
                else:
                    outcome = self._attempt(request, step)
        except StopIteration as done:
            answer: RawResponse = done.value
        return read(answer)

    def _attempt(self, request: ObjectRequest, step: Attempt) -> RawResponse | Lost:
        try:
            return answer_of(self._http.request(**_request(request, step.timeout_s)))
        except _TRANSPORT as error:
            return _lost(error)


class Connection:
    """The connection that `perdure.connect` returns: `async with` gives an `App`, `with` a `SyncApp`.

    Its parameters are those of `perdure.connect`; `now` and `chance` are for tests, as of `Settings`.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout: float = TIMEOUT_S,
        retry: bool = True,
        now: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = Settings(url, token, timeout, retry, now, chance)
        self._app: App | None = None
        self._sync: SyncApp | None = None

    async def __aenter__(self) -> App:
        self._app = App(self._settings, asyncio.sleep)
        return self._app

    async def __aexit__(self, *_: object) -> None:
        if self._app is not None:
            await self._app._connections.close()

    def __enter__(self) -> SyncApp:
        self._sync = SyncApp(self._settings, time.sleep)
        return self._sync

    def __exit__(self, *_: object) -> None:
        if self._sync is not None:
            self._sync._http.close()


def _named(kind: type[DurableObject] | str, name: str) -> tuple[str, Methods | None]:
    """An object's key, and its methods if its class is given."""
    if isinstance(kind, str):
        return key_of(kind, name), None
    if not (isinstance(kind, type) and issubclass(kind, DurableObject)):
        raise TypeError(
            f"get({kind!r}, …): this is not a subclass of DurableObject; give one, or its name as a string"
        )
    known: Any = kind
    return key_of(kind.__name__, name), _methods_of(known)


@lru_cache(256)  # otherwise they would be made again for each stub
def _methods_of(kind: Any) -> Methods:
    return methods_of(kind)


def checked_url(url: str) -> str:
    """The URL of a server, without a slash at its end. Raises `ConfigError`."""
    if url.startswith("kafka:"):
        raise ConfigError(
            f"connect({url!r}): the client does not speak to Kafka; give the URL of a server's HTTP port"
        )
    try:
        parsed = httpx.URL(url)
        parsed.host.encode("idna")  # as the socket will do
    except httpx.InvalidURL as error:
        raise ConfigError(f'"{url}": {error}') from None
    except UnicodeError as error:
        raise ConfigError(f'"{url}": this is not a valid host name ({error})') from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f'"{url}" must start with http:// or https:// and name a host')
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise ConfigError(f'"{url}": a port is a number from 1 to 65535')
    return url.rstrip("/")


def _request(request: ObjectRequest, timeout_s: float) -> dict[str, Any]:
    before_s = timeout_s * _CONNECT_PART
    return {
        "method": request.method,
        "url": request.path,
        "headers": request.headers,
        "content": request.body,
        "timeout": httpx.Timeout(timeout_s, connect=min(before_s, _CONNECT_S), pool=before_s),
    }


def answer_of(response: httpx.Response) -> RawResponse:
    pairs = tuple((name.lower(), value) for name, value in response.headers.multi_items())
    return RawResponse(response.status_code, Headers(pairs), response.content)


def _lost(error: Exception) -> Lost:
    if isinstance(error, httpx.PoolTimeout):
        return _NONE_FREE
    if isinstance(error, _BEFORE_SENT):
        return Lost(False, f"no server answers ({error or type(error).__name__})")
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return Lost(True, "no answer arrived in time")
    return Lost(True, f"the connection was lost before an answer ({str(error) or type(error).__name__})")
