"""Commands on the log: written and read back the same, and whatever else comes is refused in one way."""

from __future__ import annotations

import asyncio
import json
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from perdure.api.door.http import HttpDoor
from perdure.schemas.commands import (
    ALARM,
    CALL,
    FETCH,
    MAX_CLIENT_KEY_CHARS,
    NEVER_LOGGED,
    SOCKET,
    Command,
    Headers,
    call_body,
    check_client_key,
    command_record,
    parse_call,
    parse_command,
    parse_json,
    payload_hash,
    record_hash,
    sealed_record,
)
from perdure.schemas.errors import BadKey, MalformedCommand
from perdure.schemas.seal import Seal

WORD = st.text(st.characters(codec="utf-8"), max_size=12)
LATIN = st.text(st.characters(codec="latin-1"), max_size=12)
KEYS = st.sampled_from(("Counter/alice", "Room/日本語", "A/é 🚀"))
ENVELOPE = {
    "id": WORD,
    "reply_to": WORD,
    "deadline_ms": st.none() | st.integers(0, 10**12 - 1),
    "client_key": st.none()
    | st.text(string.ascii_letters + "é-/:", min_size=1, max_size=MAX_CLIENT_KEY_CHARS),
    "traceparent": WORD,
}
FETCHES = st.builds(
    Command,
    key=KEYS,
    kind=st.just(FETCH),
    method=WORD,
    path=WORD,
    headers=st.lists(st.tuples(st.text(string.ascii_lowercase + "-", max_size=9), LATIN), max_size=4).map(
        tuple
    ),
    body=st.binary(max_size=30),
    **ENVELOPE,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(FETCHES)
def test_a_fetch_read_back_is_the_command_that_was_written(command: Command) -> None:
    """Every field survives the record, in order, to the byte."""
    assert parse_command(*command_record(command)) == command


@settings(max_examples=100, deadline=None)
@given(
    WORD, st.lists(JSON, max_size=3), st.dictionaries(WORD, JSON, max_size=3), st.fixed_dictionaries(ENVELOPE)
)
def test_a_call_read_back_is_the_command_that_was_written(
    method: str, args: list[object], kwargs: dict[str, object], envelope: dict[str, object]
) -> None:
    """The method is in the body, and stands in the command; arguments come back as they were given."""
    body = call_body(method, args, kwargs)
    command = Command("Counter/alice", CALL, method, body=body, **envelope)  # type: ignore[arg-type]  # drawn by name
    assert parse_command(*command_record(command)) == command
    assert parse_call(body) == (method, args, kwargs)


@settings(max_examples=60, deadline=None)
@given(
    FETCHES,
    st.sampled_from(((ALARM, "default", ""), (SOCKET, "message", "s1"), (FETCH, "GET", "/"))),
    st.lists(KEYS, min_size=1, max_size=3),
    st.integers(0, 10**12),
)
def test_what_only_perdure_sends_is_read_back_under_its_seal_alone(
    fetch: Command, kind: tuple[str, str, str], chain: list[str], mark: int
) -> None:
    """Sealed it survives the record; with another seal, without one, or changed afterwards it is refused."""
    seal = Seal("ours")
    named, method, path = kind
    headers = () if named == ALARM else fetch.headers
    command = structs.replace(
        fetch,
        kind=named,
        method=method,
        path=path,
        headers=headers,
        chain=tuple(chain),
        mark=mark,
        hint="weur" * (mark % 2),
    )
    key, value, written = sealed_record(command, seal)
    assert parse_command(key, value, written, seal) == command
    for forged in (
        (key, value, written, Seal("theirs")),
        (key, value, written, None),
        (key, value, written[:-1], seal),
        (key, value + b"!", written, seal),
        (key, value, (*written, ("extra", b"")), seal),
    ):
        with pytest.raises(MalformedCommand, match="only perdure itself may send"):
            parse_command(*forged)


def test_nobody_else_can_say_where_an_object_is_to_live() -> None:
    """A hint counts under the seal alone, even if the record says nothing else that only perdure may."""
    key, value, written = sealed_record(
        Command("Counter/alice", FETCH, "GET", "/", hint="weur"), Seal("ours")
    )
    assert parse_command(key, value, written, Seal("ours")).hint == "weur"
    with pytest.raises(MalformedCommand, match="a principal or a hint"):
        parse_command(key, value, written[:-1], Seal("ours"))


def test_a_record_without_headers_is_a_call() -> None:
    """What any Kafka producer can write: a key and JSON."""
    command = parse_command(b"Counter/alice", b'{"method": "increment", "args": [2]}', ())
    assert (command.kind, command.method, command.key) == (CALL, "increment", "Counter/alice")
    assert parse_call(command.body) == ("increment", [2], {})
    assert (command.deadline_ms, command.reply_to, command.client_key) == (None, "", None)


HEADER_NAMES = st.sampled_from(
    (
        "v",
        "kind",
        "seal",
        "perdure-v",
        "perdure-kind",
        "perdure-principal",
        "perdure-method",
        "perdure-path",
        "id",
        "reply-to",
        "deadline",
        "idempotency-key",
        "principal",
        "method",
        "path",
        "http-x",
        "",
    )
)
HEADER_VALUES = st.binary(max_size=12) | st.sampled_from((b"1", b"fetch", b"call", b"alarm", b"5", b"\xff"))
RAW_HEADERS = st.lists(st.tuples(HEADER_NAMES, HEADER_VALUES), max_size=5).map(tuple)
RAW_KEYS = st.none() | st.binary(max_size=20) | st.just(b"Counter/alice")
RAW_VALUES = (
    st.none()
    | st.binary(max_size=40)
    | st.text(r'{}[]":,\ud8001e9NaNmethodargskwargs', max_size=40).map(str.encode)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries({"method": JSON}, optional={"args": JSON, "kwargs": JSON, "x": JSON}).map(
        lambda value: json.dumps(value).encode()
    )
)


@settings(max_examples=200, deadline=None)
@given(RAW_KEYS, RAW_VALUES, RAW_HEADERS)
def test_any_record_is_a_command_or_refused(key: bytes | None, value: bytes | None, headers: Headers) -> None:
    """`MalformedCommand` or `BadKey`, nothing else; what is accepted can be encoded wherever it goes."""
    try:
        command = parse_command(key, value, headers)
    except (MalformedCommand, BadKey) as error:
        str(error).encode()  # it goes into the journal
        return
    assert parse_command(*command_record(command)) == command
    assert len(payload_hash(command)) == len(record_hash(key, value, headers)) == 16


CALLED = b'{"method": "m"}'


@pytest.mark.parametrize(
    ("key", "value", "headers", "reason"),
    [
        (None, CALLED, (), "no key"),
        (b"Counter/a", None, (), "no value"),
        (b"Counter/a", b"", (), "not JSON"),
        (b"Counter/a", b"{", (), "not JSON"),
        (b"Counter/a", b"[]", (), "a call is a JSON object"),
        (b"Counter/a", b"{}", (), "a call is a JSON object"),
        (b"Counter/a", b'{"method": 1}', (), "a call is a JSON object"),
        (b"Counter/a", b'{"method": "m", "args": {}}', (), "JSON array"),
        (b"Counter/a", b'{"method": "m", "kwargs": []}', (), "JSON array"),
        (b"Counter/a", b'{"method": "m", "arg": []}', (), "a call has no 'arg'"),
        (b"Counter/a", b'{"method": "m", "method": "n"}', (), "names one key twice"),
        (b"Counter/a", b'{"method": "m", "args": [NaN]}', (), "NaN is not JSON"),
        (b"Counter/a", b'{"method": "m", "args": [-Infinity]}', (), "-Infinity is not JSON"),
        (b"Counter/a", b'{"method": "m", "args": ' + b"[" * 100_000, (), "nested too deeply"),
        (b"Counter/a", b'{"method": "m", "args": [' + b"9" * 5000 + b"]}", (), "not JSON"),
        (b"Counter/a", b'{"method": "\\ud800"}', (), "surrogates"),
        (b"Counter/a", b'{"method": "m", "kwargs": {"\\uDFFF": 1}}', (), "surrogates"),
        (b"Counter/a", b'{"method": "\xed\xa0\x80"}', (), "not JSON"),
        (b"Counter/a", '{"method": "m"}'.encode("utf-16"), (), "not JSON"),
        (b"Counter/a", CALLED, (("perdure-v", b"2"),), "unknown command format version b'2'"),
        (b"Counter/a", CALLED, (("perdure-kind", b"shout"),), "unknown kind of command 'shout'"),
        (b"Counter/a", CALLED, (("perdure-kind", b"alarm"),), "only perdure itself"),
        (b"Counter/a", CALLED, (("perdure-kind", b"socket"),), "only perdure itself"),
        (b"Counter/a", CALLED, (("perdure-principal", b"alice"),), "only perdure itself"),
        (b"Counter/a", CALLED, (("perdure-kind", b"\xff"),), "not UTF-8"),
        (b"Counter/a", CALLED, (("idempotency-key", b"\xff"),), "not UTF-8"),
        (b"Counter/a", CALLED, (("idempotency-key", b""),), "1 to 255 printable"),
        (b"Counter/a", CALLED, (("idempotency-key", b"a\x00"),), "1 to 255 printable"),
        (b"Counter/a", CALLED, (("idempotency-key", b"a" * 256),), "1 to 255 printable"),
    ],
)
def test_a_malformed_record_is_refused_with_its_reason(
    key: bytes | None, value: bytes | None, headers: Headers, reason: str
) -> None:
    """Each way to get a record wrong has words of its own, short ones."""
    with pytest.raises(MalformedCommand, match=reason) as caught:
        parse_command(key, value, headers)
    assert len(str(caught.value)) < 300


def test_pairs_of_surrogates_are_a_character() -> None:
    """An escape is refused only if it is half of one."""
    assert parse_json(b'["\\ud83d\\ude80", "\\u00e9", "\\\\ud800"]') == ["🚀", "é", "\\ud800"]


def test_a_client_key_is_checked_by_one_rule_at_every_door() -> None:
    """The longest is accepted as it is."""
    assert check_client_key("k" * MAX_CLIENT_KEY_CHARS) == "k" * MAX_CLIENT_KEY_CHARS


def test_credentials_are_dropped_before_a_command_is_made() -> None:
    """The HTTP door appends nothing of `NEVER_LOGGED`, and keeps the other headers."""

    class Appended(Exception):
        pass

    class Gate:
        def submit(self, *told: object) -> None:
            raise Appended(*told)

    class Known:
        def type_of(self, namespace: str) -> None:
            """Every namespace is known."""

    door = HttpDoor(Gate(), Known(), body_bytes=10, pages={})  # type: ignore[arg-type]  # the ports it asks
    sent = [(name.encode(), b"secret") for name in sorted(NEVER_LOGGED)]
    scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/objects/A/a", "query_string": b""}
    scope["headers"] = [*sent, (b"x-kept", b"1"), (b"content-length", b"0")]
    with pytest.raises(Appended) as caught:
        asyncio.run(door(scope, None, None))  # type: ignore[arg-type]  # neither is reached
    assert "secret" not in repr(caught.value.args)
    assert ("x-kept", "1") in caught.value.args[5]
    assert {"authorization", "cookie", "proxy-authorization"} == NEVER_LOGGED


def test_another_payload_has_another_hash() -> None:
    """Key, kind, method, path and body count; who asked, when and under which id do not."""
    one = Command("Counter/a", FETCH, "POST", "/x", (), b"1", "id", "local", 5, "k", "me", "t")
    for other in (
        Command("Counter/b", FETCH, "POST", "/x", (), b"1"),
        Command("Counter/a", CALL, "POST", "/x", (), b"1"),
        Command("Counter/a", FETCH, "PUT", "/x", (), b"1"),
        Command("Counter/a", FETCH, "POST", "/y", (), b"1"),
        Command("Counter/a", FETCH, "POST", "/x", (), b"2"),
    ):
        assert payload_hash(other) != payload_hash(one)
    assert payload_hash(Command("Counter/a", FETCH, "POST", "/x", (), b"1")) == payload_hash(one)


FOREIGN_NAMES = st.sampled_from(
    (
        "v",
        "kind",
        "method",
        "path",
        "principal",
        "chain",
        "mark",
        "socket",
        "hint",
        "id",
        "reply-to",
        "deadline",
        "traceparent",
        "tracestate",
        "ce_id",
        "http-x",
        "",
    )
) | st.text(max_size=9).filter(
    lambda name: name not in ("idempotency-key", "seal") and not name.startswith("perdure-")
)
FOREIGN_VALUES = st.binary(max_size=12) | st.sampled_from(
    (b"order-created", b"2", b"1", b"alarm", b"soon", b"\xff", b"x" * 5_000, b"00-1", b"Counter/b@0:1")
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(FOREIGN_NAMES, FOREIGN_VALUES), max_size=6).map(tuple))
def test_a_foreign_header_never_makes_a_command_fail(headers: Headers) -> None:
    """Whatever other systems call theirs: a call stays a call of the same method,
    by nobody, outside any chain.
    """
    if dict(headers).get("kind") == b"fetch":
        headers = tuple(header for header in headers if header[0] != "kind")
    command = parse_command(b"Counter/a", CALLED, headers)
    assert (command.key, command.kind, command.method, command.body) == ("Counter/a", CALL, "m", CALLED)
    assert not command.internal
    assert len(command.id) + len(command.reply_to) + len(command.traceparent) < 4_000
    assert parse_command(*command_record(command)) == command


@settings(max_examples=60, deadline=None)
@given(FETCHES)
def test_a_record_of_an_earlier_version_is_read(command: Command) -> None:
    """Its headers had no prefix: from a door, from a client, and under the seal."""

    def earlier(headers: Headers) -> Headers:
        return tuple((name.removeprefix("perdure-"), value) for name, value in headers)

    key, value, headers = command_record(command)
    assert parse_command(key, value, earlier(headers)) == command
    call = Command("Counter/a", CALL, "m", body=CALLED, id=command.id, reply_to=command.reply_to)
    key, value, headers = command_record(call)
    assert parse_command(key, value, earlier(headers)) == call
    for inner in (
        structs.replace(command, chain=("Counter/a@0:1",), mark=7, principal="@Counter/a"),
        Command("Counter/a", ALARM, "default", body=b"{}"),
    ):
        key, value, headers = sealed_record(inner, Seal("ours"))
        old = Seal("ours").sealed(key, value, earlier(headers[:-1]))
        assert parse_command(key, value, old, Seal("ours")) == inner
        with pytest.raises(MalformedCommand, match="only perdure itself"):
            parse_command(key, value, old, Seal("theirs"))
        unsealed = parse_command(key, CALLED, (*old[:-1], ("kind", b"call")), Seal("ours"))
        assert not unsealed.internal, "without a seal these are another's headers"


def test_a_trace_context_that_is_none_is_ignored() -> None:
    """As W3C Trace Context says: bytes that are not UTF-8, or far too many of them, are no reason to fail."""
    for raw in (b"\xff\xfe", b"0" * 5_000):
        assert parse_command(b"Counter/a", CALLED, (("traceparent", raw),)).traceparent == ""
