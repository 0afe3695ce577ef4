"""The assignment of partitions to nodes: balance, stickiness, the fewest moves, warm successors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.streams.placement import plan as planning
from perdure.streams.placement.beats import Beat, Served
from perdure.streams.placement.plan import Assignment, plan

PARTITIONS = 12


def beat(
    name: str, serving: Sequence[int] = (), *, warm: Sequence[int] = (), leaving: bool = False, epoch: int = 7
) -> Beat:
    served = {partition: Served(epoch, 100) for partition in serving}
    return Beat(name, name, "host", 1, name, 1, served, dict.fromkeys(warm, 50), leaving)


@st.composite
def clusters(draw: Any) -> list[Beat]:
    """One to five members; each partition is served by one of them or by none, and followed by some."""
    count = draw(st.integers(1, 5))
    owners = draw(st.lists(st.integers(-1, count - 1), min_size=PARTITIONS, max_size=PARTITIONS))
    warm = [draw(st.sets(st.integers(0, PARTITIONS - 1), max_size=5)) for _ in range(count)]
    leaving = draw(st.sets(st.integers(0, count - 1), max_size=count - 1))
    return [
        beat(
            f"m{at}",
            serving := [p for p, owner in enumerate(owners) if owner == at],
            warm=sorted(warm[at] - set(serving)),
            leaving=at in leaving,
        )
        for at in range(count)
    ]


def current(beats: Sequence[Beat]) -> dict[int, str]:
    return {p: each.member for each in beats for p in each.serving}


def after(beats: Sequence[Beat], places: Sequence[Assignment]) -> list[Beat]:
    """The members once all moves are made."""
    targets = [place.successor or place.owner for place in places]
    return [
        beat(each.member, [p for p, name in enumerate(targets) if name == each.member], leaving=each.leaving)
        for each in beats
    ]


def check(beats: Sequence[Beat], standbys: int = 0) -> None:
    """The laws of `plan`."""
    places = plan(beats, PARTITIONS, standbys)
    assert places == plan(beats[::-1], PARTITIONS, standbys), "in whichever order the members were met"
    staying = [each.member for each in beats if not each.leaving]
    serving = current(beats)
    followed = {each.member: set(each.warm) for each in beats}
    for partition, place in enumerate(places):
        if partition in serving:
            assert place.owner == serving[partition], "what is served stays until it is handed over"
        else:
            assert place.owner in staying
            if any(partition in followed[name] for name in staying):
                assert partition in followed[place.owner], "the member with a warm store goes first"
        target = place.successor or place.owner
        assert target in staying
        assert place.successor != place.owner
        assert target not in place.standbys
        assert set(place.standbys) <= set(staying)
        assert len(set(place.standbys)) == min(standbys, len(staying) - 1)
    targets = Counter(place.successor or place.owner for place in places)
    counts = sorted(targets[name] for name in staying)
    assert counts[-1] - counts[0] <= 1, f"it is balanced: {counts}"
    held = Counter(place.owner for place in places if place.owner in staying)
    base, extra = divmod(PARTITIONS, len(staying))
    kept = sum(min(held[name], base) for name in staying) + min(
        extra, sum(held[name] > base for name in staying)
    )
    moves = sum(place.successor is not None for place in places)
    assert moves == PARTITIONS - kept, "no more moves than balance and leaving members need"
    then = plan(after(beats, places), PARTITIONS, standbys)
    assert all(place.successor is None for place in then), "afterwards nothing moves"


@settings(max_examples=300, deadline=None)
@given(clusters(), st.integers(0, 2))
def test_assignments_are_balanced_sticky_and_move_as_little_as_needed(
    beats: list[Beat], standbys: int
) -> None:
    """For any members, whatever they serve and follow, and any of them leaving."""
    check(beats, standbys)


@settings(max_examples=100, deadline=None)
@given(clusters())
def test_a_successor_that_has_begun_to_follow_stays_the_successor(beats: list[Beat]) -> None:
    """Heartbeats that say no more than that the planned successors follow change no plan."""
    places = plan(beats, PARTITIONS)
    moving = {p: place.successor for p, place in enumerate(places) if place.successor is not None}
    settled = [
        beat(
            each.member,
            tuple(each.serving),
            warm=[p for p, to in moving.items() if to == each.member],
            leaving=each.leaving,
        )
        for each in beats
    ]
    owners = {p: place.owner for p, place in enumerate(places)}
    again = plan(settled, PARTITIONS)
    if all(p in current(beats) for p in range(PARTITIONS)):
        assert {p: place.successor for p, place in enumerate(again) if place.successor} == moving
        assert {p: place.owner for p, place in enumerate(again)} == owners


def test_the_newest_claim_says_who_serves() -> None:
    """A node that was stopped may still say that it serves what its successor has claimed."""
    stale, fresh = beat("a", range(PARTITIONS), epoch=3), beat("b", [0], epoch=9)
    assert plan([stale, fresh], PARTITIONS)[0].owner == "b"
    assert plan([fresh, stale], PARTITIONS)[0].owner == "b"


def test_a_partition_that_has_stopped_stays_where_it_is() -> None:
    """Another node would meet the same damage; it moves only with the member that leaves."""
    broken = Beat("a", "a", "host", 1, "a", 1, {p: Served(5, 9, "damage") for p in range(PARTITIONS)})
    assert all(place == Assignment("a") for place in plan([broken, beat("b")], PARTITIONS))
    left = Beat("a", "a", "host", 1, "a", 1, broken.serving, leaving=True)
    assert all(place.successor == "b" for place in plan([left, beat("b")], PARTITIONS))


def test_a_partition_goes_to_the_store_that_has_most_of_it() -> None:
    """A standby that is far behind does not win over one that is not."""
    behind = Beat("a", "a", "host", 1, "a", 1, warm={0: 10})
    near = Beat("b", "b", "host", 1, "b", 1, warm={0: 90})
    assert plan([behind, near], 1)[0].owner == "b"


def test_alone_a_node_gets_everything_and_without_one_that_stays_nothing_moves() -> None:
    """The two ends: one node, and the last ones that leave."""
    assert plan([beat("a")], PARTITIONS, 2) == (Assignment("a"),) * PARTITIONS
    assert plan([beat("a", [0], leaving=True)], 2) == (Assignment("a"), Assignment())
    assert plan([], 2) == (Assignment(), Assignment())


def _unbalanced(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda owners, staying, load, pinned: [
        owner if owner in staying else next(iter(staying)) for owner in owners
    ]


def _restless(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda owners, staying, load, pinned: real([None] * len(owners), staying, load, pinned)


def _cold(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda staying, load, partition: None


def _two_at_one(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda targets, staying, count: [(target,) * bool(count) for target in targets]


@pytest.mark.parametrize(
    ("function", "bug"),
    [("_balanced", _unbalanced), ("_balanced", _restless), ("_warmest", _cold), ("_standbys", _two_at_one)],
)
def test_planted_bugs_are_caught(
    function: str, bug: Callable[[Callable[..., Any]], Callable[..., Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each breaks one law; the same random members must show it."""
    monkeypatch.setattr(planning, function, bug(getattr(planning, function)))

    @settings(max_examples=200, deadline=None, database=None)
    @given(clusters(), st.integers(0, 2))
    def run(beats: list[Beat], standbys: int) -> None:
        check(beats, standbys)

    with pytest.raises((AssertionError, ExceptionGroup)):
        run()
