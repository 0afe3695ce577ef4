"""Fetch and produce requests are the same bytes that aiokafka writes and reads."""

from __future__ import annotations

from io import BytesIO
from struct import error as ShortOfBytes
from typing import Any

import pytest
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v10, FetchResponse_v11
from aiokafka.protocol.produce import ProduceRequest, ProduceRequest_v6, ProduceResponse_v7
from hypothesis import given
from hypothesis import strategies as st

from perdure.streams.log.kafka.wire import Fetch, Produce

NEW = {0: (3, 12), 1: (4, 17)}  # the versions of a broker: of produce, of fetch
OLD = {0: (0, 6), 1: (0, 10)}

int16s, int32s = st.integers(-(2**15), 2**15 - 1), st.integers(-(2**31), 2**31 - 1)
int64s, names = (
    st.integers(-(2**63), 2**63 - 1),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
)


def lists(*fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(st.tuples(*fields), max_size=4)


to_fetch = lists(names, lists(int32s, int64s, int32s))
to_produce = lists(names, lists(int32s, st.binary(max_size=20)))
fetched_places = lists(
    *(int32s, int16s, int64s, int64s, int64s),
    *(st.none() | lists(int64s, int64s), int32s, st.none() | st.binary(max_size=20)),
)
fetched = st.builds(FetchResponse_v11, int32s, int16s, int32s, lists(names, fetched_places))
produced = st.builds(ProduceResponse_v7, lists(names, lists(int32s, int16s, int64s, int64s, int64s)), int32s)


@given(int32s, to_fetch)
def test_a_fetch_request_is_aiokafkas(wait_ms: int, topics: Any) -> None:
    """Byte for byte."""
    ours, theirs = (made(wait_ms, 1, 1 << 20, 1, topics).prepare(NEW) for made in (Fetch, FetchRequest))
    assert ours.API_VERSION == theirs.API_VERSION == 11
    assert ours.encode() == theirs.encode()


@given(int16s, int32s, to_produce)
def test_a_produce_request_is_aiokafkas(acks: int, timeout_ms: int, topics: Any) -> None:
    """Byte for byte."""
    asked = ProduceRequest(None, acks, timeout_ms, topics)
    ours, theirs = Produce.of(asked).prepare(NEW), asked.prepare(NEW)
    assert ours.API_VERSION == theirs.API_VERSION == 7
    assert ours.encode() == theirs.encode()


@given(fetched | produced, st.binary(max_size=5), st.data())
def test_an_answer_is_read_as_aiokafka_reads_it(answer: Any, before: bytes, data: st.DataObject) -> None:
    """The same values, from behind the header on; one that ends early is an error, not another answer."""
    asked = Fetch(0, 0, 0, 0, []) if isinstance(answer, FetchResponse_v11) else Produce(None, 0, 0, [])
    read = type(asked.prepare(NEW)).RESPONSE_TYPE
    encoded = answer.encode()
    buffer = BytesIO(before + encoded)
    buffer.seek(len(before))
    assert read.decode(buffer) == type(answer).decode(encoded)
    with pytest.raises((ValueError, ShortOfBytes)):
        read.decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


def test_with_an_older_broker_it_is_left_to_aiokafka() -> None:
    """Which knows all versions."""
    assert type(Fetch(0, 0, 0, 1, []).prepare(OLD)) is FetchRequest_v10
    assert type(Produce(None, -1, 0, []).prepare(OLD)) is ProduceRequest_v6
