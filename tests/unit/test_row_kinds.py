"""The kinds of rows, each alone over memtables: no kind needs the tables of the others."""

from __future__ import annotations

import pytest

from perdure.schemas.effects import SocketChange, SocketRow
from perdure.schemas.journal import Entry
from perdure.schemas.replies import OK, Reply
from perdure.streams.state.claim_rows import ClaimRows
from perdure.streams.state.creator_rows import CreatorRows
from perdure.streams.state.memtables import Memtables, Values
from perdure.streams.state.socket_rows import SocketRows
from perdure.streams.store.memory import MemoryStore

NUMBER = (7).to_bytes(2, "big")


@pytest.fixture(params=["open", "frozen", "written"])
def layer(request: pytest.FixtureRequest) -> tuple[Memtables, str]:
    return Memtables(MemoryStore(), NUMBER), request.param


def reach(memtables: Memtables, where: str) -> None:
    """Have what was folded lie in the open memtable, a frozen one, or the store."""
    if where != "open":
        memtables.freeze()
    if where == "written":
        assert memtables.write_oldest()
        assert not memtables.write_oldest()


def test_a_claim_voids_the_epochs_before_it(layer: tuple[Memtables, str]) -> None:
    """From its offset on, and not below."""
    memtables, where = layer
    claims = ClaimRows(memtables, NUMBER)
    claims.fold(5)
    claims.fold(9)
    reach(memtables, where)
    assert not claims.any_between(5, 9)
    assert claims.any_between(5, 10)


def test_the_count_of_a_creator_is_the_number_of_its_objects(layer: tuple[Memtables, str]) -> None:
    """Also when an object is created by another principal, and when a namespace goes."""
    memtables, where = layer
    creators = CreatorRows(memtables, NUMBER)
    for key in ("A/a", "A/b", "AB/c"):
        creators.created(key, "me")
    creators.created("A/b", "you")
    reach(memtables, where)
    assert dict(creators.counts()) == {"me": 2, "you": 1}
    for _ in creators.remove_namespace("A"):
        reach(memtables, where)
    assert (creators.of("A/a"), creators.of("AB/c")) == (None, "me")
    assert dict(creators.counts()) == {"me": 1}


def test_sockets_are_listed_from_after_a_place_on(layer: tuple[Memtables, str]) -> None:
    """In order, without those that are gone."""
    memtables, where = layer
    sockets = SocketRows(memtables, NUMBER)
    for key, id_, gateway in (("A/a", "1", "g"), ("A/a", "2", "g"), ("A/b", "1", "g"), ("A/a", "2", "")):
        sockets.fold(Entry(0, key, 0, OK, Reply(OK), sockets=(SocketChange(id_, gateway),)))
    reach(memtables, where)
    assert sockets.of("A/a") == {"1": SocketRow("g")}
    assert [(key, id_) for key, id_, _ in sockets.all()] == [("A/a", "1"), ("A/b", "1")]
    assert [(key, id_) for key, id_, _ in sockets.all(("A/a", "1"))] == [("A/b", "1")]


def test_values_of_a_cleared_object_end_at_the_memtable_that_cleared_it() -> None:
    """What is put after it is seen, with one name in each layer."""
    memtables = Memtables(MemoryStore(), NUMBER)
    values = Values(memtables, NUMBER)
    memtables.open.values["A/a"] = {"old": b"1"}
    reach(memtables, "written")
    memtables.open.cleared.add("A/a")
    memtables.open.values["A/a"] = {"new": b"2"}
    reach(memtables, "frozen")
    memtables.open.values["A/a"] = {"newer": b"3"}
    assert [values.get("A/a", name) for name in ("old", "new", "newer")] == [None, b"2", b"3"]
    assert list(values.scan("A/a", "", None)) == [("new", b"2"), ("newer", b"3")]
