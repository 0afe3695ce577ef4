"""Who folds what, when a rebuild has helpers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perdure.streams.rebuild.coordinator import shares


@given(st.dictionaries(st.integers(0, 30), st.integers(0, 1_000)), st.integers(1, 5))
def test_shares_are_fair(sizes: dict[int, int], number: int) -> None:
    """Each partition is in one share, the smallest comes first, and none is off
    by more than one partition.
    """
    made = shares(sizes, number)
    assert len(made) == number
    assert sorted(each for share in made for each in share) == sorted(sizes)
    weights = [sum(sizes[each] for each in share) for share in made]
    assert weights == sorted(weights)
    assert weights[-1] - weights[0] <= max(sizes.values(), default=0)
