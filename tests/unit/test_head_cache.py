"""Which requests are known by their bytes, and as what."""

from __future__ import annotations

import pytest

from perdure.api.http1.head_cache import FIRST_LINE, CachedHead, alike, cached_head_of
from perdure.api.http1.heads import Head
from perdure.schemas.commands import MAX_CLIENT_KEY_CHARS

HOST = b"\r\nhost: x\r\n\r\n"
FIVE = b"\r\nhost: x\r\ncontent-length: 5\r\n\r\n"


def head(size: int | None) -> Head:
    return Head((("host", "x"),), None, "", size)


def body_of(known: CachedHead, data: bytes) -> bytes | None:
    line = FIRST_LINE.match(data)
    found = None if line is None else known.read(data, line.end())
    return None if found is None else found[1]


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"GET /objects/A/b HTTP/1.1" + HOST, 0),
        (b"POST /rpc/A/b/c HTTP/1.1" + FIVE + b"hello", 5),
    ],
)
def test_a_whole_plain_request_is_known_again(data: bytes, size: int) -> None:
    """With another first line and another body of the same length, and as nothing else."""
    known = cached_head_of(data, head(size))
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
    assert cached_head_of(data, head(size)) is None


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


KEYED = b"\r\nhost: x\r\nIdempotency-Key: %b\r\na: b\r\ntraceparent: %b\r\n\r\n"


def keyed(key: bytes, trace: bytes = b"00-1-1-01") -> bytes:
    return b"POST /objects/A/b HTTP/1.1" + KEYED % (key, trace)


def keyed_head(key: str, trace: str = "00-1-1-01") -> Head:
    pairs = (("host", "x"), ("idempotency-key", key), ("a", "b"), ("traceparent", trace))
    return Head(pairs, key, trace, 0)


def read(known: CachedHead, data: bytes) -> Head | None:
    found = known.read(data, len(b"POST /objects/A/b HTTP/1.1"))
    return None if found is None else found[0]


def test_an_idempotency_key_and_a_trace_of_its_own_leave_a_request_known() -> None:
    """The head says them, as headers too; everything else is as before."""
    known = cached_head_of(keyed(b"k1"), keyed_head("k1"))
    assert known is not None
    assert read(known, keyed(b"k1")) == keyed_head("k1")
    assert read(known, keyed(b"another-key", b"00-2")) == keyed_head("another-key", "00-2")
    assert read(known, keyed(b"k" * 200)) == keyed_head("k" * 200)


@pytest.mark.parametrize(
    "data",
    [
        keyed(b""),
        keyed(b"a b"),
        keyed(b"a\xe4"),
        keyed(b" a"),
        keyed(b"a "),
        keyed(b"a\tb"),
        keyed(b"k" * (MAX_CLIENT_KEY_CHARS + 1)),
        keyed(b"k\r\nidempotency-key: l"),
        keyed(b"k").replace(b"a: b", b"a: c"),
        keyed(b"k").replace(b"Idempotency", b"idempotency"),
        keyed(b"k")[:-2],
        keyed(b"k") + b"x",
        keyed(b"k").replace(b"\r\na: b", b""),
    ],
)
def test_a_key_of_another_form_goes_to_the_parser(data: bytes) -> None:
    """And so does what differs elsewhere."""
    known = cached_head_of(keyed(b"k1"), keyed_head("k1"))
    assert known is not None
    assert read(known, data) is None


def test_two_keys_are_never_known() -> None:
    """Which of them counts is the parser's to say."""
    pairs = (("idempotency-key", "k"), ("idempotency-key", "l"))
    data = b"POST /objects/A/b HTTP/1.1\r\nidempotency-key: k\r\nidempotency-key: l\r\n\r\n"
    assert cached_head_of(data, Head(pairs, "l", "", 0)) is None


def test_headers_are_alike_that_differ_in_what_varies() -> None:
    """Other names, other values, more or fewer of them are others."""
    before = [(b"host", b"x"), (b"idempotency-key", b"k")]
    assert alike([(b"host", b"x"), (b"idempotency-key", b"l")], before)
    assert not alike([(b"host", b"y"), (b"idempotency-key", b"l")], before)
    assert not alike([(b"host", b"x"), (b"traceparent", b"l")], before)
    assert not alike([(b"host", b"x")], before)
    assert not alike(before, None)
