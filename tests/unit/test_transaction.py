"""Transactions inside a turn: kept or forgotten as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.unit.inturn import Committed, InTurn

from perdure.objects.overlay import TurnLimits
from perdure.objects.state import State
from perdure.objects.transaction import Transaction
from perdure.schemas.errors import ObjectError, StorageFailed, TooLarge, TurnEnded


class Undone(Exception):
    """What a story leaves a transaction by."""


def in_turn(handler: Callable[[State], Awaitable[None]], limits: TurnLimits | None = None) -> InTurn:
    """Run a turn over a=1, b=2."""
    turn = InTurn(Committed({"a": 1, "b": 2}), limits)

    async def main() -> None:
        with turn as state:
            await handler(state)

    asyncio.run(main())
    return turn


def test_what_raises_is_undone_and_goes_on() -> None:
    """Puts, deletes and delete_all since entry; what was written before stays."""

    async def handler(state: State) -> None:
        await state.put("before", 1)
        with pytest.raises(Undone):  # noqa: PT012 - the block is the story
            async with state.transaction():
                await state.put({"a": 9, "before": 9, "new": 9})
                await state.delete("b")
                await state.delete_all()
                await state.put("newer", 9)
                assert await state.items() == {"newer": 9}
                raise Undone
        assert await state.items() == {"a": 1, "b": 2, "before": 1}
        await state.put("after", 1)

    turn = in_turn(handler)
    assert turn.overlay.changes.keys() == {"before", "after"}
    assert not turn.overlay.cleared


def test_what_does_not_raise_is_kept() -> None:
    """And belongs to the turn."""

    async def handler(state: State) -> None:
        async with state.transaction() as txn:
            await txn.put("a", 2)
            assert await state.get("a") == await txn.get("a") == 2

    assert in_turn(handler).overlay.changes.keys() == {"a"}


def test_a_turn_whose_transactions_were_all_undone_changed_nothing() -> None:
    """Its overlay is empty: it needs no entry."""

    async def handler(state: State) -> None:
        async with state.transaction() as txn:
            await txn.delete_all()
            await txn.put("c", 1, expiration_ttl=1)
            txn.rollback()

    turn = in_turn(handler)
    assert turn.overlay.empty
    assert turn.overlay.size_bytes == 0


def test_rollback_undoes_at_once_and_to_the_end_of_the_block() -> None:
    """The handler sees what was before, and `txn` is of no use any more; nothing is raised."""

    async def handler(state: State) -> None:
        async with state.transaction() as txn:
            await txn.put("a", 9)
            txn.rollback()
            assert await state.get("a") == 1
            await state.put("b", 9)
            for use in (
                txn.get("a"),
                txn.put("a", 1),
                txn.delete("a"),
                txn.delete_all(),
                txn.list(),
                txn.items(),
            ):
                with pytest.raises(ObjectError, match="Counter/alice was rolled back"):
                    await use
            with pytest.raises(ObjectError, match="was rolled back"):
                txn.rollback()
        assert await state.items() == {"a": 1, "b": 2}

    assert in_turn(handler).overlay.empty


@pytest.mark.parametrize("inner", ["kept", "undone"])
@pytest.mark.parametrize("outer", ["kept", "undone"])
def test_transactions_nest(inner: str, outer: str) -> None:
    """What an inner one keeps belongs to the one around it; what it forgets is forgotten alone."""

    async def handler(state: State) -> None:
        async with state.transaction() as one:
            await state.put("a", "outer")
            async with state.transaction() as two:
                await state.put({"a": "inner", "b": "inner"})
                if inner == "undone":
                    two.rollback()
            await state.put("c", "outer")
            if outer == "undone":
                one.rollback()
        expected: dict[str, Any] = {"a": 1, "b": 2}
        if outer == "kept":
            expected |= {"a": "outer", "c": "outer"} | (
                {"a": "inner", "b": "inner"} if inner == "kept" else {}
            )
        assert await state.items() == expected

    in_turn(handler)


def test_an_outer_rollback_undoes_what_an_inner_one_is_writing() -> None:
    """Also if the inner one then ends by itself, whichever way."""

    async def handler(state: State) -> None:
        async with state.transaction() as outer:
            await state.put("a", 9)
            with pytest.raises(Undone):  # noqa: PT012 - the block is the story
                async with state.transaction():
                    await state.put("b", 9)
                    outer.rollback()
                    raise Undone
        assert await state.items() == {"a": 1, "b": 2}

    assert in_turn(handler).overlay.empty


def test_a_closure_is_called_with_the_transaction() -> None:
    """As on Cloudflare: async or not, its result is given, its exception undoes,
    `rollback` undoes quietly.
    """

    async def handler(state: State) -> None:
        async def move(txn: Transaction) -> str:
            await txn.put("a", await txn.get("a") + 1)
            await txn.put({"c": 3}, expiration_ttl=10)
            assert await txn.delete("b")
            assert [key.name for key in (await txn.list(prefix="c")).keys] == ["c"]
            return "moved"

        async def fail(txn: Transaction) -> None:
            await move(txn)
            raise Undone

        async def think_again(txn: Transaction) -> str:
            await txn.put("a", 99)
            txn.rollback()
            return "not moved"

        with pytest.raises(Undone):
            await state.transaction(fail)
        assert await state.transaction(think_again) == "not moved"
        assert await state.items() == {"a": 1, "b": 2}
        assert await state.storage.transaction(move) == "moved"
        assert await state.items() == {"a": 2, "c": 3}
        assert await state.transaction(lambda txn: 5) == 5

    in_turn(handler)


def test_a_transaction_is_used_inside_its_block() -> None:
    """Not before, not after, and entered once."""

    async def handler(state: State) -> None:
        txn = state.transaction()
        with pytest.raises(ObjectError, match="is not open"):
            await txn.get("a")
        async with txn:
            pass
        with pytest.raises(ObjectError, match="is not open"):
            await txn.put("a", 9)
        with pytest.raises(ObjectError, match="is not open"):
            txn.rollback()
        with pytest.raises(ObjectError, match="entered once"):
            await txn.__aenter__()

    assert in_turn(handler).overlay.empty


def test_transactions_of_two_tasks_must_not_overlap() -> None:
    """They would undo each other's writes: the one that ends out of turn says so, and is undone."""

    async def handler(state: State) -> None:
        first, second = state.transaction(), state.transaction()
        await first.__aenter__()
        await state.put("a", 9)
        await second.__aenter__()
        with pytest.raises(ObjectError, match="transactions of Counter/alice overlap"):
            await first.__aexit__(None, None, None)
        await second.__aexit__(Undone, Undone(), None)
        async with state.transaction():  # what comes later is not disturbed
            await state.put("b", 3)
        assert await state.get("b") == 3

    in_turn(handler)


def test_the_limit_of_a_turn_counts_what_it_keeps() -> None:
    """Room that an undone transaction took is free again."""

    async def handler(state: State) -> None:
        for _ in range(5):
            async with state.transaction() as txn:
                await txn.put("x", b"x" * 80)
                txn.rollback()
        await state.put("x", b"x" * 80)
        with pytest.raises(TooLarge, match=r"limits\.turn_bytes"):
            await state.put("y", b"x" * 80)

    in_turn(handler, TurnLimits(turn_bytes=100))


def test_a_storage_failure_is_not_undone() -> None:
    """The turn that met it writes no more and never commits, whatever is rolled back."""

    async def handler(state: State) -> None:
        view.failure = StorageFailed("the disk is gone")
        with pytest.raises(StorageFailed):
            async with state.transaction():
                await state.get("a")
        view.failure = None
        with pytest.raises(StorageFailed, match="met a storage failure in this turn"):
            await state.put("a", 1)

    view = Committed({"a": 1})
    turn = InTurn(view)

    async def main() -> None:
        with turn as state:
            await handler(state)

    asyncio.run(main())
    assert isinstance(turn.overlay.failure, StorageFailed)


def test_a_transaction_does_not_outlive_its_turn() -> None:
    """Its end says so unless something else is wrong already, and the next turn's state is not touched."""

    async def main() -> None:
        turn = InTurn(Committed({"a": 1}))
        with turn as state:
            left = [state.transaction() for _ in range(4)]
            for txn in left:
                await txn.__aenter__()
            with pytest.raises(TurnEnded):
                await asyncio.create_task(outside(turn, left.pop()))
        with pytest.raises(TurnEnded, match="Counter/alice"):
            await left[0].__aexit__(None, None, None)
        with pytest.raises(TurnEnded):
            left[1].rollback()
        await left[2].__aexit__(Undone, Undone(), None)
        later = InTurn(turn.view)
        later.state = turn.state
        with later as state:
            async with state.transaction():
                await state.put("a", 2)
            assert await state.get("a") == 2
        assert later.overlay.changes.keys() == {"a"}

    async def outside(turn: InTurn, txn: Transaction) -> None:
        turn.state.end()
        await txn.__aexit__(None, None, None)

    asyncio.run(main())
