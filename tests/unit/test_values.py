"""Values of state: what goes in comes out, equal and of the same type, or is
refused by the name of its key.
"""

from __future__ import annotations

import enum
import uuid
from collections import OrderedDict
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.schemas.errors import UnstorableValue
from perdure.schemas.values import MAX_DEPTH, decode_value, encode_value


class Colour(enum.StrEnum):
    RED = "red"


class Point(tuple[int, int]):
    pass


def unfolded(time: datetime) -> datetime:
    """`fold` is no part of what is stored: datetimes that differ in it alone are equal."""
    return time.replace(fold=0)


STRANGERS: tuple[Any, ...] = (
    object(),
    print,
    1j,
    frozenset((1,)),
    bytearray(b"x"),
    memoryview(b"x"),
    range(3),
    date(2020, 1, 1),
    timedelta(1),
    OrderedDict(a=1),
    Colour.RED,
    Point((1, 2)),
    int,
    ValueError("x"),
    iter(()),
    datetime(2020, 1, 1, tzinfo=timezone(timedelta(milliseconds=-3))),  # Python reads it back as UTC
)
OFFSETS = (
    st.timedeltas(timedelta(hours=-23), timedelta(hours=23))
    .filter(lambda offset: not offset or abs(offset) >= timedelta(seconds=1))
    .map(timezone)
)
HASHABLE: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.datetimes(timezones=st.none() | OFFSETS | st.just(UTC)).map(unfolded)
    | st.decimals(allow_nan=False)
    | st.uuids(),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    HASHABLE | st.sets(HASHABLE, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=12,
)


def typed(value: Any) -> Any:
    """A form in which 1, True and 1.0 differ."""
    kind = type(value)
    if kind in (list, tuple):
        return kind, [typed(item) for item in value]
    if kind is set:
        return kind, sorted(map(repr, map(typed, value)))
    if kind is dict:
        return kind, [(typed(key), typed(item)) for key, item in value.items()]
    return kind, repr(value)


@settings(max_examples=70, deadline=None)
@given(VALUES)
def test_every_value_comes_back_as_it_was(value: Any) -> None:
    """Equal and of the same type at every depth, and encoding it again gives the same bytes."""
    encoded = encode_value("k", value)
    back = decode_value(encoded)
    assert typed(back) == typed(value)
    assert encode_value("k", back) == encoded


@pytest.mark.parametrize(
    "value",
    [
        2**63,
        -(2**63),
        -(2**63) - 1,
        2**64 - 1,
        2**64,
        -(2**64),
        10**1000,
        -(10**1000),
        127,
        128,
        -128,
        -129,
        255,
        2**71,
    ],
)
def test_integers_of_any_size(value: int) -> None:
    """The edges of every encoding width, and far beyond."""
    assert decode_value(encode_value("k", value)) == value
    assert decode_value(encode_value("k", [value])) == [value]


def test_floats_that_equal_nothing() -> None:
    """NaN, infinities and the negative zero survive; NaN of Decimal too."""
    back = decode_value(encode_value("k", [float("nan"), float("inf"), -0.0, Decimal("NaN")]))
    assert list(map(repr, back)) == ["nan", "inf", "-0.0", "Decimal('NaN')"]


@settings(max_examples=40, deadline=None)
@given(st.sets(HASHABLE, max_size=8), st.randoms())
def test_equal_sets_have_equal_bytes(value: set[Any], random: Random) -> None:
    """A set is written in the order of its items' bytes, not of this process's hashes."""
    items = list(value)
    random.shuffle(items)
    again: set[Any] = set()
    for item in items:
        again.add(item)
    assert encode_value("k", again) == encode_value("k", value)


def test_decoding_gives_a_new_object_each_time() -> None:
    """Values are copies: changing one that came out changes nothing that is stored."""
    encoded = encode_value("k", {"a": [1]})
    decode_value(encoded)["a"].append(2)
    assert decode_value(encoded) == {"a": [1]}


@pytest.mark.parametrize(
    "value",
    STRANGERS,
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"a": (v,)}, lambda v: {1: v}])
def test_anything_else_is_refused_naming_the_key_and_the_type(value: Any, wrap: Any) -> None:
    """Subclasses too: they would not come back as what they were. It is a TypeError."""
    with pytest.raises(UnstorableValue, match=r"state\['basket'\].*" + type(value).__qualname__) as caught:
        encode_value("basket", wrap(value))
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("wrong", [object(), "\ud800"])
@pytest.mark.parametrize(
    ("wrap", "place"),
    [
        (lambda v: v, ""),
        (lambda v: {"items": [1, 2, 3, {"price": v, "b": object()}]}, "['items'][3]['price']"),
        (lambda v: (0, {7: [v]}), "[1][7][0]"),
        (lambda v: {(1, 2): v}, "[…]"),
        (lambda v: {"x" * 99: v}, "['" + "x" * 59 + "]"),
        (lambda v: [{v: 1}], "[0][a key]"),
        (lambda v: {1, v}, "[a member]"),
    ],
)
def test_where_inside_a_value_lies_what_cannot_be_stored_is_told(wrong: Any, wrap: Any, place: str) -> None:
    """The first of them, as one would write it."""
    with pytest.raises(UnstorableValue) as caught:
        encode_value("cart", wrap(wrong))
    assert str(caught.value).startswith(f"state['cart']{place}: a ")


@pytest.mark.parametrize(
    "value", ["\ud800", ["\ud800"], {"\ud800": 1}, ("\ud800",), {"\ud800"}, {1: "\ud800"}, {"a": ("\ud800",)}]
)
def test_a_lone_surrogate_is_refused_wherever_it_hides(value: Any) -> None:
    """It has no UTF-8; the error is ours and names the key."""
    with pytest.raises(UnstorableValue, match=r"state\['k'\].*surrogates"):
        encode_value("k", value)


def nested(depth: int, wrap: Any) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"a": v}, lambda v: (v,), lambda v: {1: v}])
def test_the_deepest_nesting_comes_back_and_one_more_is_refused(wrap: Any) -> None:
    """The bound is exact, so nothing is stored that could not be read again."""
    deepest = nested(MAX_DEPTH, wrap)
    assert decode_value(encode_value("k", deepest)) == deepest
    with pytest.raises(UnstorableValue, match=f"nested deeper than {MAX_DEPTH}"):
        encode_value("k", nested(MAX_DEPTH + 1, wrap))


def test_a_cycle_is_refused() -> None:
    """It is nesting without an end."""
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(UnstorableValue, match="or a cycle"):
        encode_value("k", cycle)


def test_identities_survive() -> None:
    """A UUID and a time with an odd offset, exactly."""
    value = [uuid.UUID(int=5), datetime(2024, 2, 29, 1, 2, 3, 4, timezone(timedelta(hours=5, minutes=45)))]
    back = decode_value(encode_value("k", value))
    assert back == value
    assert back[1].utcoffset() == timedelta(hours=5, minutes=45)
