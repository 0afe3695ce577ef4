"""Requests as bytes, right and wrong ones: each has one answer, the same however its bytes arrive."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from tests.integration.door import HEADER_BYTES, Client, Door

PATIENCE_S = 30.0
GET = b"GET /objects/Echo/%b/x HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /objects/Echo/%b/x HTTP/1.1\r\nHost: localhost\r\n"
CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /objects/Echo/%b/next HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
SOCKET = UPGRADE + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
TALK = b"GET /objects/Echo/%b/talk HTTP/1.1\r\nHost: localhost\r\n"

LONGEST = b"GET /objects/Echo/long/x HTTP/1.1\r\nHost: localhost\r\nX: %b\r\n\r\n"
LONGEST = LONGEST.replace(b"%b", b"y" * (HEADER_BYTES - len(LONGEST) + 2))

# What is answered: statuses in their order, each perhaps with the bytes of a body that its object saw. All
# connections end
# behind the last one.
CASES: dict[str, tuple[bytes, list[Any]]] = {
    # framing that is right
    "no body": (GET + b"\r\n" + NEXT, [(200, 0), 200]),
    "content-length": (POST + b"Content-Length: 5\r\n\r\nhello" + NEXT, [(200, 5), 200]),
    "content-length: 0": (POST + b"Content-Length: 0\r\n\r\n" + NEXT, [(200, 0), 200]),
    "leading zeros": (POST + b"Content-Length: 0005\r\n\r\nhello" + NEXT, [(200, 5), 200]),
    "chunks": (POST + CHUNKS + b"5\r\nhello\r\n3\r\nabc\r\n0\r\n\r\n" + NEXT, [(200, 8), 200]),
    "chunks, sizes as some write them": (
        POST + CHUNKS + b"00A\r\n0123456789\r\n000\r\n\r\n" + NEXT,
        [(200, 10), 200],
    ),
    "chunks with extensions": (
        POST + CHUNKS + b'2;a=b;c="d e"\r\nhi\r\n1 ;x\r\n!\r\n0;z\r\n\r\n' + NEXT,
        [(200, 3), 200],
    ),
    "chunks with trailers": (
        POST + CHUNKS + b"2\r\nhi\r\n0\r\nIdempotency-Key: k\r\nx:\r\n\r\n" + NEXT,
        [(200, 2), 200],
    ),
    "chunked in capitals": (
        POST + b"transfer-ENCODING: ChUnKeD\r\n\r\n1\r\nx\r\n0\r\n\r\n" + NEXT,
        [(200, 1), 200],
    ),
    "a body that looks like a request": (
        POST + b"Content-Length: 27\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n" + NEXT,
        [(200, 27), 200],
    ),
    "empty lines before a request": (b"\r\n\r\n" + GET + b"\r\n" + b"\r\n" + NEXT, [(200, 0), 200]),
    "spaces around a value": (POST + b"Content-Length: \t 5 \t\r\n\r\nhello" + NEXT, [(200, 5), 200]),
    "a value that is empty": (GET + b"X:\r\nY: \r\n\r\n" + NEXT, [(200, 0), 200]),
    "bytes above ASCII in a value": (GET + b"X: \xe4\xff\r\n\r\n" + NEXT, [(200, 0), 200]),
    "pipelined": (
        (GET + b"\r\n") * 3 + POST + b"Content-Length: 1\r\n\r\nx" + NEXT,
        [200, 200, 200, (200, 1), 200],
    ),
    "HEAD": (GET.replace(b"GET", b"HEAD") + b"\r\n", ["200 without a body"]),
    "OPTIONS of an object": (GET.replace(b"GET", b"OPTIONS") + b"Connection: close\r\n\r\n", [(200, 0)]),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n" + NEXT, [204, 200]),
    "a method of WebDAV": (GET.replace(b"GET", b"PROPFIND") + b"\r\n" + NEXT, [(200, 0), 200]),
    "HTTP/1.0": (GET.replace(b"/1.1", b"/1.0") + b"\r\n" + NEXT, [(200, 0)]),
    "HTTP/1.0 without Host": (b"GET /objects/Echo/%b/x HTTP/1.0\r\n\r\n", [(200, 0)]),
    "HTTP/1.0 with a body": (POST.replace(b"/1.1", b"/1.0") + b"Content-Length: 2\r\n\r\nhi", [(200, 2)]),
    "HTTP/1.0 ignores Upgrade": (GET.replace(b"/1.1", b"/1.0") + SOCKET + b"\r\n", [(200, 0)]),
    "HTTP/1.2 is 1.1": (GET.replace(b"/1.1", b"/1.2") + b"\r\n" + NEXT, [(200, 0), 200]),
    "Connection: close": (GET + b"Connection: keep-alive, Close\r\n\r\n" + NEXT, [(200, 0)]),
    "a target that is absolute": (
        GET.replace(b"GET ", b"GET http://localhost:1") + b"\r\n" + NEXT,
        [(200, 0), 200],
    ),
    "a target that is absolute, without a path": (
        b"GET http://localhost?x HTTP/1.1\r\nHost: x\r\n\r\n" + NEXT,
        [404, 200],
    ),
    "the longest head": (LONGEST + NEXT, [(200, 0), 200]),
    "very many headers": (GET + b"X: y\r\n" * 2000 + b"\r\n" + NEXT, [(200, 0), 200]),
    # offers of other protocols, which are not taken
    "an offer of h2c": (POST + H2C + b"Content-Length: 5\r\n\r\nhello" + NEXT, [(200, 5), 200]),
    "an offer of h2c, in chunks": (POST + H2C + CHUNKS + b"5\r\nhello\r\n0\r\n\r\n" + NEXT, [(200, 5), 200]),
    "an offer of h2c, no body": (GET + H2C + b"\r\n" + NEXT, [(200, 0), 200]),
    "two offers": (
        POST + b"Upgrade: TLS/1.0, foo/2\r\nConnection: upgrade\r\nContent-Length: 1\r\n\r\nx" + NEXT,
        [(200, 1), 200],
    ),
    "an offer of h2c, then another": (
        (POST + H2C + b"Content-Length: 1\r\n\r\nx") * 2 + NEXT,
        [(200, 1), (200, 1), 200],
    ),
    "WebSocket offered to others": (
        POST + b"Upgrade: websocket\r\nContent-Length: 2\r\n\r\nhi" + NEXT,
        [(200, 2), 200],
    ),
    "an offer to a page": (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + H2C + b"\r\n" + NEXT, [200, 200]),
    "an offer to administration": (
        b"POST /admin/objects/Echo/%b/pause HTTP/1.1\r\nHost: localhost\r\n"
        + H2C
        + b"Content-Length: 2\r\n\r\n{}"
        + b"POST /admin/objects/Echo/%b/resume HTTP/1.1\r\nHost: localhost\r\n\r\n"
        + NEXT,
        [200, 200, 200],
    ),
    # WebSockets
    "a WebSocket": (TALK + SOCKET + b"\r\n", [101]),
    "a WebSocket as Firefox asks": (
        TALK + SOCKET.replace(b": Upgrade", b": keep-alive, Upgrade") + b"\r\n",
        [101],
    ),
    "a WebSocket among offers": (TALK + SOCKET.replace(b": websocket", b": h2c, WebSocket") + b"\r\n", [101]),
    "a WebSocket in several lines": (TALK + b"Connection: x\r\nUpgrade: h2c\r\n" + SOCKET + b"\r\n", [101]),
    "a WebSocket by POST": (TALK.replace(b"GET", b"POST") + SOCKET + b"\r\n", [405]),
    "a WebSocket by POST with a body": (
        TALK.replace(b"GET", b"POST") + SOCKET + b"Content-Length: 2\r\n\r\nhi",
        [400],
    ),
    "a WebSocket with chunks": (TALK + SOCKET + CHUNKS + b"0\r\n\r\n", [400]),
    "no key": (TALK + UPGRADE + b"Sec-WebSocket-Version: 13\r\n\r\n", [400]),
    "a key that is none": (TALK + SOCKET.replace(b"ZQ==", b"ZQ=") + b"\r\n", [400]),
    "a key of 15 bytes": (
        TALK + SOCKET.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZSBub25j") + b"\r\n",
        [400],
    ),
    "a key of bytes above ASCII": (TALK + SOCKET.replace(b"dGhl", b"\xe4Ghl") + b"\r\n", [400]),
    "two keys": (TALK + SOCKET + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", [400]),
    "no version": (TALK + SOCKET.replace(b"Sec-WebSocket-Version: 13\r\n", b"") + b"\r\n", [426]),
    "another version": (TALK + SOCKET.replace(b": 13", b": 8") + b"\r\n", [426]),
    "two versions": (TALK + SOCKET + b"Sec-WebSocket-Version: 13\r\n\r\n", [400]),
    "two origins": (TALK + SOCKET + b"Origin: http://localhost\r\nOrigin: http://localhost\r\n\r\n", [403]),
    "an origin that is none": (TALK + SOCKET + b"Origin: http://[\r\n\r\n", [403]),
    "an origin above ASCII": (TALK + SOCKET + b"Origin: http://\xe4\r\n\r\n", [403]),
    "a WebSocket of no object": (b"GET /talk HTTP/1.1\r\nHost: localhost\r\n" + SOCKET + b"\r\n", [404]),
    "a WebSocket with 300 headers": (TALK + b"X: y\r\n" * 300 + SOCKET + b"\r\n", [101]),
    # the head
    "no Host": (b"GET /objects/Echo/%b/x HTTP/1.1\r\n\r\n" + NEXT, [400]),
    "two Hosts": (GET + b"Host: localhost\r\n\r\n" + NEXT, [400]),
    "an empty Host": (GET.replace(b" localhost", b"") + b"\r\n" + NEXT, [400]),
    "two Hosts in HTTP/1.0": (GET.replace(b"/1.1", b"/1.0") + b"Host: a\r\n\r\n", [400]),
    "a Host with a path": (GET.replace(b"localhost", b"localhost/a") + b"\r\n" + NEXT, [400]),
    "a Host with a user": (GET.replace(b"localhost", b"me@localhost") + b"\r\n" + NEXT, [400]),
    "a Host with spaces": (GET.replace(b"localhost", b"a b") + b"\r\n" + NEXT, [400]),
    "a Host list": (GET.replace(b"localhost", b"a,b:1:2") + b"\r\n" + NEXT, [400]),
    "a Host with a bad port": (GET.replace(b"localhost", b"localhost:x") + b"\r\n" + NEXT, [400]),
    "a Host that is foreign": (GET.replace(b"localhost", b"evil.example") + b"\r\n" + NEXT, [403, 200]),
    "a space before the colon": (GET + b"X : y\r\n\r\n" + NEXT, [400]),
    "a header without a name": (GET + b": y\r\n\r\n" + NEXT, [400]),
    "a header without a colon": (GET + b"nothing\r\n\r\n" + NEXT, [400]),
    "a header on two lines": (GET + b"X: y\r\n z\r\n\r\n" + NEXT, [400]),
    "a first header that is folded": (b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n" + NEXT, [400]),
    "a CR in a value": (GET + b"X: y\rz: 1\r\n\r\n" + NEXT, [400]),
    "a LF in a value": (GET + b"X: y\nz: 1\r\n\r\n" + NEXT, [400]),
    "a NUL in a value": (GET + b"X: y\0\r\n\r\n" + NEXT, [400]),
    "a name that is no token": (GET + b"X(y): z\r\n\r\n" + NEXT, [400]),
    "a name above ASCII": (GET + b"\xe4: z\r\n\r\n" + NEXT, [400]),
    "lines that end with LF": (b"GET / HTTP/1.1\nHost: localhost\n\n", [400]),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", [400]),
    "nonsense": (b"NONSENSE\r\n\r\n", [400]),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n", [400]),
    "a tab": (b"GET\t/ HTTP/1.1\r\nHost: localhost\r\n\r\n", [400]),
    "a space in the target": (b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n", [400]),
    "a byte above ASCII in the target": (b"GET /\xe4 HTTP/1.1\r\nHost: localhost\r\n\r\n", [400]),
    "no version of HTTP": (b"GET /\r\nHost: localhost\r\n\r\n", [400]),
    "the version in small letters": (b"GET / http/1.1\r\nHost: localhost\r\n\r\n", [400]),
    "a version of two digits": (b"GET / HTTP/1.10\r\nHost: localhost\r\n\r\n", [400]),
    "HTTP/9.9": (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", [505]),
    "HTTP/2 without asking": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [505]),
    "a method that is not known": (b"FROB / HTTP/1.1\r\nHost: localhost\r\n\r\n", [501]),
    "a method in small letters": (b"get / HTTP/1.1\r\nHost: localhost\r\n\r\n", [501]),
    "CONNECT": (b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n", [501]),
    "TRACE": (b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n", [501]),
    "GET *": (b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n", [400]),
    "a target without a slash": (b"GET objects HTTP/1.1\r\nHost: localhost\r\n\r\n", [400]),
    "a target of another scheme": (b"GET ftp://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", [400]),
    "a target with a user": (b"GET http://me@localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", [400]),
    "a head one byte too long": (b"GET / HTTP/1.1\r\nX: " + b"y" * (HEADER_BYTES - 22) + b"\r\n\r\n", [431]),
    "a head without end": (b"GET / HTTP/1.1\r\nX: " + b"y" * HEADER_BYTES, [431]),
    "too many headers": (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (HEADER_BYTES // 6) + b"\r\n", [431]),
    "a head of spaces": (b"GET / HTTP/1.1\r\nX:" + b" " * HEADER_BYTES + b"y\r\n\r\n", [431]),
    "a target too long": (b"GET /" + b"y" * HEADER_BYTES + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", [414]),
    "an expectation that is not known": (POST + b"Expect: wonders\r\nContent-Length: 1\r\n\r\nx", [417]),
    # bodies
    "a size that is no number": (POST + b"Content-Length: five\r\n\r\nhello" + NEXT, [400]),
    "a size with a sign": (POST + b"Content-Length: +5\r\n\r\nhello" + NEXT, [400]),
    "a size below zero": (POST + b"Content-Length: -1\r\n\r\n" + NEXT, [400]),
    "a size in hex": (POST + b"Content-Length: 0x5\r\n\r\nhello" + NEXT, [400]),
    "an empty size": (POST + b"Content-Length: \r\n\r\n" + NEXT, [400]),
    "two sizes": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello" + NEXT, [400]),
    "one size twice": (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello" + NEXT, [400]),
    "a list of sizes": (POST + b"Content-Length: 5, 5\r\n\r\nhello" + NEXT, [400]),
    "a size and chunks": (POST + b"Content-Length: 5\r\n" + CHUNKS + b"0\r\n\r\n" + NEXT, [400]),
    "chunks and a size": (POST + CHUNKS[:-2] + b"Content-Length: 5\r\n\r\n0\r\n\r\n" + NEXT, [400]),
    "chunked twice": (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + NEXT, [400]),
    "chunked on two lines": (POST + b"Transfer-Encoding: chunked\r\n" + CHUNKS + b"0\r\n\r\n" + NEXT, [400]),
    "a coding that is empty": (POST + b"Transfer-Encoding:\r\n\r\n" + NEXT, [400]),
    "chunked with a parameter": (POST + b"Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n" + NEXT, [400]),
    "gzip": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + NEXT, [501]),
    "identity": (POST + b"Transfer-Encoding: identity\r\n\r\n" + NEXT, [501]),
    "xchunked": (POST + b"Transfer-Encoding: xchunked\r\n\r\n" + NEXT, [501]),
    "chunked behind a control character": (
        POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + NEXT,
        [400],
    ),
    "chunks in HTTP/1.0": (POST.replace(b"/1.1", b"/1.0") + CHUNKS + b"0\r\n\r\n", [400]),
    "a chunk without a size": (POST + CHUNKS + b"\r\nhello\r\n0\r\n\r\n", [400]),
    "a chunk's size with a prefix": (POST + CHUNKS + b"0x5\r\nhello\r\n0\r\n\r\n", [400]),
    "a chunk's size with a sign": (POST + CHUNKS + b"+5\r\nhello\r\n0\r\n\r\n", [400]),
    "a chunk's size and a space": (POST + CHUNKS + b"5 \r\nhello\r\n0\r\n\r\n", [400]),
    "a chunk's size of 17 digits": (POST + CHUNKS + b"00000000000000005\r\nhello\r\n0\r\n\r\n", [400]),
    "a chunk's size that ends with LF": (POST + CHUNKS + b"5\nhello\r\n0\r\n\r\n", [400]),
    "a chunk longer than its size": (POST + CHUNKS + b"5\r\nhello!\r\n0\r\n\r\n", [400]),
    "a chunk shorter than its size": (POST + CHUNKS + b"5\r\nhell\r\n0\r\n\r\n", [400]),
    "a CR in an extension": (POST + CHUNKS + b"5;a\rb\r\nhello\r\n0\r\n\r\n", [400]),
    "an extension too long": (POST + CHUNKS + b"5;" + b"a" * 2000 + b"\r\nhello\r\n0\r\n\r\n", [400]),
    "extensions too long": (POST + CHUNKS + (b"1;" + b"a" * 1000 + b"\r\nx\r\n") * 17 + b"0\r\n\r\n", [400]),
    "trailers that are none": (POST + CHUNKS + b"0\r\nnothing\r\n\r\n", [400]),
    "trailers that end with LF": (POST + CHUNKS + b"0\r\na: b\n\r\n", [400]),
    "trailers too long": (POST + CHUNKS + b"0\r\n" + b"a: b\r\n" * (HEADER_BYTES // 6 + 1) + b"\r\n", [431]),
    # bodies that end early: the client ends its side
    "a body that is cut": (POST + b"Content-Length: 5\r\n\r\nhell", [400]),
    "chunks that are cut": (POST + CHUNKS + b"5\r\nhello\r\n0\r\n", [400]),
    "a head that is cut": (GET + b"X: y", [400]),
    "a head that is cut, behind a request": (GET + b"\r\n" + GET, [200, 400]),
}
LONG = 4000  # bytes, from which on they are not sent one by one


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    door = Door(tmp_path_factory.mktemp("door") / "data")
    yield door
    door.close()


def answers(client: Client, expected: list[Any]) -> list[Any]:
    """What is answered, in the form of `expected`, and then the end of the connection."""
    found: list[Any] = []
    for each in expected:
        bodiless = each == "200 without a body"
        answer = client.answer(bodiless=bodiless)
        if bodiless:
            found.append(f"{answer.status} without a body")
        elif isinstance(each, tuple):
            found.append(
                (answer.status, json.loads(answer.body).get("size") if answer.status == 200 else answer.body)
            )
        else:
            found.append(answer.status)
    if found[-1] != 101 and not client.ended():
        found.append("more")
    return found


@pytest.mark.parametrize("way", ["at once", "byte by byte", "in pieces", "in other pieces"])
@pytest.mark.parametrize("name", CASES)
def test_a_request_has_one_answer_however_it_arrives(door: Door, name: str, way: str) -> None:
    """All that it is answered, in order, whether it comes as one segment or as
    many; the client ends its side behind it.
    """
    data, expected = CASES[name]
    data = data.replace(b"%b", f"{list(CASES).index(name)}{way[-3]}".encode())
    with Client(door.port) as client:
        try:
            for piece in pieces_of(data, way):
                client.send(piece)
            if expected != [101]:
                client.end()
        except OSError:
            pass  # it has been refused, or answered and closed, already
        assert answers(client, expected) == expected


def pieces_of(data: bytes, way: str) -> list[bytes]:
    if way == "at once":
        return [data]
    random = Random(f"{way}{len(data)}")
    if way == "byte by byte" and len(data) <= LONG:
        cuts = list(range(1, len(data)))
    else:
        cuts = sorted(random.sample(range(1, len(data)), min(len(data) - 1, random.randint(1, 12))))
    return [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def test_nothing_of_a_refused_body_is_run(door: Door) -> None:
    """What is refused on its way has had no turn; what was offered another protocol has had one."""
    for data, count in (
        (POST + H2C + b"Content-Length: 2\r\n\r\nhi" + NEXT, 1),
        (POST + CHUNKS + b"2\r\nhi\r\nz\r\n", 1),
        (POST + b"Content-Length: 9\r\n\r\nhi", 1),
    ):
        with Client(door.port) as client:
            client.send(data.replace(b"%b", b"counted"))
            client.end()
            assert client.read.read().startswith(b"HTTP/1.1 ")
        with Client(door.port) as client:
            assert json.loads(client.ask(b"GET /objects/Echo/counted/x").body)["count"] == count


def test_who_ends_its_side_gets_all_answers(door: Door) -> None:
    """Requests of a pipeline whose client sends nothing more, the first with a turn that takes its time."""
    door.hold()
    with Client(door.port) as client, Client(door.port) as other:
        requests = (
            b"POST /objects/Echo/half/wait",
            b"POST /objects/Echo/half/a",
            b"GET /livez",
            b"GET /none",
        )
        client.send(*(each + b" HTTP/1.1\r\nhost: x\r\n\r\n" for each in requests))
        client.end()
        assert other.ask(b"GET /livez").status == 200
        door.release()
        assert [client.answer().status for _ in requests] == [200, 200, 200, 404]
        assert client.ended()


def test_a_request_that_repeats_itself_is_bounded_and_judged_like_any_other(door: Door) -> None:
    """Known by its bytes from the third time on: a target that is too long, another
    length, a foreign page behind own ones.
    """
    with Client(door.port) as client:
        for _ in range(4):
            assert client.ask(b"POST /objects/Echo/again/x", body=b"hi").status == 200
        assert client.ask(b"POST /objects/Echo/again/" + b"x" * HEADER_BYTES, body=b"hi").status == 414
        assert client.ended()
    for foreign in (b"origin: http://evil.example", b"sec-fetch-site: cross-site"):
        with Client(door.port) as client:
            for _ in range(4):
                assert client.ask(b"POST /objects/Echo/again/x", body=b"hi").status == 200
            for _ in range(4):
                assert client.ask(b"POST /objects/Echo/again/x", foreign, body=b"hi").status == 403
            assert (
                client.ask(b"POST /objects/Echo/again/x", b"idempotency-key: a b", body=b"hi").status == 200
            )
            assert client.ask(b"POST /objects/Echo/again/x", foreign, body=b"hi").status == 403
            link = b"sec-fetch-mode: navigate"
            for _ in range(3):
                assert (
                    client.ask(b"GET /objects/Echo/again/x", b"sec-fetch-site: cross-site", link).status
                    == 200
                )
            assert (
                client.ask(b"POST /objects/Echo/again/x", b"sec-fetch-site: cross-site", link).status == 403
            )


def test_one_path_has_one_spelling(door: Door) -> None:
    """Only an object's name is decoded, once; perdure's own words are not, and
    nothing is left out or folded.
    """
    spelled = {
        b"/objects/Echo/a%20b/x": 200,
        b"/objects/Echo/%61/x": 200,
        b"/objects/Echo/%C3%A4": 200,
        b"/objects/Echo/a/": 200,
        b"/objects/Echo/a//x": 200,
        b"/objects/Echo/a/../b": 200,
        b"/objects/Echo/a+b": 200,
        b"/objects/Echo/%ff": 400,
        b"/objects/Echo/%C0%AF": 400,
        b"/objects/Echo/a%2Fb": 400,
        b"/objects/Echo/e%CC%81": 400,
        b"/objects/Echo/..": 400,
        b"/objects/Echo//x": 400,
        b"/objects/%45cho/a": 400,
        b"/objects/echo/a": 404,
        b"/objects//Echo/a": 400,
        b"/%6fbjects/Echo/a": 404,
        b"/Objects/Echo/a": 404,
        b"//objects/Echo/a": 404,
        b"/objects/../livez": 400,
        b"/livez": 200,
        b"/livez?x": 200,
        b"/livez/": 404,
        b"//livez": 404,
        b"/%6civez": 404,
        b"/./livez": 404,
        b"/Livez": 404,
        b"/admin/objects/Echo/a%20b": 200,
        b"/admin/objects/Echo/%61": 200,
        b"/admin/objects/Echo/%ff": 400,
        b"/admin//objects/Echo/a": 404,
        b"/admin/objects/Echo/a/": 404,
        b"/%61dmin/objects/Echo/a": 404,
    }
    with Client(door.port) as client:
        for name in (b"a b", b"a", b"a+b"):
            path = b"/objects/Echo/" + name.replace(b" ", b"%20")
            assert client.ask(b"POST " + path).status == 200
        assert {path: client.ask(b"GET " + path).status for path in spelled} == spelled
        counts = [
            json.loads(client.ask(b"GET /objects/Echo/" + name).body)["count"]
            for name in (b"%61", b"A", b"a%2Bb", b"a%20b")
        ]
        assert counts == [1, 0, 1, 1]
