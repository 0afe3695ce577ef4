"""The checker of histories agrees with a check of every order, and finds what is planted."""

from __future__ import annotations

from itertools import permutations
from random import Random
from typing import Any

import pytest
from tests.wgl import COUNTER, LOST, REGISTER, Call, Model, why_not


def by_brute_force(calls: list[Call], model: Model, start: Any) -> bool:
    """True if some order of all answered calls and some of the lost ones explains the answers."""
    answered = [each for each in calls if each.ended_s < LOST]
    lost = [each for each in calls if each.ended_s == LOST]
    for chosen in range(1 << len(lost)):
        taken = answered + [each for n, each in enumerate(lost) if chosen >> n & 1]
        for order in permutations(taken):
            state, fits = start, True
            for at, call in enumerate(order):
                fits = fits and all(later.ended_s >= call.began_s for later in order[at + 1 :])
                possible, state = model.step(state, call.request, call.answer)
                fits = fits and possible
            if fits:
                return True
    return False


def history(random: Random, requests: list[Any], answers: list[Any]) -> list[Call]:
    """Some calls that overlap, with answers that may or may not be explained."""
    calls = []
    for _ in range(random.randrange(1, 6)):
        began_s = float(random.randrange(12))
        if random.random() < 0.2:
            calls.append(Call(random.choice(requests), began_s))
        else:
            ended_s = began_s + random.randrange(1, 8) + 0.5
            calls.append(Call(random.choice(requests), began_s, ended_s, random.choice(answers)))
    return calls


@pytest.mark.parametrize(
    ("model", "requests", "answers"),
    [
        (COUNTER, ["add", "add", "read"], [0, 1, 2, 3]),
        (
            REGISTER,
            [("read",), ("write", 1), ("swap", 0, 2), ("swap", 1, 2)],
            [(0,), (1,), (2,), True, False],
        ),
    ],
    ids=["counter", "register"],
)
def test_it_says_what_a_check_of_every_order_says(
    model: Model, requests: list[Any], answers: list[Any]
) -> None:
    """Random histories of up to five calls, half of them impossible."""
    random, explained = Random(5), []
    for _ in range(1_500):
        calls = history(random, requests, answers)
        explained.append(why_not(calls, model, 0) is None)
        assert explained[-1] == by_brute_force(calls, model, 0), [str(each) for each in calls]
    assert 100 < sum(explained) < 1_400


def test_a_stale_read_and_a_doubled_add_are_named() -> None:
    """A read behind an acknowledged write gives what was before; an add counts twice."""
    calls = [Call(("write", 1), 0, 1), Call(("write", 2), 2, 3, None), Call(("read",), 4, 5, (1,))]
    assert "('read',)" in str(why_not(calls, REGISTER, 0))
    calls[-1].began_s = 2.5
    assert why_not(calls, REGISTER, 0) is None
    assert why_not([Call("add", 0, 1, 1), Call("add", 2, 3, 3)], COUNTER, 0)
    assert why_not([Call("add", 0, 1, 1), Call("add", 0), Call("add", 2, 3, 3)], COUNTER, 0) is None


def test_a_long_history_with_lost_calls_is_judged() -> None:
    """Thousands of adds of ten clients; of hundreds nobody knows what became of them, half took effect."""
    random, count, calls = Random(1), 0, []
    for n in range(5_000):
        lost = random.random() < 0.05
        count += not lost or random.random() < 0.5
        calls.append(Call("add", n - 9) if lost else Call("add", n - 9, n + random.random(), count))
    assert why_not(calls, COUNTER, 0) is None
    assert why_not([*calls, Call("read", 6_000, 6_001, (count - 1))], COUNTER, 0)
