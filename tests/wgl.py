"""Is a history of one object linearizable? Wing and Gong's search, with Lowe's memory of where it was.

Laws [test_wgl.py]
- An operation took effect at one moment between its call and its return. One that has no return (`LOST`: its
  client does not know what became of it) did so at some moment after its call, or never.
- The search goes through calls and returns in the order of time and keeps every *configuration* that explains
  what was seen so far: the state, and which operations under way have taken effect. At a return those remain
  in which that operation has. The history is linearizable if one remains at its end.
- Lost operations with the same request are interchangeable, so only how many of them took effect is kept.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

LOST = inf


class Model(NamedTuple):
    """An object without concurrency, as two functions of (state, request, answer or None if it is not known).

    `step` returns whether that answer is possible, and the state behind it. `hopeless` is True if the answer
    is possible neither in this state nor in any that can follow, which ends a search early.
    """

    step: Callable[[Any, Any, Any], tuple[bool, Any]]
    hopeless: Callable[[Any, Any, Any], bool] = lambda state, request, answer: False


@dataclass(slots=True, eq=False)
class Call:
    """One operation of one client on one object; a lost one has no answer."""

    request: Hashable
    began_s: float
    ended_s: float = LOST
    answer: Any = None

    def __str__(self) -> str:
        end = "lost" if self.ended_s == LOST else f"{self.ended_s:.6f} -> {self.answer!r}"
        return f"{self.request!r} at {self.began_s:.6f}..{end}"


class Configuration(NamedTuple):
    """What explains a part of a history; `used` says how many lost calls with each request took effect."""

    state: Hashable
    done: frozenset[int]
    used: dict[Hashable, int]


class _Seen:
    """Configurations, but for those that are like another one and have used more lost calls."""

    def __init__(self) -> None:
        self._used: dict[tuple[Hashable, frozenset[int]], list[dict[Hashable, int]]] = {}

    def add(self, one: Configuration) -> bool:
        """True if it is new."""
        all_ = self._used.setdefault((one.state, one.done), [])
        if any(all(one.used.get(each, 0) >= n for each, n in less.items()) for less in all_):
            return False
        all_.append(one.used)
        return True


def why_not(calls: Iterable[Call], model: Model, start: Hashable) -> str | None:
    """None if the calls are linearizable, else the return that no order of them explains."""
    calls = list(calls)
    open_calls: dict[int, Call] = {}
    lost: Counter[Hashable] = Counter()
    found = [Configuration(start, frozenset(), {})]
    for number, is_return in _moments(calls):
        call = calls[number]
        if not is_return:
            if call.ended_s == LOST:
                lost[call.request] += 1
            else:
                open_calls[number] = call
            continue
        found = list(_with(number, found, open_calls, lost, model))
        if not found:
            return f"nothing explains {call}, among {[str(each) for each in open_calls.values()]}"
        del open_calls[number]
    return None


def _moments(calls: list[Call]) -> Iterator[tuple[int, bool]]:
    """Calls and returns in the order of time; at one instant calls first."""
    moments = [(call.began_s, False, number) for number, call in enumerate(calls)]
    moments += [(call.ended_s, True, number) for number, call in enumerate(calls) if call.ended_s < LOST]
    for _, is_return, number in sorted(moments):
        yield number, is_return


def _with(
    number: int,
    found: list[Configuration],
    open_calls: dict[int, Call],
    lost: Counter[Hashable],
    model: Model,
) -> Iterator[Configuration]:
    """Every configuration that follows from one of `found` and in which call `number` has taken effect."""
    seen, queue = _Seen(), deque(found)
    while queue:
        one = queue.popleft()
        state, done, used = one
        waiting = [(other, call) for other, call in open_calls.items() if other not in done]
        if not seen.add(one) or any(model.hopeless(state, call.request, call.answer) for _, call in waiting):
            continue
        if number in done:
            yield Configuration(state, done - {number}, used)
            continue
        for other, call in waiting:
            possible, then = model.step(state, call.request, call.answer)
            if possible:
                queue.append(Configuration(then, done | {other}, used))
        for request, count in lost.items():
            if used.get(request, 0) < count:
                possible, then = model.step(state, request, None)
                if possible and then != state:  # one that changes nothing explains nothing
                    queue.append(Configuration(then, done, {**used, request: used.get(request, 0) + 1}))


def _count(state: int, request: Any, answer: int | None) -> tuple[bool, int]:
    state += request == "add"
    return answer in (None, state), state


def _register(state: Any, request: Any, answer: Any) -> tuple[bool, Any]:
    kind, *values = request
    if kind == "read":
        return answer in (None, (state,)), state
    if kind == "write":
        return True, values[0]
    swaps = state == values[0]
    return answer in (None, swaps), values[1] if swaps else state


COUNTER = Model(_count, lambda state, request, answer: state + (request == "add") > answer)
"""`add` answers with the count behind it, `read` with the count."""

REGISTER = Model(_register)
"""`("write", new)`; `("read",)` answers with `(value,)`, `("swap", old, new)` with whether it was `old`."""
