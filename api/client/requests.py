"""The HTTP request of a call or a fetch: path, headers, body, and its name in errors.

A stub builds it once; all attempts of the call send the same request. What cannot be sent is refused here.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import uuid4

import msgspec

from perdure.objects.codec import by_name
from perdure.objects.results import encode_json
from perdure.objects.rpc import Method
from perdure.schemas.commands import MAX_CLIENT_KEY_CHARS
from perdure.schemas.errors import ConfigError
from perdure.schemas.keys import object_key
from perdure.schemas.traces import Traceparent

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.1 and 5.5; a method is a token too
_VALUE = re.compile(r"([!-~]([\t -~]*[!-~])?)?")

_KEY = re.compile(rf"[!-~]([ -~]{{0,{MAX_CLIENT_KEY_CHARS - 2}}}[!-~])?")
_LONGEST_S = 1e9  # thirty years; sockets and locks cannot count much further

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, 2.1


class Options(NamedTuple):
    """The options of a stub's calls.

    Without a `traceparent`, that of the current span is sent, if there is one.
    """

    timeout_s: float
    idempotency_key: str | None = None
    traceparent: str | None = None


class ObjectRequest(NamedTuple):
    """The request of one logical call; all its attempts send the same."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def name(self) -> str:
        return f"{self.method} {self.path} (idempotency key {self.headers['idempotency-key']})"


def seconds_of(timeout: float) -> float:
    """The timeout as a float, at most `_LONGEST_S`.

    Raises `ValueError` for one that is not a number above 0.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise ValueError(f"timeout={timeout!r}: a timeout is a finite number of seconds above 0")
    return float(min(timeout, _LONGEST_S))


def idempotency_key_of(key: str | None) -> str | None:
    """The idempotency key, or None, with which each call gets its own.

    Raises `ValueError` for one that cannot be sent.
    """
    if key is None or (isinstance(key, str) and _KEY.fullmatch(key)):
        return key
    raise ValueError(
        f"idempotency_key={key!r}: an idempotency key has 1 to {MAX_CLIENT_KEY_CHARS} printable ASCII "
        "characters, without spaces around them, because a header carries it"
    )


def path_of(door: str, key: str) -> str:
    """The path of an object below `/objects` or `/rpc`."""
    namespace, _, name = key.partition("/")
    return f"/{door}/{quote(namespace, safe='')}/{quote(name, safe='')}"


def key_of(namespace: str, name: str) -> str:
    """The canonical key of an object. Raises `BadKey` before anything is sent."""
    return object_key(namespace, name)


def call_request(
    key: str,
    method: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    to: Options,
    known: Method | None = None,
) -> ObjectRequest:
    """The request of a method call.

    key: the object's key.
    method: the method's name.
    args, kwargs: its arguments.
    to: the options of the stub.
    known: the method itself, if the object's class is known here.

    Raises `ValueError` for an idempotency key that cannot be a header, `InvalidArguments` for arguments that
    a known method does not take, `TypeError` for arguments that are not JSON.
    """
    try:
        if known is not None:
            body = known.arguments(args, kwargs)
        else:
            named = {name: by_name(each) for name, each in kwargs.items()}
            body = msgspec.json.encode({"args": [by_name(each) for each in args], "kwargs": named})
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TypeError(f"the arguments of {method} for {key} are not JSON: {error}") from error
    headers = {"content-type": "application/json"}
    return ObjectRequest("POST", f"{path_of('rpc', key)}/{quote(method, safe='')}", _with(headers, to), body)


def fetch_request(
    key: str,
    method: str,
    path: str,
    json: Any,
    body: str | bytes | None,
    headers: Mapping[str, str] | None,
    to: Options,
) -> ObjectRequest:
    """The request of a `fetch`; the parameters are those of `Stub.fetch`, `to` the options of the stub.

    Raises `TypeError` for two bodies or one that is not JSON, `ValueError` for a method, path or header that
    cannot be sent.
    """
    if not _NAME.fullmatch(method):
        raise ValueError(
            f'{method!r} is not an HTTP method, nothing was sent; the method comes first: fetch("POST", "/path")'
        )
    if json is not None and body is not None:
        raise TypeError("fetch takes json= or body=, not both")
    pairs = {name.lower(): value for name, value in (headers or {}).items()}
    if json is not None:
        body = encode_json(json)
        pairs.setdefault("content-type", "application/json")
    raw = body.encode() if isinstance(body, str) else body or b""
    return ObjectRequest(method.upper(), path_of("objects", key) + rooted(path), _with(pairs, to), raw)


def rooted(path: str) -> str:
    """A path below an object's own. Raises `ValueError` for one with `.` or `..` in it.

    HTTP clients resolve those before they send, so that user input in a path could reach another object.
    """
    if {".", ".."} & set(re.split("[?#]", path, maxsplit=1)[0].split("/")):
        raise ValueError(
            f"the path {path[:60]!r} has a . or .. that leads to another object, nothing was sent: "
            "put it into the query or body"
        )
    return path if path.startswith("/") else f"/{path}"


def _with(headers: dict[str, str], to: Options) -> dict[str, str]:
    headers["idempotency-key"] = uuid4().hex if to.idempotency_key is None else to.idempotency_key
    if trace := to.traceparent or current_trace():
        headers["traceparent"] = trace
    for name, value in headers.items():
        if not (_NAME.fullmatch(name) and _VALUE.fullmatch(value)):
            raise ValueError(
                f"the header {name!r} cannot be sent, nothing was sent: a value is printable ASCII without "
                "line breaks and without spaces around it; put anything else into the body"
            )
    return headers


def authorization(token: str | None) -> dict[str, str]:
    """The header that carries a token.

    Raises `ConfigError`, without the token's text, for one that is not valid.
    """
    if token is None:
        return {}
    if _TOKEN.fullmatch(token):
        return {"authorization": f"Bearer {token}"}
    wrong = "has a character that no token has, such as a line break or a space" if token else "is empty"
    raise ConfigError(
        f"the token (token=…, PERDURE_TOKEN) {wrong}: give exactly what `perdure token create` printed"
    )


def current_trace() -> str | None:
    """The `traceparent` of OpenTelemetry's current span, or None if there is none."""
    if (trace := sys.modules.get("opentelemetry.trace")) is None:
        return None
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return None
    return str(Traceparent(f"{span.trace_id:032x}", f"{span.span_id:016x}", int(span.trace_flags)))
