"""What a pure function gave is kept by its argument, within a bound."""

from __future__ import annotations

import pytest

from perdure.schemas.cache import PureCache


def asked_of(most: int) -> tuple[PureCache[int, int], list[int]]:
    """One over a function that fails below zero, and what that was asked."""
    asked: list[int] = []

    def half(number: int) -> int:
        asked.append(number)
        if number < 0:
            raise ValueError(number)
        return number // 2

    return PureCache(half, most), asked


def test_it_is_asked_once_for_each_argument() -> None:
    """And gives what the function gave."""
    halves, asked = asked_of(10)
    assert [halves[number] for number in (4, 6, 4, 6, 4)] == [2, 3, 2, 3, 2]
    assert asked == [4, 6]


def test_an_error_is_not_kept() -> None:
    """What was wrong once is asked again, and takes no room."""
    halves, asked = asked_of(10)
    for _ in range(2):
        with pytest.raises(ValueError, match="-1"):
            halves[-1]
    assert (asked, halves.held) == ([-1, -1], 0)


def test_it_never_holds_more_than_its_bound() -> None:
    """Whoever makes up arguments gets no memory by it, and what went is asked anew."""
    halves, asked = asked_of(6)
    for number in range(20):
        assert halves[number] == number // 2
        assert halves.held <= 6
    assert halves.held > 3
    assert halves[0] == 0
    assert asked == [*range(20), 0]


def test_what_is_asked_for_again_and_again_stays() -> None:
    """Though there come others all the time, as many as fill it many times over."""
    halves, asked = asked_of(6)
    for number in range(2, 60):
        assert halves[0] == 0
        assert halves[number] == number // 2
    assert asked == [0, *range(2, 60)]
