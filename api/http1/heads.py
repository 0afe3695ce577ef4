"""Heads of HTTP/1.1 requests (RFC 9112): from the bytes of a head to its method, target and headers.

`read_request_head` serves the parser; it decides how the connection goes on. `read_head` then takes from the
headers what a command needs: the headers that its object sees, the idempotency key, the trace context.

Laws [test_http1.py]
- A head that RFC 9112 calls invalid is refused (400), never repaired: a proxy in front and this server must
  not read two different requests from the same bytes. A method or coding that is not known is refused with
  501.
- `Upgrade` is an offer. Except for WebSockets it is ignored, and the request is answered as if it were not
  there.
- A target is reduced to path and query. The host of an absolute target replaces `Host`; a fragment is cut
  off.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from perdure.objects.http import Request
from perdure.schemas.commands import NEVER_LOGGED, check_client_key
from perdure.schemas.replies import Pairs

RawHeaders = list[tuple[bytes, bytes]]

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_FIELD = re.compile(rb"(" + TOKEN + rb"++):[ \t]*+([^\x00-\x08\x0a-\x1f\x7f]*+)")
_LINE = re.compile(rb"(" + TOKEN + rb"++) ([\x21-\x7e]++) HTTP/(\d)\.(\d)\r\n")
_HOST = rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+)(?::[0-9]{0,5})?"
_HOSTS = re.compile(_HOST)
_ABSOLUTE = re.compile(rb"https?://(" + _HOST + rb")(?=[/?]|$)", re.IGNORECASE)
# All registered methods except CONNECT and TRACE, which are for proxies.
METHODS = frozenset(
    b"GET HEAD POST PUT DELETE PATCH OPTIONS QUERY ACL BIND CHECKOUT COPY LINK LOCK M-SEARCH MERGE MKACTIVITY "
    b"MKCALENDAR MKCOL MOVE NOTIFY PROPFIND PROPPATCH PURGE REBIND REPORT SEARCH SOURCE SUBSCRIBE UNBIND UNLINK "
    b"UNLOCK UNSUBSCRIBE".split()
)
_READ = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect"))
_ONCE = frozenset((b"host", b"content-length"))
_CACHED_BYTES = 1024  # of headers; longer ones are parsed each time
_UNREADABLE = 1 << 62  # bytes: stands for any size with too many digits
# hop-by-hop headers concern the connection, not the object (RFC 9110 §7.6.1)
_HOP = frozenset(("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"))
_OF_THE_HOP = frozenset(name.encode() for name in _HOP)
_DROPPED = NEVER_LOGGED | _HOP
TRACEPARENT_CHARS = 64
_DROPPED_BYTES = frozenset(name.encode() for name in _DROPPED)
BAD_LINE = "The request line is not of the form 'METHOD /path HTTP/1.1'."
BAD_FIELD = "A header is not of the form 'name: value', on one line that ends with CRLF."


class Invalid(Exception):
    """Raised for bytes that are not a supported request; the connection ends with this status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class RequestHead(NamedTuple):
    """One head: `url` is path and query, or `*`; names of headers are in lower case.

    `size` is that of the body, None if it is chunked. `expects`: 100-continue. `switches`: to a WebSocket.
    """

    method: bytes
    url: bytes
    version: str
    headers: RawHeaders
    size: int | None
    keep_alive: bool
    expects: bool
    switches: bool


class _Fields(NamedTuple):
    """The part of a `RequestHead` that depends on the headers alone."""

    headers: RawHeaders  # shared: must not be changed
    host: bytes | None
    size: int | None
    keep_alive: bool
    expects: bool
    switches: bool


def read_request_head(data: bytes, at: int, end: int) -> RequestHead:
    """The head in `data` from `at` to `end`, which is the end of its empty line. Raises `Invalid`."""
    line = _LINE.match(data, at, end)
    if line is None or line[3] != b"1" or line[1] not in METHODS:
        check_line(data[at : data.index(b"\n", at) + 1])
        raise AssertionError("an invalid request line was not refused")
    method, url, _, minor = line.groups()
    new = minor != b"0"  # HTTP/1.1 at least
    block = data[line.end() - 2 : end]
    fields = _cached_fields(block, new) if len(block) <= _CACHED_BYTES else _read_fields(block, new)
    headers, host, size, keep_alive, expects, switches = fields
    if url[0] != 47 or b"#" in url:  # /
        url, named = _reduced(url, method)
        if named is not None and host is not None:
            headers = [(name, named if name == b"host" else value) for name, value in headers]
    return RequestHead(method, url, "1.1" if new else "1.0", headers, size, keep_alive, expects, switches)


def _read_fields(block: bytes, new: bool) -> _Fields:
    """Parse `block`, which begins with the end of the previous line and ends with the empty line."""
    headers = fields_in(block)
    values: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _READ:
            if name not in values:
                values[name] = value
            elif name in _ONCE:
                raise Invalid(400, f"The request has the header {name.decode()} twice.")
            else:
                values[name] += b"," + value  # RFC 9110 5.2
    host = values.get(b"host")
    if host is None and new:
        raise Invalid(400, "An HTTP/1.1 request names its host: the header Host is missing.")
    if host is not None and not _HOSTS.fullmatch(host):
        raise Invalid(400, "The header Host is not a host with an optional port.")
    expects = values.get(b"expect") if new else None
    if expects is not None and expects.lower() != b"100-continue":
        raise Invalid(417, "The only supported expectation is 100-continue.")
    size = _size_of(values.get(b"content-length"), values.get(b"transfer-encoding"), new)
    options = _parts(values[b"connection"]) if b"connection" in values else ()
    switches = new and b"upgrade" in options and b"websocket" in _parts(values.get(b"upgrade", b""))
    if switches and size != 0:
        raise Invalid(400, "A request that asks for a WebSocket has no body.")
    keep_alive = new and b"close" not in options
    return _Fields(headers, host, size, keep_alive, expects is not None, switches)


def fields_in(block: bytes) -> RawHeaders:
    """Headers or trailers, with names in lower case; `block` as for `_read_fields`. Raises `Invalid`."""
    if len(block) == 4:
        return []
    lines = block[2:-4].split(b"\r\n")
    return [*map(_cached_field if len(block) <= _CACHED_BYTES else _read_field, lines)]


def _read_field(line: bytes) -> tuple[bytes, bytes]:
    field = _FIELD.fullmatch(line)
    if field is None:
        raise Invalid(400, BAD_FIELD)
    return field[1].lower(), field[2].rstrip(b" \t")


_cached_field = lru_cache(8192)(_read_field)
_cached_fields = lru_cache(4096)(_read_fields)  # most clients repeat their headers


def check_line(line: bytes) -> None:
    """Raises `Invalid` for an invalid request line, and for a version or method that is not supported."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise Invalid(400, BAD_LINE)
    if match[3] != b"1":
        raise Invalid(505, "This server supports HTTP/1.1.")
    if match[1] not in METHODS:
        raise Invalid(501, f"The method {match[1][:40].decode()} is not supported.")


def _parts(value: bytes) -> list[bytes]:
    """The members of a list, in lower case."""
    return [each.strip(b" \t") for each in value.lower().split(b",")]


def _reduced(url: bytes, method: bytes) -> tuple[bytes, bytes | None]:
    """Path and query of a target, and the host of an absolute one."""
    url = url.partition(b"#")[0]
    if url.startswith(b"/") or (url == b"*" and method == b"OPTIONS"):
        return url, None
    absolute = _ABSOLUTE.match(url)
    if absolute is None:
        raise Invalid(400, "The target of a request is a path that begins with '/', or an http URL.")
    rest = url[absolute.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest, absolute[1]


def _size_of(length: bytes | None, coding: bytes | None, new: bool) -> int | None:
    """Bytes of the body, None if it is chunked."""
    if coding is None:
        if length is None:
            return 0
        if not length.isdigit():
            raise Invalid(400, "Content-Length is not a number.")
        return int(length) if len(length) < 19 else _UNREADABLE
    if length is not None:
        raise Invalid(400, "The request has both Content-Length and Transfer-Encoding.")
    codings = _parts(coding)
    for each in codings:
        if each and each.partition(b";")[0].rstrip() != b"chunked":
            raise Invalid(
                501, f"The transfer coding {each[:40].decode('latin-1')} is not supported; chunked is."
            )
    if codings != [b"chunked"]:
        raise Invalid(400, "Transfer-Encoding is not 'chunked', once and without parameters.")
    if not new:
        raise Invalid(400, "HTTP/1.0 has no Transfer-Encoding.")
    return None


class Head(NamedTuple):
    """The facts that a command takes from a request's headers. `size` is that of
    the body: 0 without one, None if it is chunked.

    `principal` is the authenticated client. It does not follow from the headers alone, and is empty without
    access control.
    """

    headers: Pairs
    client_key: str | None
    traceparent: str
    size: int | None
    principal: str = ""


def read_head(raw: RawHeaders) -> Head:
    """Read a request's headers. Raises `MalformedCommand` for an invalid idempotency key."""
    headers: list[tuple[str, str]] = []
    client_key, traceparent, size = None, "", 0
    chunked = False
    for name, value in raw:
        if name == b"content-length":
            size = int(value) if value.isdigit() and len(value) < 16 else 1 << 62
        elif name == b"transfer-encoding":
            chunked = True
        elif name == b"idempotency-key":
            client_key = check_client_key(value.decode("latin-1"))
        elif name == b"traceparent":
            traceparent = value.decode("latin-1")[:TRACEPARENT_CHARS]
        if name not in _DROPPED_BYTES:
            headers.append((name.decode("latin-1"), value.decode("latin-1")))
    return Head(tuple(headers), client_key, traceparent, None if chunked else size)


def whole_request(
    method: str,
    raw_path: bytes,
    query: bytes,
    raw: RawHeaders,
    body: bytes,
    *more: tuple[str, str],
    principal: str = "",
) -> Request:
    """A request as the Worker sees it: all headers except those of the connection.

    Args:
        method: the HTTP method.
        raw_path: the path as it was sent, percent-encoded.
        query: the query without its question mark; may be empty.
        raw: the headers as they were sent.
        body: the body, complete.
        more: headers to add.
        principal: the authenticated client; empty if it is not known.
    """
    path = (raw_path + b"?" + query if query else raw_path).decode("latin-1")
    headers = tuple(
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in raw if name not in _OF_THE_HOP
    )
    return Request(method, path, headers + more, body, principal=principal)
