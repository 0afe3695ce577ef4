"""What is asked of an object, as an HTTP request: path, headers, body, and its name in errors."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import uuid4

import msgspec

from perdure.schemas.keys import object_key
from perdure.schemas.traces import Traceparent


class Options(NamedTuple):
    """Of the calls of a stub."""

    timeout_s: float
    idempotency_key: str | None = None
    traceparent: str | None = None


class Asking(NamedTuple):
    """One logical call; all its attempts send just this."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def name(self) -> str:
        return f"{self.method} {self.path} (idempotency key {self.headers['idempotency-key']})"


def path_of(door: str, key: str) -> str:
    """Where an object is, at `/objects` or `/rpc`."""
    namespace, _, name = key.partition("/")
    return f"/{door}/{quote(namespace, safe='')}/{quote(name, safe='')}"


def key_of(namespace: str, name: str) -> str:
    """The canonical key. Raises `BadKey`, before anything is sent."""
    return object_key(namespace, name)


def a_call(key: str, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], to: Options) -> Asking:
    """A method called. Raises `TypeError` for arguments that are not JSON."""
    try:
        body = msgspec.json.encode({"args": args, "kwargs": kwargs})
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TypeError(f"the arguments of {method} for {key} are not JSON: {error}") from error
    headers = {"content-type": "application/json"}
    return Asking("POST", f"{path_of('rpc', key)}/{quote(method, safe='')}", _with(headers, to), body)


def a_fetch(
    key: str,
    method: str,
    path: str,
    json: Any,
    body: str | bytes | None,
    headers: Mapping[str, str] | None,
    to: Options,
) -> Asking:
    """A request. Raises `TypeError` for two bodies, or one that is not JSON."""
    if json is not None and body is not None:
        raise TypeError("fetch takes json= or body=, not both")
    told = {name.lower(): value for name, value in (headers or {}).items()}
    if json is not None:
        body = msgspec.json.encode(json)
        told.setdefault("content-type", "application/json")
    raw = body.encode() if isinstance(body, str) else body or b""
    return Asking(method.upper(), path_of("objects", key) + rooted(path), _with(told, to), raw)


def rooted(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"


def _with(headers: dict[str, str], to: Options) -> dict[str, str]:
    headers["idempotency-key"] = to.idempotency_key or uuid4().hex
    if trace := to.traceparent or current_trace():
        headers["traceparent"] = trace
    return headers


def current_trace() -> str | None:
    """`traceparent` of OpenTelemetry's current span, if the program uses OpenTelemetry."""
    if (trace := sys.modules.get("opentelemetry.trace")) is None:
        return None
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return None
    return str(Traceparent(f"{span.trace_id:032x}", f"{span.span_id:016x}", int(span.trace_flags)))
