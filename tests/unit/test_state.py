"""An object's storage inside one turn: its own writes over what was committed,
names, values, limits, failures.
"""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import Any

import pytest
from tests.unit.inturn import NOW_MS, Committed, InTurn

from perdure.objects.overlay import TurnLimits, current_turn
from perdure.schemas.errors import StorageFailed, TooLarge, TurnEnded, UnstorableValue


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
            assert (state.now, state.id.name, str(state.id)) == (NOW_MS, "alice", "Counter/alice")
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
    """After its end, from another turn and from no turn at all: `TurnEnded`, naming
    the object; nothing written.
    """

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
        turn = InTurn(Committed({}), TurnLimits(key_bytes=4, value_bytes=100, turn_bytes=300))
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
        with InTurn(Committed({}), TurnLimits(key_bytes=50, turn_bytes=200)) as state:
            for n in range(100):
                await state.put("n" * 50, n)
                await state.delete("n" * 50)
            await state.put("n" * 50, "the last")
            assert await state.get("n" * 50) == "the last"

    asyncio.run(main())


@pytest.mark.parametrize("name", [5, None, b"a", [5], ["a", None], {"a": 1}])
def test_a_name_is_a_str(name: Any) -> None:
    """Anything else is the handler's mistake, not the disk's: a TypeError, and the turn goes on."""

    async def main() -> None:
        turn = InTurn(Committed({}))
        with turn as state:
            for use in (state.get, state.delete):
                with pytest.raises(TypeError, match="a name in state is a str"):
                    await use(name)
            with pytest.raises(TypeError):
                await state.put(name, 1)
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
