"""perdure's own pages: the handlers of paths such as /livez, /admin and /docs, and how their paths are read.

The HTTP door finds a page by the first part of the path, checks the client's access, and calls the page with
a `PageRequest`.

Laws [test_pages.py, test_keys.py]
- The first part of a page's path has one spelling. The path is split from the bytes that were sent, so that
  the access check and the page cannot see two different paths.
- A page is called after the access check of the door; further rights it checks itself, by the grant.
- A GET changes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes

from perdure.api.problems import Problem, problem
from perdure.schemas.access import Grant
from perdure.schemas.errors import BadKey, MalformedCommand


class Refused(Exception):
    """Raised for a request that is refused at the door; `problem` is the response."""

    def __init__(self, response: Problem) -> None:
        super().__init__(response)
        self.problem = response


class PageRequest(NamedTuple):
    """A request for a page: `parts` is its path, decoded, without the first part and without empty ends.

    `grant` has the client's rights, None without access control; `body` reads the request's body, up to the
    limit.
    """

    method: str
    parts: tuple[str, ...]
    query: Mapping[str, str]
    grant: Grant | None
    body: Callable[[], Awaitable[bytes]]


# of an answer in JSON that holds only now and for this client
JSON_NOW = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))
Page = Callable[[PageRequest], Awaitable[Problem]]
Pages = Mapping[str, Page]


def command_url(id_: str) -> str:
    """The path at which the outcome of a command is read."""
    return f"/commands/{id_}"


def first_of(raw_path: bytes) -> str:
    """The first part of a path, decoded, so that no spelling of a page's path leads to the Worker."""
    return unquote_to_bytes(raw_path.lstrip(b"/").partition(b"/")[0]).decode("utf-8", "replace")


def for_object(raw_path: bytes) -> bool:
    """True if it is a path of an object, and not one of the pages."""
    return raw_path.startswith((b"/objects/", b"/rpc/"))


def parts_of(raw_path: bytes) -> tuple[str, ...]:
    """The parts of a page's path after the first, percent-decoded once, from UTF-8.

    Raises `Refused` if the first part is percent-encoded, or a slash is doubled or ends the path.
    """
    _, first, *parts = raw_path.split(b"/")
    if first != first_of(raw_path).encode() or b"" in parts:
        raise no_such_path(raw_path.decode("latin-1"))
    return tuple(text_of(part) for part in parts)


def text_of(part: bytes) -> str:
    """A part of a path, percent-decoded once. Raises `BadKey` if it is not UTF-8."""
    try:
        return part.decode() if part.find(b"%") < 0 else unquote_to_bytes(part).decode()
    except UnicodeDecodeError as error:
        raise BadKey(f"{part[:60].decode('latin-1')} in the path is not UTF-8, percent-encoded") from error


def query_of(query: bytes) -> dict[str, str]:
    """The fields of a query. Raises `MalformedCommand` if it cannot be read or has a field twice."""
    try:
        pairs = parse_qsl(query.decode(), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError as error:
        raise MalformedCommand(f"the query cannot be read: {error}") from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise MalformedCommand("the query has a parameter twice")
    return fields


def known_only(query: Mapping[str, str], names: frozenset[str]) -> None:
    """Raises `MalformedCommand` for a query with a parameter other than these."""
    if unknown := query.keys() - names:
        raise MalformedCommand(f"unknown query parameter {min(unknown)[:40]!r}")


def no_such_path(path: str) -> Refused:
    """The refusal of a path that leads nowhere (404)."""
    message = (
        f"{path[:80]} is not a path of this server; objects are at /objects/NAMESPACE/NAME and "
        "/rpc/NAMESPACE/NAME/METHOD, and /docs lists them"
    )
    return Refused(problem("no-such-path", message, status=404))


def nothing_behind(name: str, request: PageRequest) -> Refused:
    """The refusal (404) of a path that begins with page `name` and does not exist."""
    return no_such_path("/".join(("", name, *request.parts)))


def only(request: PageRequest, *methods: str) -> None:
    """Raises `Refused` (405) for a request by another method than these; GET includes HEAD."""
    if request.method not in methods and not (request.method == "HEAD" and "GET" in methods):
        raise not_allowed(f"this page supports {' or '.join(methods)}", *methods)


def not_allowed(message: str, *methods: str) -> Refused:
    """The refusal of another method than these (405, RFC 9110 §15.5.6)."""
    status, headers, body = problem("method-not-allowed", message, status=405)
    return Refused((status, [*headers, (b"allow", ", ".join(methods).encode())], body))


def single(name: str, make: Callable[[], Problem]) -> tuple[str, Page]:
    """A page that has one path and supports GET only: its name, and its handler, which calls `make`."""

    async def page(request: PageRequest) -> Problem:
        if request.parts:
            raise nothing_behind(name, request)
        only(request, "GET")
        return make()

    return name, page
