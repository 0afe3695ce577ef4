"""The access log: one line per request, with its method, path, status and time.

`access_log = true` switches it on; `perdure dev` has it on in a terminal. Off, it costs nothing: the
protocols that log are not used.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog

from perdure.schemas.config_model import Config

_logger = structlog.get_logger("perdure.access")
clock_s = time.perf_counter
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def logs_requests(config: Config, *, dev: bool) -> bool:
    """True if each request is logged: as configured, by default by `perdure dev` in a terminal only."""
    return (dev and sys.stderr.isatty()) if config.access_log is None else config.access_log


def log_request(method: str, url: bytes, status: int, began_s: float, principal: str = "") -> None:
    """Log a request that was answered.

    method, url: as the client sent them; what looks like a credential is masked, as in every line.
    status: of the response.
    began_s: when it was read, by `clock_s`.
    principal: the client; empty without access control.
    """
    fields: dict[str, Any] = {"status": status, "ms": round((clock_s() - began_s) * 1000, 1)}
    if principal:
        fields["principal"] = principal
    _logger.info(f"{method} {url.decode('ascii', 'backslashreplace')}", **fields)


def logged(scope: MutableMapping[str, Any], send: Send) -> Send:
    """A `send` of ASGI that logs the request when its response begins."""
    began_s = clock_s()

    async def sending(message: MutableMapping[str, Any]) -> None:
        await send(message)
        if message["type"] == "http.response.start":
            query: bytes = scope["query_string"]
            url: bytes = scope["raw_path"] + (b"?" + query if query else b"")
            log_request(scope["method"], url, message["status"], began_s)

    return sending
