"""Requests for objects as bytes on a connection: each gets its response, in order, and nothing else does."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.integration.door import BODY_BYTES, HEADER_BYTES, Answer, Client, Door, asking, begun, chunked

PATIENCE_S = 30.0
CHUNKED = b"transfer-encoding: chunked"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    door = Door(tmp_path_factory.mktemp("door") / "data")
    yield door
    door.close()


@pytest.fixture
def client(door: Door) -> Iterator[Client]:
    with Client(door.port) as client:
        yield client


def path_of(answer: Answer) -> str:
    path: str = json.loads(answer.body)["path"]
    return path


def kind_of(answer: Answer) -> str:
    """The kind of a problem."""
    assert answer.headers[b"content-type"] == b"application/problem+json", answer
    kind: str = json.loads(answer.body)["type"]
    return kind.rpartition(":")[2]


def goes_on(client: Client) -> bool:
    """Can the connection be used?"""
    return client.ask(b"GET /objects/Echo/other/x").status == 200


# Order


def test_pipelined_requests_are_answered_in_their_order(door: Door, client: Client) -> None:
    """The first one's turn takes longest, and its response still comes first."""
    door.hold()
    paths = [b"/wait", *(b"/p%d" % n for n in range(20))]
    client.send(*(asking(b"POST /objects/Echo/order%d%b" % (n, path)) for n, path in enumerate(paths)))
    assert begun.wait(PATIENCE_S)
    with Client(door.port) as other:
        assert goes_on(other)
    door.release()
    assert [path_of(client.answer()).encode() for _ in paths] == paths


def test_objects_and_pages_in_one_pipeline_keep_their_order(client: Client) -> None:
    """What goes straight and what goes by ASGI do not overtake each other."""
    targets = (
        b"/livez",
        b"/objects/Echo/mix/a",
        b"/metrics",
        b"/objects/Nope/a/x",
        b"/none",
        b"/objects/Echo/mix/b",
    )
    client.send(*(asking(b"GET " + target) for target in targets * 3))
    for _ in range(3):
        assert client.answer().body == b'{"status":"alive"}'
        assert path_of(client.answer()) == "/a"
        assert client.answer().headers[b"content-type"].startswith(b"text/plain; version=0.0.4")
        assert kind_of(client.answer()) == "unknown-namespace"
        assert kind_of(client.answer()) == "no-such-path"
        assert path_of(client.answer()) == "/b"


def test_a_pipeline_of_refusals_keeps_its_order(client: Client) -> None:
    """Requests that are refused at once, between such that are not."""
    client.send(*(asking(b"POST /objects/%b/r/x" % name) for name in (b"Nope", b"Echo", b"Nope", b"Echo")))
    assert [client.answer().status for _ in range(4)] == [404, 200, 404, 200]


def test_requests_that_repeat_their_headers_are_told_apart(door: Door, client: Client) -> None:
    """Each by its method, target and body; and so is what comes between them and
    differs in headers, length or cut.
    """

    def plain(times: int) -> None:
        for n in range(times):
            client.send(asking(b"POST /objects/Echo/again/p%d?q" % n, body=b"%05d" % n))
            told = json.loads(client.answer().body)
            assert (told["path"], told["size"], told["sum"]) == (f"/p{n}", 5, sum(b"%05d" % n))

    plain(5)
    client.send(asking(b"POST /objects/Echo/again/longer", body=b"123456"))
    assert json.loads(client.answer().body)["size"] == 6
    plain(1)
    assert client.ask(b"HEAD /objects/Echo/head/large/1000", bodiless=True).status == 200
    plain(3)
    client.send(*(asking(b"POST /objects/Echo/again%d/p%d" % (n, n), body=b"abcde") for n in range(3)))
    assert [path_of(client.answer()) for _ in range(3)] == ["/p0", "/p1", "/p2"]
    plain(1)
    whole = asking(b"POST /objects/Echo/again/cut", body=b"abcde")
    client.send(whole[:-2])
    with Client(door.port) as other:
        assert goes_on(other)  # the server has had a look at what was sent before
    client.send(whole[-2:])
    assert path_of(client.answer()) == "/cut"
    plain(1)
    assert client.ask(b"POST /objects/Nope/again/x", body=b"abcde").status == 404
    client.send(asking(b"POST /objects/Echo/again/last", b"connection: close", body=b"abcde"))
    assert path_of(client.answer()) == "/last"
    assert client.ended()


# Bodies


def test_a_body_in_several_segments_is_whole(door: Door, client: Client) -> None:
    """The pieces are put together, whether its size was told or not; the server reads each on its own."""
    pieces = [b"a" * 3, b"b", b"c" * 70_000, b"d"]
    whole = b"".join(pieces)
    with Client(door.port) as other:
        for header, framed in (
            (b"content-length: %d" % len(whole), pieces),
            (CHUNKED, [*(chunked(each, end=False) for each in pieces), chunked()]),
        ):
            client.send(asking(b"POST /objects/Echo/body/x", header))
            for piece in framed:
                assert goes_on(other)  # the server has had a look at what was sent before
                client.send(piece)
            told = json.loads(client.answer().body)
            assert (told["size"], told["sum"]) == (len(whole), sum(whole))


def test_a_body_of_a_million_pieces_is_read_in_linear_time(client: Client) -> None:
    """Pieces of one byte, up to the limit: copied anew for each, they would take minutes."""
    client.send(asking(b"POST /objects/Echo/body/x", CHUNKED), b"1\r\na\r\n" * BODY_BYTES, chunked())
    assert json.loads(client.answer().body)["size"] == BODY_BYTES


def test_a_body_whose_size_is_too_large_is_refused_before_it_is_sent(client: Client) -> None:
    """413 in answer to the head alone; the body that comes all the same is thrown
    away, and the next one counts.
    """
    client.send(asking(b"POST /objects/Echo/large/x", b"content-length: %d" % (BODY_BYTES + 1)))
    answer = client.answer()
    assert (answer.status, kind_of(answer)) == (413, "too-large")
    client.send(b"x" * (BODY_BYTES + 1), asking(b"POST /objects/Echo/large/x"))
    assert json.loads(client.answer().body)["count"] == 1


def test_a_body_that_grows_too_large_is_refused_on_its_way(client: Client) -> None:
    """413 while chunks come; those that still come are thrown away, and the next request counts."""
    client.send(
        asking(b"POST /objects/Echo/grows/x", CHUNKED), chunked(*[b"x" * 65_536] * 16, b"x", end=False)
    )
    answer = client.answer()
    assert (answer.status, kind_of(answer)) == (413, "too-large")
    client.send(chunked(b"y" * 65_536), asking(b"POST /objects/Echo/grows/x"))
    assert json.loads(client.answer().body)["count"] == 1


def test_a_client_that_expects_to_be_told_is_told_to_continue(client: Client) -> None:
    """`Expect: 100-continue`: 100, then the body, then the answer."""
    client.send(asking(b"POST /objects/Echo/expect/x", b"expect: 100-continue", b"content-length: 3"))
    assert client.answer().status == 100
    client.send(b"abc")
    assert json.loads(client.answer().body)["size"] == 3
    assert goes_on(client)


def test_a_client_that_expects_too_much_is_told_no_and_let_go(client: Client) -> None:
    """413 without 100, and the end: whether its body comes after that nobody can know."""
    size = b"content-length: %d" % (BODY_BYTES + 1)
    answer = client.ask(b"POST /objects/Echo/expect/x", b"expect: 100-continue", size)
    assert (answer.status, kind_of(answer)) == (413, "too-large")
    assert answer.headers[b"connection"] == b"close"
    assert client.ended()


def test_trailers_are_no_headers(client: Client) -> None:
    """A key in a trailer is none; and a request with that key in its head is not taken for the one before."""
    key = b"idempotency-key: k"
    body, trailer = chunked(b"x", end=False), b"0\r\n" + key + b"\r\n\r\n"
    counts = []
    for head, end in ((), trailer), ((key,), b"0\r\n\r\n"), ((key,), b"0\r\n\r\n"):
        client.send(asking(b"POST /objects/Echo/trailer/x", CHUNKED, *head), body, end)
        counts.append(json.loads(client.answer().body)["count"])
    assert counts == [1, 2, 2]


def test_trailers_without_end_are_refused(door: Door, client: Client) -> None:
    """They must fit the limit of a head: 431, and the end."""
    client.send(asking(b"POST /objects/Echo/trailer/x", CHUNKED), b"1\r\nx\r\n0\r\nx: ")
    with Client(door.port) as other:
        assert goes_on(other)  # that was a read of its own
    client.send(b"y" * (HEADER_BYTES + 1))
    answer = client.answer()
    assert (answer.status, answer.headers[b"connection"]) == (431, b"close")
    assert client.ended()


# Responses


def test_a_head_request_gets_the_head_alone(client: Client) -> None:
    """The size of the body is told, the body is not sent, and the next response stands right behind."""
    answer = client.ask(b"HEAD /objects/Echo/head/large/1000", bodiless=True)
    assert (answer.status, answer.headers[b"content-length"]) == (200, b"1000")
    assert goes_on(client)


@pytest.mark.parametrize("status", [b"204", b"304"])
def test_a_response_without_a_body_tells_no_size(client: Client, status: bytes) -> None:
    """Neither size nor body for 204 and 304, and the next response stands right behind."""
    answer = client.ask(b"GET /objects/Echo/status/status/" + status)
    assert b"%d" % answer.status == status
    assert b"content-length" not in answer.headers
    assert b"perdure-command" in answer.headers
    assert goes_on(client)


def test_a_client_that_wants_to_close_is_told_and_closed(client: Client) -> None:
    """`Connection: close` is answered in kind, and what comes after it is not looked at."""
    client.send(
        asking(b"POST /objects/Echo/close/x", b"connection: close"), asking(b"POST /objects/Echo/close/x")
    )
    answer = client.answer()
    assert (answer.status, answer.headers[b"connection"]) == (200, b"close")
    assert client.ended()


@pytest.mark.parametrize("headers", [b"", b"connection: keep-alive\r\n"], ids=["plain", "keep-alive"])
def test_http_1_0_is_answered_and_closed(client: Client, headers: bytes) -> None:
    """The old version has no connections that stay, also if it asks for one."""
    client.send(b"GET /objects/Echo/old/x HTTP/1.0\r\n" + headers + b"\r\n")
    answer = client.answer()
    assert (answer.status, answer.headers[b"connection"]) == (200, b"close")
    assert path_of(answer) == "/x"
    assert client.ended()


@pytest.mark.parametrize(
    "target", [b"http://x/objects/Echo/form/a?b=1", b"/objects/Echo/form/a#b", b"/objects/Echo/form/a?c#b"]
)
def test_other_forms_of_a_target_reach_the_object(client: Client, target: bytes) -> None:
    """Absolute, as a proxy is asked, and with a fragment, which is nobody's business."""
    answer = client.ask(b"GET " + target)
    assert (answer.status, path_of(answer)) == (200, "/a")
    assert goes_on(client)


# What is no HTTP


@pytest.mark.parametrize(
    "line",
    [
        b"NONSENSE",
        b"GET",
        b"GET /objects/Echo/a b/x HTTP/1.1",
        b"\x16\x03\x01\x02",
    ],
)
def test_a_request_line_that_is_none_is_refused(client: Client, line: bytes) -> None:
    """400, and the end."""
    client.send(line, b"\r\n\r\n")
    answer = client.answer()
    assert (answer.status, answer.headers[b"connection"]) == (400, b"close")
    assert client.ended()


def test_a_body_that_is_none_is_refused_and_not_run(door: Door, client: Client) -> None:
    """A chunk without a size: 400, the end, and no turn."""
    client.send(asking(b"POST /objects/Echo/broken/x", CHUNKED), chunked(b"x", end=False), b"no size\r\n")
    assert client.answer().status == 400
    assert client.ended()
    with Client(door.port) as other:
        assert json.loads(other.ask(b"GET /objects/Echo/broken/x").body)["count"] == 0


def test_a_head_is_not_charged_for_what_was_sent_before_it(door: Door, client: Client) -> None:
    """Many requests and a body in one read, longer than a head may be, and the
    beginning of one more: all are fine.
    """
    body, pieces = b"x" * (HEADER_BYTES + 1), chunked(*[b"y" * 1000] * 20, end=False)
    for before in (
        asking(b"POST /objects/Echo/one/x", body=body),
        asking(b"POST /objects/Echo/one/x", b"x: y") * 900,
    ):
        client.send(before, b"GET /objects/Echo/one")
        with Client(door.port) as other:
            assert goes_on(other)
        client.send(b"/end HTTP/1.1\r\nhost: x\r\n\r\n")
        while path_of(client.answer()) != "/end":
            pass
    client.send(asking(b"POST /objects/Echo/one/x", CHUNKED), pieces, b"1\r\n")
    with Client(door.port) as other:
        assert goes_on(other)
    client.send(b"z\r\n", chunked())
    assert json.loads(client.answer().body)["size"] == 20_001


@pytest.mark.parametrize(
    ("nonsense", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * (HEADER_BYTES + 1), 431),
        (asking(b"POST /objects/Echo/never/x", CHUNKED) + b"no size\r\n", 400),
    ],
    ids=["no request", "endless head", "no body"],
)
def test_nonsense_behind_requests_does_not_take_their_answers(
    door: Door, client: Client, nonsense: bytes, status: int
) -> None:
    """A refusal in place of an answer would say that nothing was done: it comes
    behind, once, and then the end.
    """
    door.hold()
    client.send(asking(b"POST /objects/Echo/behind/wait"), asking(b"GET /livez"), nonsense)
    assert begun.wait(PATIENCE_S)
    with Client(door.port) as other:
        assert goes_on(other)
    door.release()
    assert path_of(client.answer()) == "/wait"
    assert client.answer().body == b'{"status":"alive"}'
    assert client.answer().status == status
    assert client.ended()
