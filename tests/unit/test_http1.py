"""The parser of requests: what it reads depends on the bytes alone, never on the
pieces, and is what another parser reads.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.api.http1.heads import Invalid
from perdure.api.http1.parser import CHUNK_LINE_MAX, RequestParser
from perdure.api.http1.status_lines import STATUS_LINES

HEAD_BYTES = 300
HOST = b"Host: x\r\n"


class Told:
    """All that the parser says, in order; pieces of a body are put together."""

    def __init__(self) -> None:
        self.parser = RequestParser(self, HEAD_BYTES)
        self.said: list[Any] = []
        self._body = b""

    def on_message_begin(self) -> None:
        self.said.append("begin")

    def on_headers_complete(self) -> None:
        self.said.append(self.parser.head)
        self._body = b""

    def on_body(self, body: bytes) -> None:
        assert body
        self._body += body

    def on_message_complete(self) -> None:
        self.said.append(self._body)

    def feed(self, *pieces: bytes) -> list[Any]:
        """What it says of these, and at the end what it refuses, or what is behind
        a request for a WebSocket.
        """
        rest: bytes | None = None
        for at, piece in enumerate(pieces):
            try:
                rest = self.parser.feed(piece)
            except Invalid as error:
                return [*self.said, (error.status, error.text)]
            if rest is not None:
                return [*self.said, rest + b"".join(pieces[at + 1 :])]
        return [*self.said, self.parser.begun]


LINES = [
    b"GET /a?b HTTP/1.1\r\n",
    b"POST /a HTTP/1.1\r\n",
    b"GET http://a.b/c HTTP/1.1\r\n",
    b"GET / HTTP/1.0\r\n",
    b"GET / HTTP/2.0\r\n",
    b"FROB / HTTP/1.1\r\n",
    b"GET / HTTP/1.1\n",
    b"GET /" + b"x" * HEAD_BYTES + b" HTTP/1.1\r\n",
]
FIELDS = [
    HOST,
    HOST,
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"X: " + b"y" * 200 + b"\r\n",
    b"X:\ty \r\n",
    b" folded\r\n",
    b"X: a\rb\r\n",
    b"X: a\nb: c\r\n",
    b"bad\r\n",
]
BODIES = [
    b"",
    b"hello",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\na: b\r\nc: d\r\n\r\n",
    b"1\r\nxy\r\n",
    b"0\r\n" + b"a: b\r\n" * 60 + b"\r\n",
    b"0\r\na\r\n\r\n",
    b"5;" + b"e" * CHUNK_LINE_MAX + b"\r\nhello\r\n0\r\n\r\n",
    b"z\r\n",
    b"\r\n",
]


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    fields = b"".join(draw(st.lists(st.sampled_from(FIELDS), max_size=4)))
    if draw(st.booleans()):
        fields = HOST + fields.replace(HOST, b"")
    return draw(st.sampled_from(LINES)) + fields + b"\r\n" + draw(st.sampled_from(BODIES))


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Some requests, right or wrong, perhaps with a byte changed, left out or added somewhere."""
    data = b"".join(draw(st.lists(messages(), min_size=1, max_size=3)))
    at = draw(st.integers(0, len(data)))
    byte = draw(st.sampled_from([b"", b"\r", b"\n", b"\0", b" ", b":", b"\r\n", b"0", b"\xff"]))
    left_out = draw(st.integers(0, 1))
    return data[:at] + byte + data[at + left_out :] if draw(st.booleans()) else data


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(set(cuts)), len(data)]
    return [data[begin:end] for begin, end in pairwise(places)]


@given(streams(), st.data())
def test_the_pieces_make_no_difference(data: bytes, draw: st.DataObject) -> None:
    """Whole, byte by byte or cut anywhere: the same requests, the same refusal."""
    whole = Told().feed(data)
    assert Told().feed(*(data[at : at + 1] for at in range(len(data)))) == whole
    cuts = draw.draw(st.lists(st.integers(0, len(data)), max_size=6))
    assert Told().feed(*pieces(data, cuts)) == whole


@given(streams())
def test_nothing_is_kept_beyond_its_bound(data: bytes) -> None:
    """Whatever comes, a byte at a time: what waits to be whole is not longer
    than a head or a chunk's line.
    """
    told = Told()
    for at in range(len(data)):
        try:
            if told.parser.feed(data[at : at + 1]) is not None:
                return
        except Invalid:
            return
        assert len(told.parser._rest) <= max(HEAD_BYTES, CHUNK_LINE_MAX)


TOKENS = st.text("abcdefXYZ-_!", min_size=1, max_size=8).filter(
    lambda name: name.lower() not in ("host", "te", "expect", "upgrade")
)
VALUES = st.text("abc ;=,/\t\xe4", max_size=12)


@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS"]),
    st.text("/abc?=&%20.;", max_size=12).map(lambda path: "/" + path),
    st.lists(st.tuples(TOKENS, VALUES), max_size=4),
    st.lists(st.binary(min_size=1, max_size=20), max_size=3),
    st.booleans(),
)
def test_it_reads_what_another_parser_reads(
    method: str, path: str, fields: list[tuple[str, str]], chunks: list[bytes], chunked: bool
) -> None:
    """Requests that are right: method, target, headers and body as h11 has them."""
    body = b"".join(chunks)
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n" + "".join(f"{n}: {v}\r\n" for n, v in fields)
    data = head.encode("latin-1")
    if chunked:
        data += b"Transfer-Encoding: chunked\r\n\r\n"
        data += b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + b"0\r\n\r\n"
    else:
        data += b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    if len(data.partition(b"\r\n\r\n")[0]) + 4 > HEAD_BYTES:
        return
    begin, told, read, begun = Told().feed(data)
    other = h11.Connection(h11.SERVER)
    other.receive_data(data)
    request = other.next_event()
    assert isinstance(request, h11.Request)
    theirs = b""
    while isinstance(event := other.next_event(), h11.Data):
        theirs += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert (told.method, told.url) == (request.method, request.target)
    assert told.headers == [(bytes(name), bytes(value)) for name, value in request.headers]
    assert (begin, read, begun) == ("begin", theirs, False)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX: %b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX:%bz\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n%b: z\r\n\r\n",
        b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["value", "spaces", "name", "target"],
)
def test_a_head_may_have_so_many_bytes_and_not_one_more(head: bytes) -> None:
    """To the byte, wherever it has them, also behind other requests of the same read."""
    filler = b" " if b"X:%b" in head else b"y"
    fits = head.replace(b"%b", filler * (HEAD_BYTES - len(head) + 2))
    longer = head.replace(b"%b", filler * (HEAD_BYTES - len(head) + 3))
    for before in (b"", fits * 2):
        assert Told().feed(before + fits)[-1] is False
        assert Told().feed(before + longer)[-1][0] == 431


def test_headers_that_take_the_worst_time_take_little() -> None:
    """Runs of spaces, colons and tokens that end in what is wrong: read in linear
    time (this test has a time-out).
    """
    size = 1 << 20
    for name, filler, end in (
        (b"X", b" ", b"\0"),
        (b"X", b" \t", b"\x7f"),
        (b"x" * size, b"", b"\0"),
        (b"", b":", b"\r"),
    ):
        parser = RequestParser(Told(), 4 * size)
        with pytest.raises(Invalid):
            parser.feed(b"GET / HTTP/1.1\r\nHost: x\r\n" + name + b":" + filler * size + end + b"\r\n\r\n")


def test_what_comes_after_an_end_is_not_read() -> None:
    """Behind a request that closes, behind one that is refused, and when the receiver has had enough."""
    close = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert len(Told().feed(close + close)) == 4
    refused = Told()
    with pytest.raises(Invalid):
        refused.parser.feed(b"nonsense\r\n\r\n")
    assert refused.parser.feed(close) is None
    assert refused.said == ["begin"]

    class Enough(Told):
        def on_headers_complete(self) -> None:
            super().on_headers_complete()
            self.parser.end()

    assert Enough().feed(close * 2)[1:] == [Enough().feed(close)[1], False]


def test_each_status_has_a_line_that_another_parser_reads() -> None:
    """Those from 100 to 599, registered or not: one line that ends with CRLF, with
    the status and a reason or none.
    """
    assert [*STATUS_LINES] == [*range(100, 600)]
    for status, line in STATUS_LINES.items():
        if status < 200:
            assert line.startswith(b"HTTP/1.1 %d " % status)
            continue
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
        client.receive_data(line + b"\r\n")
        response = client.next_event()
        assert isinstance(response, h11.Response)
        assert response.status_code == status
    assert STATUS_LINES[404] == b"HTTP/1.1 404 Not Found\r\n"
    assert STATUS_LINES[599] == b"HTTP/1.1 599 \r\n"
