"""`Prefer: respond-async` and `GET /commands/{id}` over the real server, and idempotency keys over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.integration.door import Answer, Client, Door, begun

PATIENCE_S = 30.0
LATER = b"prefer: respond-async"
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


def told(answer: Answer, status: int = 200) -> dict[str, Any]:
    assert answer.status == status, answer
    found: dict[str, Any] = json.loads(answer.body)
    return found


def look(client: Client, answer: Answer, query: bytes = b"") -> dict[str, Any]:
    return told(client.ask(b"GET " + answer.headers[b"location"] + query))


@pytest.mark.parametrize("request_", [b"POST /objects/Echo/later/x?y=1", b"GET /objects/Echo/read/x?y=1"])
def test_a_request_that_is_not_waited_for_is_found_at_its_url(client: Client, request_: bytes) -> None:
    """Also one that changes nothing: its reply is kept."""
    answer = client.ask(request_, LATER)
    begun_ = told(answer, 202)
    assert begun_["url"].encode() == answer.headers[b"location"] == b"/commands/" + begun_["id"].encode()
    assert answer.headers[b"preference-applied"] == b"respond-async"
    found = look(client, answer, b"?wait=30")
    assert (found["status"], found["outcome"], found["reply"]["status"]) == ("done", "ok", 200)
    assert found["reply"]["body"]["path"] == "/x"


def test_a_body_by_chunks_and_other_preferences_make_no_difference(client: Client) -> None:
    """The preference is one of several, in any case; the body has no length."""
    client.send(
        b"POST /objects/Echo/chunks HTTP/1.1\r\nhost: x\r\n" + CHUNKED + b"\r\n",
        b"prefer: wait=1, Respond-Async; x=1\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    )
    answer = client.answer()
    assert told(answer, 202)
    assert look(client, answer, b"?wait=30")["reply"]["body"]["size"] == 3


def test_a_call_and_its_failure(client: Client) -> None:
    """A typed error is told as its problem, with its status."""
    answer = client.ask(b"POST /rpc/Echo/call/nothing", LATER, body=b"{}")
    assert told(answer, 202)
    found = look(client, answer, b"?wait=30")
    assert (found["outcome"], found["reply"]["status"]) == ("rejected", 404)
    assert found["reply"]["body"]["type"] == "urn:perdure:problem:unknown-method"


def test_a_body_that_is_no_json_comes_in_base64(client: Client) -> None:
    """Any bytes can be told."""
    answer = client.ask(b"GET /objects/Echo/large/large/3", LATER)
    assert look(client, answer, b"?wait=30")["reply"]["base64"] == "eHh4"


def test_one_that_runs_is_pending(door: Door, client: Client) -> None:
    """At once, and `wait` sees it end."""
    door.hold()
    answer = client.ask(b"POST /objects/Echo/pending/wait", LATER)
    assert begun.wait(PATIENCE_S)
    assert look(client, answer)["status"] == "pending"
    door.release()
    assert look(client, answer, b"?wait=30")["status"] == "done"


@pytest.mark.parametrize("id_", [b"nonsense", b"0-18c00000000-node-0", b"99-18c00000000-node-0", b"0-zz-n-0"])
def test_what_is_not_found_is_unknown(client: Client, id_: bytes) -> None:
    """Whatever the id looks like; never failed."""
    assert told(client.ask(b"GET /commands/" + id_), 404)["type"] == "urn:perdure:problem:unknown-command"


def test_the_page_is_read_only_and_strict(client: Client) -> None:
    """One id, GET, and no other query than a whole number of seconds."""
    assert client.ask(b"POST /commands/x").status == 405
    assert client.ask(b"GET /commands").status == 404
    assert client.ask(b"GET /commands/x?wait=-1").status == 400
    assert client.ask(b"GET /commands/x?what=1").status == 400


def test_an_idempotency_key_over_http(door: Door, client: Client) -> None:
    """409 while in flight, then the stored reply, 422 on another payload; the same for who does not wait."""
    key = b"idempotency-key: k1"
    door.hold()
    first = client.ask(b"POST /objects/Echo/key/wait", key, LATER)
    assert begun.wait(PATIENCE_S)
    assert client.ask(b"POST /objects/Echo/key/wait", key).status == 409
    second = client.ask(b"POST /objects/Echo/key/wait", key, LATER)
    assert look(client, second, b"?wait=1")["status"] == "pending"
    door.release()
    stored = look(client, first, b"?wait=30")["reply"]["body"]
    assert told(client.ask(b"POST /objects/Echo/key/wait", key)) == stored
    assert client.ask(b"POST /objects/Echo/key/other", key).status == 422
    assert look(client, second, b"?wait=30")["reply"]["body"] == stored
    again = client.ask(b"POST /objects/Echo/key/wait", key, LATER)
    assert look(client, again, b"?wait=30")["reply"]["body"] == stored
    misused = client.ask(b"POST /objects/Echo/key/other", key, LATER)
    assert look(client, misused, b"?wait=30")["reply"]["status"] == 422
