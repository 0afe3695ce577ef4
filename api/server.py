"""One process: a node and the HTTP server in front of it, until a signal or until the node stops itself.

`run` is what `perdure serve` calls. uvicorn accepts the connections; the node supplies the protocol that
reads them.

Laws [test_server.py]
- The port is bound before the node opens its data, so that a port in use is reported as such and nothing is
  changed. Connections are accepted only once the node is ready.
- An address that other machines can reach is refused without access control, unless the configuration allows
  it.
- SIGTERM and SIGINT drain: no new connections are accepted, requests in flight finish, the node closes, and
  the exit code is 0, or 1 if a part could not be closed. After `DRAIN_S` the process exits in any case, also
  during its start: an acknowledged write is already durable. A second SIGINT does not wait for requests.
- If the node stops itself (its disk or log fails), the process ends with its reason and waits for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, Protocol

import uvicorn
import uvloop

from perdure.api.protocol.http import HttpProtocol
from perdure.schemas.config import Config
from perdure.schemas.errors import ConfigError, OperatorError
from perdure.streams.state.fold import GC_THRESHOLD
from perdure.streams.turns.inline_task import signals_are_the_loops

DRAIN_S = 30
_REQUESTS_DRAIN_S = 25  # the rest is for the node, to flush its store
_RESERVED_FILES = 256  # for the log, the store and the process itself


class Runnable(Protocol):
    """A node that can be served: it runs inside `async with`, and has `asgi` and `http` from then on."""

    asgi: Callable[..., Awaitable[None]]
    http: type[HttpProtocol]
    stopped: asyncio.Future[BaseException]

    def begin_leaving(self) -> None:
        """The process ends soon: requests in flight still finish."""

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...


def run(
    make_node: Callable[[], Runnable],
    config: Config,
    *,
    ready: Callable[[int], None] = lambda port: None,
    listen_fd: int | None = None,
) -> BaseException | None:
    """Serve until a signal (returns None) or until the node stops itself (returns the reason).

    Args:
        make_node: makes the node; called inside the event loop.
        config: the configuration; address, port and limits are used here.
        ready: called with the port once requests are answered.
        listen_fd: the file descriptor of a socket that is bound already; None to bind one.

    Raises the errors of the node's start, `ConfigError` for an address that cannot be used, and
    `OperatorError` for a port in use.
    """
    with contextlib.closing(
        _taken_over(config, listen_fd) if listen_fd is not None else bind(config)
    ) as listener:
        files = _raise_file_limit()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(make_node, config, listener, files, ready))


def _taken_over(config: Config, fd: int) -> socket.socket:
    _refuse_open(config)
    listener = socket.socket(fileno=fd)
    listener.setblocking(False)
    return listener


def _refuse_open(config: Config) -> None:
    if config.is_public and not (config.insecure_public or config.guarded):
        raise ConfigError(
            f'host = "{config.host}" lets every machine that reaches this one in, without a token; bind 127.0.0.1, '
            "add [[tokens]] or [jwt] (docs/access.md), or pass --insecure-public to allow it"
        )


def bind(config: Config) -> socket.socket:
    """A socket bound to the configured address, not yet listening."""
    _refuse_open(config)
    try:
        address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise ConfigError(
            f'host = "{config.host}" is not an address of this machine: {error.strerror}'
        ) from None
    listener = socket.socket(address[0], socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with _clear_address_errors(config):
            listener.bind(address[4])
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


@contextlib.contextmanager
def _clear_address_errors(config: Config) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        match error.errno:
            case errno.EADDRINUSE:
                raise OperatorError(
                    f"port {config.port} on {config.host} is in use by another process; "
                    "stop that one, or choose another with --port (0 takes a free one)"
                ) from None
            case errno.EACCES:
                raise ConfigError(
                    f"port {config.port} needs root; choose one above 1023 with --port"
                ) from None
            case errno.EADDRNOTAVAIL:
                raise ConfigError(f'host = "{config.host}" is not an address of this machine') from None
        raise


class _Server(uvicorn.Server):
    """uvicorn without its signal handling, which would end the process by the signal instead of with 0."""

    def __init__(self, settings: uvicorn.Config, config: Config, ready: Callable[[int], None]) -> None:
        super().__init__(settings)
        self._config = config
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def give_up(self, _: object) -> None:
        """Stop serving, without waiting for requests."""
        self.should_exit = self.force_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets
        with _clear_address_errors(self._config):
            await super().startup(sockets)
        # Objects of the start live forever: the collector need not visit them again.
        gc.collect()
        gc.freeze()
        self._ready(sockets[0].getsockname()[1])


async def _serve(
    make_node: Callable[[], Runnable],
    config: Config,
    listener: socket.socket,
    files_max: int,
    ready: Callable[[int], None],
) -> BaseException | None:
    loop = asyncio.get_running_loop()
    gc.set_threshold(*GC_THRESHOLD)
    node = make_node()
    server: _Server | None = None
    whole = asyncio.current_task()
    assert whole is not None

    leaving = False

    def stop(sig: int) -> None:
        nonlocal leaving
        if not leaving:
            _leave_after(DRAIN_S)
            node.begin_leaving()
            leaving = True
        if server is not None and server.started:
            server.handle_exit(sig, None)
        elif not whole.cancelling():  # otherwise it is ending already
            whole.cancel()

    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, stop, sig)
    try:
        with signals_are_the_loops():
            async with node:
                server = _Server(_settings(node, config, files_max), config, ready)
                node.stopped.add_done_callback(server.give_up)
                await server.serve(sockets=[listener])
    except asyncio.CancelledError:
        if server is not None and server.started:
            raise
        return None  # a signal came before the node was ready
    return node.stopped.result() if node.stopped.done() and not node.stopped.cancelled() else None


def _settings(node: Runnable, config: Config, files_max: int) -> uvicorn.Config:
    # uvicorn logs a request that is cancelled because the process ends as an error of the app: it is not one.
    logging.getLogger("uvicorn.error").addFilter(_is_not_cancellation)
    protocol = node.http.bounded_by(
        head_max_bytes=config.limits.header_bytes,
        connections_max=max(files_max - _RESERVED_FILES, files_max // 2),
    )
    return uvicorn.Config(
        node.asgi,
        http=protocol,
        ws="websockets-sansio",
        ws_max_size=config.limits.body_bytes,
        ws_per_message_deflate=False,
        lifespan="off",
        interface="asgi3",
        log_config=None,  # api/telemetry/logs.py has set it up
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=_REQUESTS_DRAIN_S,
    )


def _is_not_cancellation(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def _raise_file_limit() -> int:
    """Raise the limit of open files (connections) as far as the system allows; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 1_048_576) if hard != resource.RLIM_INFINITY else 1_048_576
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # refused in some containers: the soft limit stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return soft if soft != resource.RLIM_INFINITY else wanted


def _leave_after(seconds: float) -> None:
    """End the process after a time, by a thread, so that it also ends if the event loop hangs."""

    def leave() -> None:
        print(f"perdure: not finished {seconds:g} s after the signal; leaving", file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
