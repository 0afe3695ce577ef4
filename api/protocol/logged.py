"""Protocols that write the access log: as fast_path.py and authenticated.py, with a line per request."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from perdure.api.protocol.authenticated import AuthenticatedProtocol
from perdure.api.protocol.fast_path import FastPathProtocol, HttpExchange
from perdure.api.telemetry.access_log import clock_s, log_request


class LoggedExchange(HttpExchange, eq=False):
    """A request and its response, logged when it is answered."""

    url: bytes = b""
    began_s: float = msgspec.field(default_factory=clock_s)

    def _send_whole(self, status: int, whole: bytes) -> None:
        super()._send_whole(status, whole)
        log_request(self.method, self.url, status, self.began_s, self.head.principal)


class _Logged(FastPathProtocol):
    exchange: ClassVar[type[HttpExchange]] = LoggedExchange

    def _submit(self, exchange: HttpExchange, url: bytes, body: bytes) -> None:
        assert isinstance(exchange, LoggedExchange)
        exchange.url = url
        super()._submit(exchange, url, body)


class LoggedProtocol(_Logged):
    """The protocol of a connection without access control that logs its requests."""


class LoggedAuthenticatedProtocol(_Logged, AuthenticatedProtocol):
    """The protocol of a connection with access control that logs its requests."""
