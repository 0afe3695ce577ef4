"""Rings of calls over several nodes, by what heartbeats say: found if they are there, and only then."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perdure.streams.placement.beats import Beat
from perdure.streams.placement.rings import Rings, rings_of
from perdure.streams.turns.pending_calls import LongWait

NAMES = st.sampled_from("abcdef")


def wait(caller: str, callee: str) -> LongWait:
    return LongWait(caller, callee, f"{caller}-{callee}")


def beat(member: str, *waits: LongWait) -> Beat:
    return Beat(member, member, "host", 1, member, 1, waits=list(waits))


def _reaches_itself(name: str, edges: set[tuple[str, str]]) -> bool:
    reached, todo = set[str](), [name]
    while todo:
        at = todo.pop()
        for one, other in edges:
            if one == at and other not in reached:
                reached.add(other)
                todo.append(other)
    return name in reached


@given(st.sets(st.tuples(NAMES, NAMES), max_size=12))
def test_a_ring_is_found_exactly_where_an_object_waits_for_itself(edges: set[tuple[str, str]]) -> None:
    """Each ring that is found is one, and there is one if any object reaches itself."""
    rings = rings_of(wait(*edge) for edge in sorted(edges))
    for ring in rings:
        for one, following in zip(ring, (*ring[1:], ring[0]), strict=True):
            assert one.callee == following.caller
    assert bool(rings) == any(_reaches_itself(name, edges) for name in "abcdef")


def test_a_ring_is_broken_only_once_each_member_has_said_it_twice() -> None:
    """The first time may be the end of one wait and the beginning of another, which never met."""
    broken: list[LongWait] = []
    rings = Rings(lambda wait, text: broken.append(wait))
    one, other = beat("m", wait("a", "b")), beat("n", wait("b", "a"))
    rings.look([one, other], {"m": 1, "n": 1})
    rings.look([one, other], {"m": 2, "n": 1})
    assert not broken
    rings.look([one, beat("n")], {"m": 3, "n": 2})
    rings.look([one, other], {"m": 3, "n": 3})
    assert not broken, "it was gone in between"
    rings.look([one, other], {"m": 4, "n": 4})
    assert broken == [wait("b", "a")]


def test_a_ring_inside_one_node_is_left_to_it() -> None:
    """There it is found sooner, and with the turns themselves at hand."""
    broken: list[LongWait] = []
    rings = Rings(lambda wait, text: broken.append(wait))
    for count in range(5):
        rings.look([beat("m", wait("a", "b"), wait("b", "a"))], {"m": count})
    assert not broken
