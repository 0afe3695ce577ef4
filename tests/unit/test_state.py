"""An object's storage inside one turn: its own writes over what was committed, against a model that is a dict."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.objects.listing import MAX_LISTED, prefix_end
from perdure.objects.overlay import Limits, Overlay, current_turn
from perdure.objects.state import State
from perdure.schemas.errors import ObjectError, StorageFailed, TooLarge, TurnEnded, UnstorableValue
from perdure.schemas.values import encode_value


class Committed:
    """A view over a dict; it fails when it is told to."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.rows = {name: encode_value(name, value) for name, value in values.items()}
        self.failure: Exception | None = None

    def get(self, name: str) -> bytes | None:
        if self.failure is not None:
            raise self.failure
        return self.rows.get(name)

    def scan(self, start: str, end: str | None, *, reverse: bool) -> Iterator[tuple[str, bytes]]:
        for name in sorted(self.rows, reverse=reverse):
            if self.failure is not None:
                raise self.failure
            if name >= start and (end is None or name < end):
                yield name, self.rows[name]


class InTurn:
    """`with InTurn(view) as state:` a turn runs; `overlay` is what it leaves."""

    def __init__(self, view: Committed, limits: Limits | None = None) -> None:
        self.state = State("Counter/alice", view, limits or Limits())
        self.overlay = Overlay()

    def __enter__(self) -> State:
        turn = object()
        self._token = current_turn.set(turn)
        self.state.begin(turn, self.overlay, 1234)
        return self.state

    def __exit__(self, *error: object) -> None:
        self.state.end()
        current_turn.reset(self._token)


NAMES = st.text("ab\0é\U0010ffff", min_size=1, max_size=3)
CHANGES = st.lists(
    st.tuples(st.just("put"), NAMES, st.integers(0, 9))
    | st.tuples(st.just("delete"), NAMES, st.none())
    | st.tuples(st.just("clear"), st.just(""), st.none()),
    max_size=8,
)
BOUND = st.none() | st.text("ab\0é\U0010ffff", max_size=3)


async def change(state: State, model: dict[str, Any], changes: list[tuple[str, str, Any]]) -> None:
    for what, name, value in changes:
        if what == "put":
            await state.put(name, value)
            model[name] = value
        elif what == "delete":
            assert await state.delete(name) == (model.pop(name, None) is not None)
        else:
            await state.delete_all()
            model.clear()
        assert await state.get(name) == model.get(name)


def selected(model: dict[str, Any], options: dict[str, Any]) -> list[str]:
    """The names that the options leave, the plain way."""
    return sorted(
        (
            name
            for name in model
            if name.startswith(options.get("prefix", ""))
            and (options.get("start") is None or name >= options["start"])
            and (options.get("start_after") is None or name > options["start_after"])
            and (options.get("end") is None or name < options["end"])
        ),
        reverse=options["reverse"],
    )


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(NAMES, st.integers(0, 9), max_size=6),
    CHANGES,
    st.fixed_dictionaries(
        {"prefix": st.text("aé\U0010ffff", max_size=2), "end": BOUND, "reverse": st.booleans()},
        optional={"start": BOUND},
    )
    | st.fixed_dictionaries({"start_after": BOUND, "reverse": st.booleans()}),
    st.integers(1, 4),
)
def test_state_is_a_sorted_dict(
    committed: dict[str, Any], changes: list[tuple[str, str, Any]], options: dict[str, Any], limit: int
) -> None:
    """get, put, delete and delete_all; items and the pages of list agree with the model for every option."""

    async def main() -> None:
        model = dict(committed)
        with InTurn(Committed(committed)) as state:
            await change(state, model, changes)
            names = selected(model, options)
            found = await state.items(**options)
            assert list(found.items()) == [(name, model[name]) for name in names]
            assert list(await state.items(**options, limit=limit)) == names[:limit]
            paged: list[str] = []
            cursor: str | None = None
            while True:
                page = await state.list(**options, limit=limit, cursor=cursor)
                assert len(page.keys) <= limit
                paged += [key.name for key in page.keys]
                assert len(paged) <= len(names), "a page came twice"
                assert page.list_complete == (page.cursor is None)
                if page.list_complete:
                    break
                cursor = page.cursor
            assert paged == names

    asyncio.run(main())


def test_the_order_of_names_is_that_of_their_bytes() -> None:
    """Sorting str and sorting UTF-8 agree, and the end of a prefix lies right behind all it begins."""
    names = ["a", "a\U0010ffff", "a\U0010ffff\U0010ffff", "b", "\ud7ff", "\ue000", "\U0010ffff"]
    assert sorted(names) == sorted(names, key=str.encode)
    for prefix in names:
        end = prefix_end(prefix)
        inside = [name for name in names if name >= prefix and (end is None or name < end)]
        assert sorted(inside) == sorted(name for name in names if name.startswith(prefix))


def test_a_page_has_at_most_a_thousand_names() -> None:
    """More are told by `list_complete` and the cursor, whatever limit was asked for."""

    async def main() -> None:
        with InTurn(Committed({f"{n:05}": n for n in range(MAX_LISTED + 1)})) as state:
            page = await state.list(limit=10**6)
            assert (len(page.keys), page.list_complete, page.cursor) == (MAX_LISTED, False, "00999")
            assert [key.name for key in (await state.list(cursor=page.cursor)).keys] == ["01000"]
            assert len(await state.items()) == MAX_LISTED + 1

    asyncio.run(main())


@pytest.mark.parametrize("limit", [0, -1])
def test_a_page_of_nothing_cannot_be_asked_for(limit: int) -> None:
    """It would have no cursor to go on from."""

    async def main() -> None:
        with InTurn(Committed({"a": 1})) as state, pytest.raises(ValueError, match="at least 1"):
            await state.list(limit=limit)

    asyncio.run(main())


def test_start_and_start_after_exclude_each_other() -> None:
    """An error that says so."""

    async def main() -> None:
        with InTurn(Committed({})) as state, pytest.raises(ObjectError, match="not both"):
            await state.list(start="a", start_after="b")

    asyncio.run(main())


def test_values_are_copies() -> None:
    """Changing what was put, or what was got, changes nothing that is stored."""

    async def main() -> None:
        with InTurn(Committed({"old": [1]})) as state:
            mine = {"a": [1]}
            await state.put("new", mine)
            mine["a"].append(2)
            (await state.get("new"))["a"].append(3)
            (await state.get("old")).append(2)
            (await state.items())["old"].append(3)
            assert await state.items() == {"new": {"a": [1]}, "old": [1]}

    asyncio.run(main())


def test_put_takes_a_mapping_and_get_a_default() -> None:
    """None is a value like any other; the default is for what is not there."""

    async def main() -> None:
        with InTurn(Committed({})) as state:
            await state.put({"a": None, "b": 2})
            assert [await state.get(name, "no") for name in "abc"] == [None, 2, "no"]
            assert state.storage is state
            assert (state.now, state.id.name, str(state.id)) == (1234, "alice", "Counter/alice")
            with pytest.raises(TypeError, match="put\\(name, value\\)"):
                await state.put("a")  # type: ignore[call-overload]  # what a user may forget

    asyncio.run(main())


USES = {
    "get": lambda state: state.get("a"),
    "put": lambda state: state.put("a", 1),
    "delete": lambda state: state.delete("a"),
    "delete_all": lambda state: state.delete_all(),
    "list": lambda state: state.list(),
    "items": lambda state: state.items(),
}


@pytest.mark.parametrize("use", USES)
def test_the_handle_works_inside_its_turn_only(use: str) -> None:
    """After its end, from another turn and from no turn at all: `TurnEnded`, naming the object; nothing written."""

    async def main() -> None:
        turn = InTurn(Committed({"a": 1}))
        with turn as state:
            elsewhere = copy_context()
            elsewhere.run(current_turn.set, object())
            with pytest.raises(TurnEnded, match="Counter/alice"):
                await asyncio.get_running_loop().create_task(USES[use](state), context=elsewhere)
        with pytest.raises(TurnEnded, match="Counter/alice"):
            await USES[use](state)
        with pytest.raises(TurnEnded):
            assert state.now
        assert turn.overlay.empty

    asyncio.run(main())


def test_limits_are_named() -> None:
    """A name, a value and a whole turn have bounds; the message names the bound, and what fitted stays."""

    async def main() -> None:
        turn = InTurn(Committed({}), Limits(key_bytes=4, value_bytes=100, turn_bytes=300))
        with turn as state:
            for name in ("", "xxxxx", "ééé"):
                with pytest.raises(TooLarge, match="1 to 4 bytes"):
                    await state.put(name, 1)
            with pytest.raises(TooLarge, match=r"limits\.value_bytes"):
                await state.put("a", b"x" * 100)
            await state.put(dict.fromkeys(("a", "b", "c"), b"x" * 90))
            with pytest.raises(TooLarge, match=r"limits\.turn_bytes"):
                await state.put("d", b"x" * 90)
            await state.put("éé", 1)
            assert list(await state.items()) == ["a", "b", "c", "éé"]

    asyncio.run(main())


def test_writing_one_name_again_does_not_use_up_the_turn() -> None:
    """What counts is what the turn will commit."""

    async def main() -> None:
        with InTurn(Committed({}), Limits(key_bytes=50, turn_bytes=200)) as state:
            for n in range(100):
                await state.put("n" * 50, n)
                await state.delete("n" * 50)

    asyncio.run(main())


@pytest.mark.parametrize("name", [5, None, b"a", ["a"]])
def test_a_name_is_a_str(name: Any) -> None:
    """Anything else is the handler's mistake, not the disk's: a TypeError, and the turn goes on."""

    async def main() -> None:
        turn = InTurn(Committed({}))
        with turn as state:
            for use in (state.get, state.delete):
                with pytest.raises(TypeError):
                    await use(name)
            await state.put("a", 1)
        assert turn.overlay.failure is None

    asyncio.run(main())


def test_half_a_surrogate_pair_names_nothing() -> None:
    """It can be asked for and is not there; putting it is refused before it reaches the journal."""

    async def main() -> None:
        turn = InTurn(Committed({}))
        with turn as state:
            assert await state.get("\ud800", "no") == "no"
            with pytest.raises(UnstorableValue, match="surrogates"):
                await state.put("\ud800", 1)
        assert turn.overlay.empty

    asyncio.run(main())


@pytest.mark.parametrize("read", ["get", "items", "list", "delete"])
def test_after_a_storage_failure_the_turn_writes_no_more(read: str) -> None:
    """Even if the handler caught it: the overlay remembers, every write says why."""

    async def main() -> None:
        view = Committed({"a": 1})
        turn = InTurn(view)
        with turn as state:
            await state.put("before", 1)
            view.failure = StorageFailed("the disk is gone")
            with pytest.raises(StorageFailed, match="the disk is gone"):
                await USES[read](state)
            view.failure = None
            for write in ("put", "delete_all"):
                with pytest.raises(StorageFailed, match="met a storage failure in this turn"):
                    await USES[write](state)
            assert await state.get("a") == 1
        assert isinstance(turn.overlay.failure, StorageFailed)
        assert list(turn.overlay.changes) == ["before"]

    asyncio.run(main())
