"""Which requests are known by their bytes, and as what."""

from __future__ import annotations

import pytest

from perdure.api.heads import Head
from perdure.api.repeats import FIRST_LINE, Repeated, repeated

HOST = b"\r\nhost: x\r\n\r\n"
FIVE = b"\r\nhost: x\r\ncontent-length: 5\r\n\r\n"


def head(size: int | None) -> Head:
    return Head((("host", "x"),), None, "", size)


def body_of(known: Repeated, data: bytes) -> bytes | None:
    line = FIRST_LINE.match(data)
    return None if line is None else known.body(data, line.end())


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"GET /objects/A/b HTTP/1.1" + HOST, 0),
        (b"POST /rpc/A/b/c HTTP/1.1" + FIVE + b"hello", 5),
    ],
)
def test_a_whole_plain_request_is_known_again(data: bytes, size: int) -> None:
    """With another first line and another body of the same length, and as nothing else."""
    known = repeated(data, head(size))
    assert known is not None
    other = b"PUT /objects/B/%C3%A4?x=/?&y HTTP/1.1" + known.lines
    assert body_of(known, other + b"x" * size) == b"x" * size
    assert body_of(known, other + b"x" * (size + 1)) is None
    assert body_of(known, (other + b"x" * size)[:-1]) is None
    assert body_of(known, other.replace(b"host", b"Host") + b"x" * size) is None


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"GET /objects/A/b HTTP/1.1" + HOST, None),  # its body is chunked
        (b"GET /objects/A/b HTTP/1.0" + HOST, 0),
        (b"\r\nGET /objects/A/b HTTP/1.1" + HOST, 0),
        (b"GET /livez HTTP/1.1" + HOST, 0),
        (b"GET http://x/objects/A/b HTTP/1.1" + HOST, 0),
        (b"CONNECT /objects/A/b HTTP/1.1" + HOST, 0),
        (b"GET /objects/A/b HTTP/1.1\r\nhost: x\nb: c\r\n\r\n", 0),
        (b"GET /objects/A/b HTTP/1.1\r\nhost: x\rb: c\r\n\r\n", 0),
        (b"GET /objects/A/b HTTP/1.1" + HOST + b"GET /objects/A/b HTTP/1.1" + HOST, 0),
        (b"POST /objects/A/b HTTP/1.1" + FIVE + b"hell", 5),
    ],
)
def test_what_is_not_whole_and_plain_is_not(data: bytes, size: int | None) -> None:
    """It stays the parser's."""
    assert repeated(data, head(size)) is None


@pytest.mark.parametrize(
    "line",
    [
        b"GET  /objects/A/b HTTP/1.1",
        b"GET /objects/A/b\tc HTTP/1.1",
        b"GET /objects/A/b#c HTTP/1.1",
        b"GET /objects/A/\xe4 HTTP/1.1",
        b"GET /objects/A/b HTTP/1.1 ",
        b"GET /objects/A/b HTTP/1.10",
        b"get /objects/A/b HTTP/1.1",
        b"GET /objectsA/b HTTP/1.1",
    ],
)
def test_a_first_line_that_is_not_plain_goes_to_the_parser(line: bytes) -> None:
    """Whatever the parser may make of it."""
    assert FIRST_LINE.match(line + HOST) is None
