"""HTTP requests and responses as objects see them.

Laws
- Both are plain values: nothing here does I/O, and reading a request twice gives the same.
- Header names are compared without case. A body is complete: there is no streaming.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec

from perdure.objects.results import encode_json
from perdure.schemas.commands import Command, parse_json
from perdure.schemas.errors import MalformedCommand, Refusal
from perdure.schemas.replies import Pairs

if TYPE_CHECKING:
    from perdure.objects.websocket_pair import ClientEnd

_JSON: Pairs = (("content-type", "application/json"),)
_TEXT: Pairs = (("content-type", "text/plain; charset=utf-8"),)


class Headers(Mapping[str, str]):
    """HTTP headers, a mapping from a name to its value. Names are compared without case.

    Of several headers with one name, `headers[name]` is the first; `get_list` returns all of them.
    """

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def __getitem__(self, name: str) -> str:
        wanted = name.lower()
        for header, value in self.pairs:
            if header == wanted:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.pairs))

    def __len__(self) -> int:
        return len(dict(self.pairs))

    def get_list(self, name: str) -> list[str]:
        """All values of the header `name`, in the order in which they were sent; an
        empty list if there is none.
        """
        return [value for header, value in self.pairs if header == name.lower()]


class Request:
    """An HTTP request, as an object's or a Worker's `fetch` receives it.

    Attributes:
        method: the HTTP method, in upper case.
        path: for an object the path behind its name, for a Worker the whole path;
            still percent-encoded, `/` if empty.
        query_string: what follows `?`, without it; empty if there is none.
        body: the whole body, bytes.
        principal: the sender of the request, where access is guarded: the name of the token, the `sub` of the
            JWT, or `@` and the key of the calling object. Empty otherwise.

    headers: pairs of name and value; their attribute finds a name without regard to case.
    """

    __slots__ = ("__dict__", "_headers", "body", "method", "path", "principal", "query_string")

    def __init__(
        self, method: str, path: str = "/", headers: Pairs = (), body: bytes = b"", *, principal: str = ""
    ) -> None:
        self.method = method
        self.path, _, self.query_string = path.partition("?")
        self._headers = headers
        self.body = body
        self.principal = principal

    @classmethod
    def of(cls, command: Command) -> Request:
        """The request that a fetch command carries."""
        made = cls.__new__(cls)  # one for each turn: without a further call
        made.method, made._headers, made.body = command.method, command.headers, command.body
        made.path, _, made.query_string = command.path.partition("?")
        made.principal = command.principal
        return made

    @property
    def target(self) -> str:
        """`path` and query string, as they were sent."""
        return f"{self.path}?{self.query_string}" if self.query_string else self.path

    @cached_property
    def headers(self) -> Headers:
        """The request's headers, a mapping whose names are compared without case."""
        return Headers(self._headers)

    @cached_property
    def query(self) -> dict[str, str]:
        """The parameters of the query, decoded. Of several with one name it has the
        last; `query_string` has all.
        """
        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    @property
    def url(self) -> str:
        """The whole URL. Its host is the client's `Host` header; its scheme is
        `http`, also behind a TLS proxy.
        """
        query = f"?{self.query_string}" if self.query_string else ""
        return f"http://{self.headers.get('host', 'localhost')}{self.path}{query}"

    async def text(self) -> str:
        """The body as text. Raises `Refusal` (code `bad-body`, HTTP 400) if it is not UTF-8."""
        try:
            return self.body.decode()
        except UnicodeDecodeError as error:
            raise Refusal("the body is not UTF-8", code="bad-body") from error

    async def json(self) -> Any:
        """The body, parsed as JSON. Raises `Refusal` (code `bad-body`, HTTP 400) if it is not JSON.

        The parser is strict: it refuses NaN, infinities and duplicate keys.
        """
        try:
            return parse_json(self.body)
        except MalformedCommand as error:
            raise Refusal(str(error), code="bad-body") from error


class Response:
    """An HTTP response, which `fetch` returns.

    body: str, which is sent as UTF-8 with `content-type: text/plain` unless `headers` name another, or bytes.
    status: 200 to 599. 101 answers a request whose WebSocket the object has accepted; see `Response.upgrade`.
    headers: a mapping, or pairs of name and value if a name occurs more than once.
    web_socket: the client's end of a `WebSocketPair`, with status 101.

    A status or header that cannot be sent is a `BadReply` (HTTP 500) once `fetch` has returned it.
    """

    __slots__ = ("body", "headers", "status", "web_socket")

    def __init__(
        self,
        body: str | bytes | None = b"",
        status: int = 200,
        headers: Mapping[str, str] | Pairs | None = None,
        *,
        web_socket: ClientEnd | None = None,
    ) -> None:
        pairs = pairs_of(headers or ())
        if isinstance(body, str):
            body = body.encode()
            pairs = _typed(pairs, _TEXT)
        self.body = body or b""
        self.status = status
        self.headers: Pairs = pairs
        self.web_socket = web_socket

    @classmethod
    def upgrade(cls, headers: Mapping[str, str] | Pairs | None = None) -> Response:
        """The 101 response to a request whose WebSocket `State.accept_websocket` has accepted.

        headers: further headers, such as `sec-websocket-protocol`.
        """
        return cls(b"", 101, headers)

    @classmethod
    def json(
        cls, value: Any, status: int = 200, headers: Mapping[str, str] | Pairs | None = None
    ) -> Response:
        """A response whose body is `value` as JSON.

        value: JSON's own types, pydantic models, dataclasses, msgspec Structs,
            datetimes, and containers of them.
        status: 200 to 599.
        headers: further headers; `content-type` is `application/json` unless they name another.

        Raises ValueError for NaN and infinities, which JSON does not have, and TypeError for a value that
        cannot be written as JSON.
        """
        if headers is None:
            made = cls.__new__(cls)  # the common case, without looking for a content type
            made.body, made.status, made.headers = encode_json(value), status, _JSON
            made.web_socket = None
            return made
        return cls(encode_json(value), status, _typed(pairs_of(headers), _JSON))


class FetchedResponse(Response):
    """The response to a request that the app sent: what `perdure.fetch` and `stub.fetch` return.

    Attributes:
        status: the HTTP status, an int.
        headers: a mapping whose names are compared without case.
        body: the whole body, bytes.

    A handler may return it as its own response.
    """

    __slots__ = ()

    headers: Headers  # type: ignore[assignment]  # a response is read by names; see `pairs_of`

    def __init__(self, status: int, headers: Pairs, body: bytes) -> None:
        self.status = status
        self.headers = Headers(tuple((name.lower(), value) for name, value in headers))
        self.body = body
        self.web_socket = None

    @property
    def ok(self) -> bool:
        """True if the status is 200 to 299."""
        return 200 <= self.status < 300

    async def text(self) -> str:
        """The body as text; bytes that are not UTF-8 become U+FFFD."""
        return self.body.decode("utf-8", "replace")

    async def json(self) -> Any:  # type: ignore[override]  # the class method writes JSON, this reads it
        """The body, parsed as JSON. Raises ValueError if it is not JSON."""
        return msgspec.json.decode(self.body)


def _typed(headers: Pairs, content_type: Pairs) -> Pairs:
    """The headers, with a content type if they have none."""
    if not headers:
        return content_type
    return headers if any(name.lower() == "content-type" for name, _ in headers) else headers + content_type


def is_latin(value: str) -> bool:
    """True if `value` can be sent in a header."""
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def pairs_of(headers: Mapping[str, str] | Pairs) -> Pairs:
    """Headers, in whatever form they are, as pairs."""
    if isinstance(headers, Headers):
        return headers.pairs
    return tuple(headers.items() if isinstance(headers, Mapping) else headers)
