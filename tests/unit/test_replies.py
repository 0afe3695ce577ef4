"""Replies as records: read back the same, and anything else on the topic is no reply."""

from __future__ import annotations

import contextlib
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.schemas.replies import (
    FAILED,
    OK,
    REFUSED,
    REJECTED,
    UNAVAILABLE,
    AnsweredCommand,
    ErrorInfo,
    Reply,
    error_reply,
    parse_reply,
    reply_record,
)

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
NAMES = st.text(string.ascii_lowercase + "-", max_size=8)
DETAIL = st.none() | st.integers() | TEXT | st.dictionaries(TEXT, st.lists(st.integers(-9, 9)), max_size=2)
SUCCESSES = st.builds(
    Reply,
    st.just(OK),
    st.integers(200, 599),
    st.lists(st.tuples(NAMES, st.text(st.characters(codec="latin-1"), max_size=9)), max_size=3).map(tuple),
    st.binary(max_size=30),
)
ERRORS = st.builds(error_reply, st.sampled_from((REFUSED, FAILED, UNAVAILABLE, REJECTED)), TEXT, TEXT, DETAIL)


@settings(max_examples=60, deadline=None)
@given(SUCCESSES | ERRORS, TEXT, TEXT)
def test_a_reply_read_back_is_the_reply_that_was_written(
    reply: Reply, correlation: str, message: str
) -> None:
    """Success to the byte, an error with code, message and detail, and whose answer it is."""
    key, value, headers = reply_record(reply, b"gateway.a", message, correlation, "3:17")
    assert key == b"gateway.a"
    assert parse_reply(value, headers) == AnsweredCommand(message, correlation, "3:17", reply)


def test_an_error_is_plain_json_to_outsiders() -> None:
    """`detail` is there only if the object gave one."""
    _, value, headers = reply_record(error_reply(REFUSED, "empty", "no more"), None, "3:9/0", "id", "3:1")
    assert value == b'{"error":{"code":"empty","message":"no more"}}'
    assert dict(headers)["outcome"] == b"refused"
    assert (dict(headers)["status"], dict(headers)["error"]) == (b"409", b"empty")


GOOD = (
    ("message-id", b"1"),
    ("correlation-id", b"2"),
    ("command", b"0:1"),
    ("outcome", b"ok"),
    ("status", b"200"),
)


@pytest.mark.parametrize("missing", ["message-id", "correlation-id", "command", "outcome"])
def test_a_record_that_lacks_a_header_is_no_reply(missing: str) -> None:
    """A ValueError, by which receivers pass over it."""
    with pytest.raises(ValueError, match="not a reply record"):
        parse_reply(b"", tuple(each for each in GOOD if each[0] != missing))


@pytest.mark.parametrize("status", [b"-1", b"99", b"100", b"600", b"999"])
def test_a_status_that_no_response_has_is_no_reply(status: bytes) -> None:
    """A door could not send it, and is not to fall over it."""
    with pytest.raises(ValueError, match="its status is"):
        parse_reply(b"", (*GOOD[:-1], ("status", status)))


HEADER = st.tuples(st.sampled_from((*dict(GOOD), "http-x", "")), st.binary(max_size=6) | st.just(b"0"))


@settings(max_examples=60, deadline=None)
@given(st.none() | st.binary(max_size=20) | st.sampled_from((b"{}", b"[]", b'{"error":1}')), st.lists(HEADER))
def test_anything_on_the_topic_is_a_reply_or_a_value_error(
    value: bytes | None, headers: list[tuple[str, bytes]]
) -> None:
    """Anybody may write to it; a receiver meets one kind of error."""
    with contextlib.suppress(ValueError):
        reply = parse_reply(value, (*GOOD, *headers))
        assert isinstance(reply, AnsweredCommand)


def test_an_error_and_its_infos_are_values() -> None:
    """Equal replies are equal, so stored and fresh answers can be compared."""
    assert error_reply(FAILED, "a", "b", [1]) == Reply(FAILED, error=ErrorInfo("a", "b", [1]))
