"""Object keys: one canonical form or none, and the partition that Kafka's Java client would choose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.schemas.errors import BadKey
from perdure.schemas.keys import (
    MAX_NAME_BYTES,
    MAX_NAMESPACE_CHARS,
    murmur2,
    name_of,
    namespace_of,
    object_key,
    parse_key,
    partition_of,
)

VECTORS = Path(__file__).with_name("murmur2_vectors.json")  # made by Murmur2Vectors.java


def vectors() -> list[tuple[bytes, int, list[int]]]:
    return [(bytes.fromhex(key), digest, parts) for key, digest, parts in json.loads(VECTORS.read_text())]


def test_murmur2_is_that_of_the_java_client() -> None:
    """Every vector of Kafka's own code: all tail lengths, multi-byte text, bytes with the high bit set."""
    found = vectors()
    assert len(found) >= 200
    assert {len(key) % 4 for key, _, _ in found} == {0, 1, 2, 3}
    assert [murmur2(key) for key, _, _ in found] == [digest for _, digest, _ in found]


def test_partitions_are_those_of_the_java_client() -> None:
    """A key lands where a Java producer without a partitioner of its own puts it, for any count."""
    checked = 0
    for raw, _, expected in vectors():
        if raw.startswith((b"Counter/", b"Room/")):
            key = raw.decode()
            assert [partition_of(key, count) for count in (1, 7, 12, 64)] == expected
            checked += 1
    assert checked >= 100


@pytest.mark.parametrize(
    "name",
    ["alice", "a b", "...", "é", "日本語", "🚀", "a%2fb", "C:\\x", "x" * MAX_NAME_BYTES, "é" * 256, "-"],
)
def test_a_canonical_name_is_kept_as_it_is(name: str) -> None:
    """Nothing is folded or decoded, and the key read back from a record is the same key."""
    key = object_key("Counter", name)
    assert key == f"Counter/{name}"
    assert parse_key(key.encode()) == key
    assert (namespace_of(key), name_of(key)) == ("Counter", name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "is empty"),
        ("x" * (MAX_NAME_BYTES + 1), "longer than 512 bytes"),
        ("é" * 257, "longer than 512 bytes"),
        ("a\0b", "control, invisible or unassigned"),
        ("a\r\nb", "control, invisible or unassigned"),
        ("a\u200bb", "control, invisible or unassigned"),
        ("a\u202eb", "control, invisible or unassigned"),
        ("\ud800", "control, invisible or unassigned"),
        ("a\u00a0b", "control, invisible or unassigned"),
        ("../etc", "'/'"),
        ("a/b", "'/'"),
        (".", "cannot name an object"),
        ("..", "cannot name an object"),
        ("e\u0301", "NFC"),
        ("\u212b", "NFC"),
    ],
)
def test_a_name_that_is_not_canonical_is_refused_with_its_reason(name: str, reason: str) -> None:
    """Refused, never repaired; the message is printable ASCII whatever the name held."""
    with pytest.raises(BadKey, match=reason) as caught:
        object_key("Counter", name)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "namespace", ["", "1a", "_a", "a b", "a.b", "é", "a" * (MAX_NAMESPACE_CHARS + 1), "a\n"]
)
def test_a_namespace_is_an_ascii_word(namespace: str) -> None:
    """Letters, digits, '_' and '-', beginning with a letter, at most 64."""
    with pytest.raises(BadKey, match="is not a namespace"):
        object_key(namespace, "alice")


def test_the_longest_namespace_is_accepted() -> None:
    """The bound itself is inside."""
    namespace = "a" * MAX_NAMESPACE_CHARS
    assert object_key(namespace, "x") == f"{namespace}/x"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not an object"),
        (b"Counter", "not an object"),
        (b"Counter/", "is empty"),
        (b"/alice", "not a namespace"),
        (b"Counter/a/b", "'/'"),
        (b"Counter/\xff", "not UTF-8"),
        (b"Counter/\xed\xa0\x80", "not UTF-8"),
        (b"\xff" * 100_000, "not UTF-8"),
        (b"Counter/e\xcc\x81", "NFC"),
    ],
)
def test_a_record_key_that_is_no_object_is_refused(raw: bytes, reason: str) -> None:
    """The message says why and stays short, however long the key is."""
    with pytest.raises(BadKey, match=reason) as caught:
        parse_key(raw)
    assert len(str(caught.value)) < 500


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=40) | st.text(max_size=20).map(lambda t: b"Counter/" + t.encode("utf-8", "replace"))
)
def test_bytes_are_a_key_in_one_form_or_refused(raw: bytes) -> None:
    """What is accepted encodes to the very bytes that came in, so different bytes are different objects."""
    try:
        key = parse_key(raw)
    except BadKey:
        return
    assert key.encode() == raw
    assert object_key(namespace_of(key), name_of(key)) == key
