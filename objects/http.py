"""Requests and responses as objects see them.

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
    from perdure.objects.pairs import ClientEnd

_JSON: Pairs = (("content-type", "application/json"),)
_TEXT: Pairs = (("content-type", "text/plain; charset=utf-8"),)


class Headers(Mapping[str, str]):
    """HTTP headers; of several with one name the first is found, `get_list` gives all."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def __getitem__(self, name: str) -> str:
        wanted = name.lower()
        for found, value in self.pairs:
            if found == wanted:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.pairs))

    def __len__(self) -> int:
        return len(dict(self.pairs))

    def get_list(self, name: str) -> list[str]:
        """All values under `name`, in order."""
        return [value for found, value in self.pairs if found == name.lower()]


class Request:
    """An HTTP request for an object.

    `method` in upper case; `path` after the object's name, decoded no further than it was sent (`/lock`);
    `query_string` without `?`; `body` bytes. `principal` is who asks, where access is guarded: the name of its token or
    the `sub` of its JWT, `@` and its key for an object, empty for all others.
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
        """Path and query, as they were sent."""
        return f"{self.path}?{self.query_string}" if self.query_string else self.path

    @cached_property
    def headers(self) -> Headers:
        return Headers(self._headers)

    @cached_property
    def query(self) -> dict[str, str]:
        """The query's parameters; of several with one name the last."""
        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    @property
    def url(self) -> str:
        """The whole URL, its host as the client named it (`Host`); `http://` also behind a proxy that ends TLS."""
        query = f"?{self.query_string}" if self.query_string else ""
        return f"http://{self.headers.get('host', 'localhost')}{self.path}{query}"

    async def text(self) -> str:
        """The body as UTF-8. Raises `Refusal` (code `bad-body`) if it is none."""
        try:
            return self.body.decode()
        except UnicodeDecodeError as error:
            raise Refusal("the body is not UTF-8", code="bad-body") from error

    async def json(self) -> Any:
        """The body as JSON (strict: no NaN, no duplicate keys). Raises `Refusal` (code `bad-body`)."""
        try:
            return parse_json(self.body)
        except MalformedCommand as error:
            raise Refusal(str(error), code="bad-body") from error


class Response:
    """An HTTP response: `body` str or bytes, `status` 200 to 599, `headers` a mapping or pairs.

    101 answers a request whose WebSocket the object has accepted; `web_socket` is the client's end of a pair.
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
        """The answer to a request whose WebSocket was accepted."""
        return cls(b"", 101, headers)

    @classmethod
    def json(
        cls, value: Any, status: int = 200, headers: Mapping[str, str] | Pairs | None = None
    ) -> Response:
        """A response whose body is `value` as JSON: JSON's own types, models, dataclasses, Structs, datetimes, …

        `headers` may name another content type. Raises ValueError for NaN and infinities, which JSON does not have, and
        TypeError for what cannot be written as JSON.
        """
        if headers is None:
            made = cls.__new__(cls)  # the common case, without looking for a content type
            made.body, made.status, made.headers = encode_json(value), status, _JSON
            made.web_socket = None
            return made
        return cls(encode_json(value), status, _typed(pairs_of(headers), _JSON))


class FetchedResponse(Response):
    """The answer to a request of one's own: `status`, `headers` (a mapping), `body`, `ok`, `text()`, `json()`.

    A handler may return it as its own response.
    """

    __slots__ = ()

    headers: Headers  # type: ignore[assignment]  # who reads a response asks for names; see `pairs_of`

    def __init__(self, status: int, headers: Pairs, body: bytes) -> None:
        self.status = status
        self.headers = Headers(tuple((name.lower(), value) for name, value in headers))
        self.body = body
        self.web_socket = None

    @property
    def ok(self) -> bool:
        """Is the status 200 to 299?"""
        return 200 <= self.status < 300

    async def text(self) -> str:
        """The body as UTF-8; bytes that are none are replaced."""
        return self.body.decode("utf-8", "replace")

    async def json(self) -> Any:  # type: ignore[override]  # of a class it makes one, of an answer it reads it
        """The body as JSON. Raises `ValueError` if it is none."""
        return msgspec.json.decode(self.body)


def _typed(headers: Pairs, content_type: Pairs) -> Pairs:
    """The headers, with a content type if they have none."""
    return headers if any(name.lower() == "content-type" for name, _ in headers) else headers + content_type


def is_latin(value: str) -> bool:
    """Can it stand in a header as it goes over the wire?"""
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
