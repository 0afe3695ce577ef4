"""Back-off: pauses grow, have a bound and a jitter, and the log hears of few attempts."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from perdure.schemas.backoff import Backoff


@given(st.integers(), st.integers(1, 2_000))
def test_pauses_double_up_to_the_longest(seed: int, failures: int) -> None:
    """Each pause lies between half of what is due and one and a half times it, and
    is due twice the one before, at most 5 s.
    """
    backoff = Backoff(0.05, 5.0, Random(seed))
    for n in range(failures):
        due_s = min(0.05 * 2.0 ** min(n, 32), 5.0)
        assert 0.5 * due_s <= backoff.failed() <= 1.5 * due_s


def test_the_log_hears_of_few_attempts() -> None:
    """Of a thousand failures ten deserve a line, the first among them; after a
    success the next is a first one.
    """
    backoff, told = Backoff(0.1, 1.0, Random(1)), []
    for n in range(1, 1_001):
        backoff.failed()
        if backoff.worth_logging:
            told.append(n)
    assert told == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    backoff.reset()
    assert backoff.failed() <= 0.15
    assert backoff.worth_logging


def test_two_that_failed_together_do_not_come_back_together() -> None:
    """The jitter is drawn for each."""
    pauses = {Backoff(0.5, 5.0, Random(seed)).failed() for seed in range(50)}
    assert len(pauses) == 50
