"""perdure's own pages: what answers at paths that belong to no object.

Laws
- A page is found by the first part of its path, which has one spelling. The path is taken apart from the bytes that were sent, so that
  the right that it needs and the page that answers cannot be of two different paths.
- Whoever reads a page has been let in (api/door/http.py); what more a page wants of the grant, it asks itself.
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
    """A request that ends at the door, with its problem."""

    def __init__(self, told: Problem) -> None:
        super().__init__(told)
        self.problem = told


class PageRequest(NamedTuple):
    """A request for a page: `parts` is its path, decoded, without the first part and without empty ends.

    `grant` is who asks, None where nothing is guarded; `body` reads the request's body, up to the limit.
    """

    method: str
    parts: tuple[str, ...]
    query: Mapping[str, str]
    grant: Grant | None
    body: Callable[[], Awaitable[bytes]]


# of an answer in JSON that is true now, and for whoever asked
JSON_NOW = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))
Page = Callable[[PageRequest], Awaitable[Problem]]
Pages = Mapping[str, Page]


def first_of(raw_path: bytes) -> str:
    """What a path begins with, however it is spelled: nothing that reads like a page of perdure's is anybody else's."""
    return unquote_to_bytes(raw_path.lstrip(b"/").partition(b"/")[0]).decode("utf-8", "replace")


def for_object(raw_path: bytes) -> bool:
    """True if it is a path of an object, and not one of the pages."""
    return raw_path.startswith((b"/objects/", b"/rpc/"))


def parts_of(raw_path: bytes) -> tuple[str, ...]:
    """The parts of a page's path behind the first. Raises `Refused` for one that is not spelled as it should be.

    That is: one slash before each part, the first as it is written here, the others percent-decoded once, from UTF-8.
    """
    _, first, *parts = raw_path.split(b"/")
    if first != first_of(raw_path).encode() or b"" in parts:
        raise no_such_path(raw_path.decode("latin-1"))
    return tuple(text_of(part) for part in parts)


def text_of(part: bytes) -> str:
    """A part of a path, percent-decoded once. Raises `BadKey` if it is not UTF-8."""
    try:
        return unquote_to_bytes(part).decode()
    except UnicodeDecodeError as error:
        raise BadKey(f"{part[:60].decode('latin-1')} in the path is not UTF-8, percent-encoded") from error


def query_of(query: bytes) -> dict[str, str]:
    """The fields of a query. Raises `MalformedCommand` for one that is none, or says something twice."""
    try:
        pairs = parse_qsl(query.decode(), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError as error:
        raise MalformedCommand(f"the query cannot be read: {error}") from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise MalformedCommand("the query says something twice")
    return fields


def no_such_path(path: str) -> Refused:
    told = (
        f"{path[:80]} is not a path of this server; objects are at /objects/NAMESPACE/NAME and "
        "/rpc/NAMESPACE/NAME/METHOD, and /docs lists them"
    )
    return Refused(problem("no-such-path", told, status=404))


def nothing_behind(name: str, asked: PageRequest) -> Refused:
    """The path that was asked for begins with this page's, and is nothing."""
    return no_such_path("/".join(("", name, *asked.parts)))


def only(asked: PageRequest, *methods: str) -> None:
    """Raises `Refused` (405) for a request by another method; who takes GET takes HEAD."""
    if asked.method not in methods and not (asked.method == "HEAD" and "GET" in methods):
        raise not_allowed(f"this is asked for with {' or '.join(methods)}", *methods)


def not_allowed(told: str, *methods: str) -> Refused:
    """What comes of another method than these (RFC 9110 15.5.6)."""
    status, headers, body = problem("method-not-allowed", told, status=405)
    return Refused((status, [*headers, (b"allow", ", ".join(methods).encode())], body))


def single(name: str, make: Callable[[], Problem]) -> tuple[str, Page]:
    """A page that is one path and only read."""

    async def page(asked: PageRequest) -> Problem:
        if asked.parts:
            raise nothing_behind(name, asked)
        only(asked, "GET")
        return make()

    return name, page
