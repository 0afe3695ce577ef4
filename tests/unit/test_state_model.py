"""An object's storage against a model that is a dict, over several turns: whatever
is done, in whichever order.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.inturn import NOW_MS, Committed, InTurn

from perdure.objects.state import State
from perdure.schemas.expiry import HIDDEN, parse_hidden

Model = dict[str, tuple[int, int | None]]  # name → value, when it expires in ms

ALPHABET = "ab\0é\U0010ffff"
NAMES = st.text(ALPHABET, min_size=1, max_size=2).filter(lambda name: not name.startswith("\0"))
LIFE_S = st.none() | st.sampled_from((0.001, 1, 2, 3))
LEAF = (
    st.tuples(st.just("put"), NAMES, st.integers(0, 9), LIFE_S, st.booleans())
    | st.tuples(st.just("put many"), st.dictionaries(NAMES, st.integers(0, 9), max_size=3), LIFE_S)
    | st.tuples(st.just("delete"), NAMES)
    | st.tuples(st.just("delete many"), st.lists(NAMES, max_size=3))
    | st.tuples(st.just("clear"))
    | st.tuples(st.just("sweep"), st.integers(1, 3))
)
OPS: st.SearchStrategy[list[Any]] = st.recursive(
    st.lists(LEAF, max_size=5),
    lambda inner: st.lists(
        LEAF | st.tuples(st.just("txn"), st.sampled_from(("kept", "raises", "rolled back")), inner),
        max_size=5,
    ),
    max_leaves=4,
)
BOUND = st.none() | st.text(ALPHABET, max_size=2)
OPTIONS = st.fixed_dictionaries(
    {"prefix": st.text(ALPHABET, max_size=1), "end": BOUND, "reverse": st.booleans()},
    optional={"start": BOUND},
) | st.fixed_dictionaries({"start_after": BOUND, "reverse": st.booleans()})
TURN = st.tuples(st.sampled_from((0, 1, 999, 1000, 2000)), OPS, OPTIONS, st.integers(1, 3), st.booleans())


class Undone(Exception):
    """What a transaction of the model is left by."""


class Run:
    """One turn: the same operations on the state and on the model."""

    def __init__(self, turn: InTurn, model: Model) -> None:
        self.turn, self.model = turn, model
        self.first: int | None = None

    def visible(self) -> dict[str, int]:
        now_ms = self.turn.now_ms
        return {n: value for n, (value, at) in self.model.items() if at is None or at > now_ms}

    def remember(self, name: str, value: int, life_s: float | None) -> None:
        at = None if life_s is None else self.turn.now_ms + round(life_s * 1000)
        self.model[name] = (value, at)
        if at is not None:
            self.first = at if self.first is None else min(self.first, at)

    async def apply(self, state: State, ops: list[Any]) -> None:
        for what, *more in ops:
            if what == "txn":
                await self.transact(state, *more)
            else:
                await self.step(state, what, *more)
            assert await state.items() == self.visible()
            assert self.turn.overlay.first_expiry == self.first

    async def transact(self, state: State, how: str, ops: list[Any]) -> None:
        before, first = dict(self.model), self.first
        try:
            async with state.transaction() as txn:
                await self.apply(state, ops)
                if how == "raises":
                    raise Undone
                if how == "rolled back":
                    txn.rollback()
        except Undone:
            pass
        if how != "kept":
            self.model, self.first = before, first

    async def step(self, state: State, what: str, *more: Any) -> None:
        visible = self.visible()
        if what == "put":
            name, value, life_s, absolute = more
            if absolute and life_s is not None:
                await state.put(name, value, expiration=(self.turn.now_ms + life_s * 1000) / 1000)
            else:
                await state.put(name, value, expiration_ttl=life_s)
            self.remember(name, value, life_s)
        elif what == "put many":
            values, life_s = more
            await state.put(values, expiration_ttl=life_s)
            for name, value in values.items():
                self.remember(name, value, life_s)
        elif what == "delete":
            assert await state.delete(more[0]) == (more[0] in visible)
            self.model.pop(more[0], None)
        elif what == "delete many":
            assert await state.delete(more[0]) == len(visible.keys() & set(more[0]))
            for name in more[0]:
                self.model.pop(name, None)
        elif what == "clear":
            await state.delete_all()
            self.model.clear()
            self.first = None
        else:
            self.sweep(state, more[0])

    def sweep(self, state: State, limit: int) -> None:
        """What it says is the first note that is left; what it removes is due, and not more than `limit`."""
        before = self.notes(state)
        told, after = state.sweep(limit), self.notes(state)
        assert after == before[min(limit, sum(at <= self.turn.now_ms for at, _ in before)) :]
        assert told == (after[0][0] if after else None)

    def notes(self, state: State) -> list[tuple[int, str]]:
        return [parse_hidden(name) for name, _ in state._rows(HIDDEN, "\1", False)]

    async def look(self, state: State, options: dict[str, Any], limit: int) -> None:
        """Every way to read agrees with the model."""
        visible = self.visible()
        names = selected(visible, options)
        assert list((await state.items(**options)).items()) == [(name, visible[name]) for name in names]
        assert list(await state.items(**options, limit=limit)) == names[:limit]
        assert await state.get([*self.model, "no"]) == {n: visible[n] for n in self.model if n in visible}
        assert [await state.get(name) for name in self.model] == [visible.get(name) for name in self.model]
        paged: list[tuple[str, Any]] = []
        cursor: str | None = None
        while True:
            page = await state.list(**options, limit=limit, cursor=cursor)
            assert len(page.keys) <= limit
            paged += [(key.name, key.expiration) for key in page.keys]
            assert len(paged) <= len(names), "a page came twice"
            assert page.list_complete == (page.cursor is None)
            if page.list_complete:
                break
            cursor = page.cursor
        expiry = {name: None if at is None else at / 1000 for name, (_, at) in self.model.items()}
        assert paged == [(name, expiry[name]) for name in names]


def selected(values: dict[str, int], options: dict[str, Any]) -> list[str]:
    """The names that the options leave, the plain way."""
    return sorted(
        (
            name
            for name in values
            if name.startswith(options.get("prefix", ""))
            and (options.get("start") is None or name >= options["start"])
            and (options.get("start_after") is None or name > options["start_after"])
            and (options.get("end") is None or name < options["end"])
        ),
        reverse=options["reverse"],
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(TURN, min_size=1, max_size=4))
def test_state_is_a_sorted_dict_whose_values_expire(turns: list[Any]) -> None:
    """Puts, deletes, expirations, sweeps and transactions over turns that commit or not: every method agrees
    with the model, and when all time has passed a sweep leaves the rows of what does not expire, and no
    other."""

    async def main() -> None:
        view, model, now_ms = Committed(), Model(), NOW_MS
        for after_ms, ops, options, limit, commits in turns:
            now_ms += after_ms
            run = Run(InTurn(view, now_ms=now_ms), dict(model))
            try:
                with run.turn as state:
                    await run.apply(state, ops)
                    await run.look(state, options, limit)
                    if not commits:
                        raise Undone
                model = run.model
            except Undone:
                pass
        with InTurn(view, now_ms=now_ms + 10**6) as state:
            assert state.sweep() is None
        assert view.rows.keys() == {name for name, (_, at) in model.items() if at is None}

    asyncio.run(main())
