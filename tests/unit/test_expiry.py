"""Values that expire: hidden to the millisecond by log time, and swept away later, row by row."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.unit.inturn import NOW_MS, NOW_S, Committed, InTurn
from tests.unit.one_owner import START_MS, OneOwner, rows, story

from perdure.objects.durable import DurableObject
from perdure.objects.overlay import TurnLimits
from perdure.objects.state import State
from perdure.schemas.errors import ObjectError, StorageFailed, TooLarge
from perdure.schemas.expiry import expiry_of, hidden_name, is_due, parse_hidden, with_expiry
from perdure.schemas.values import decode_value, encode_value


def in_turns(view: Committed, *turns: tuple[int, Callable[[State], Awaitable[None]]]) -> None:
    """Run and commit turns, each at its log time in ms after NOW_MS."""

    async def main() -> None:
        for after_ms, handler in turns:
            with InTurn(view, now_ms=NOW_MS + after_ms) as state:
                await handler(state)

    asyncio.run(main())


@pytest.mark.parametrize("value", [None, 0, "", b"x" * 8, b"x" * 70_000, tuple(range(70_000)), {"a": [1]}])
def test_an_expiring_value_describes_itself(value: Any) -> None:
    """Its time is read from the bytes and its value by the decoder; a plain value,
    however large, has no time.
    """
    plain = encode_value("a", value)
    expiring = with_expiry(plain, NOW_MS)
    assert expiry_of(plain) is None
    assert expiry_of(expiring) == NOW_MS
    assert (is_due(expiring, NOW_MS - 1), is_due(expiring, NOW_MS), is_due(plain, NOW_MS)) == (
        False,
        True,
        False,
    )
    assert decode_value(expiring) == value


def test_hidden_names_sort_by_time_and_before_all_others() -> None:
    """Whatever name they note, and give it back."""
    noted = [(9, "z"), (10, "\1"), (255, "é"), (256, ""), (2**63, "a")]
    hidden = [hidden_name(*each) for each in noted]
    assert hidden == sorted(hidden)
    assert all(each < "\1" for each in hidden)
    assert [parse_hidden(each) for each in hidden] == noted


@pytest.mark.parametrize(
    "options", [{"expiration": NOW_S + 30}, {"expiration_ttl": 30}, {"expiration_ttl": 29.9999}]
)
def test_a_value_is_there_until_its_millisecond(options: dict[str, Any]) -> None:
    """One before it, every method has it; from then on none has: get, get of many, list, items, delete."""
    view = Committed({"plain": 1})

    async def put(state: State) -> None:
        await state.put("lock", "held", **options)
        assert await state.get("lock") == "held"

    async def seen(state: State) -> None:
        assert await state.get("lock", "free") == "held"
        assert await state.get(["lock", "plain"]) == {"lock": "held", "plain": 1}
        assert [key.name for key in (await state.list()).keys] == ["lock", "plain"]
        assert await state.items() == {"lock": "held", "plain": 1}

    async def gone(state: State) -> None:
        assert await state.get("lock", "free") == "free"
        assert await state.get(["lock", "plain"]) == {"plain": 1}
        assert [key.name for key in (await state.list()).keys] == ["plain"]
        assert await state.items() == {"plain": 1}
        assert not await state.delete("lock")
        assert await state.delete(["lock", "plain"]) == 1

    async def deleted(state: State) -> None:
        assert await state.delete("lock")

    in_turns(view, (0, put), (29_999, seen), (30_000, gone))
    in_turns(view, (0, put), (29_999, deleted))
    assert view.rows == {}


@pytest.mark.parametrize(
    ("options", "told"),
    [({"expiration": NOW_S + 1}, NOW_S + 1), ({"expiration": NOW_S + 0.25}, NOW_S + 0.25), ({}, None)],
)
def test_list_tells_when_a_value_expires(options: dict[str, Any], told: float | None) -> None:
    """In seconds since 1970, as it was given; None for a value that stays."""

    async def put(state: State) -> None:
        await state.put({"a": 1, "b": 2}, **options)
        assert [(key.name, key.expiration) for key in (await state.list()).keys] == [("a", told), ("b", told)]

    in_turns(Committed(), (0, put))


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"expiration": NOW_S}, ValueError, f"has passed.*now is {NOW_S}"),
        ({"expiration": 0}, ValueError, "has passed"),
        ({"expiration": NOW_MS}, ValueError, "in seconds, not milliseconds"),
        ({"expiration": float("nan")}, ValueError, "is not a time"),
        ({"expiration": "soon"}, TypeError, "expiration is an int or float, in seconds, not str"),
        ({"expiration": True}, TypeError, "not bool"),
        ({"expiration_ttl": 0}, ValueError, "above 0"),
        ({"expiration_ttl": -1}, ValueError, "above 0"),
        ({"expiration_ttl": float("inf")}, ValueError, "is not a time"),
        ({"expiration_ttl": "1"}, TypeError, "expiration_ttl is an int or float"),
        ({"expiration": NOW_S + 9, "expiration_ttl": 9}, ObjectError, "not both"),
    ],
)
def test_a_time_that_cannot_be_is_refused(options: dict[str, Any], error: type[Exception], told: str) -> None:
    """One that has passed too, as on Cloudflare KV; the text says which, nothing is written."""

    async def put(state: State) -> None:
        for what in (("a", 1), ({"a": 1},)):
            with pytest.raises(error, match=told):
                await state.put(*what, **options)

    view = Committed()
    in_turns(view, (0, put))
    assert view.rows == {}


def test_the_shortest_life_is_a_millisecond() -> None:
    """A ttl below it is one."""
    view = Committed()

    async def put(state: State) -> None:
        await state.put("a", 1, expiration_ttl=1e-9)
        assert await state.get("a") == 1

    in_turns(view, (0, put))
    assert view.hidden == [(NOW_MS + 1, "a")]


def test_the_overlay_knows_the_first_expiry_of_its_turn() -> None:
    """The smallest of what was put; None if nothing expires or all was removed; a
    transaction that is undone gives it back."""

    async def main() -> None:
        turn = InTurn()
        with turn as state:
            await state.put("plain", 1)
            assert turn.overlay.first_expiry is None
            await state.put({"a": 1, "b": 1}, expiration_ttl=20)
            await state.put("c", 1, expiration_ttl=30)
            async with state.transaction() as txn:
                await txn.put("d", 1, expiration_ttl=10)
                assert turn.overlay.first_expiry == NOW_MS + 10_000
                txn.rollback()
            assert turn.overlay.first_expiry == NOW_MS + 20_000
            await state.delete_all()
            assert turn.overlay.first_expiry is None

    asyncio.run(main())


def test_a_sweep_leaves_not_one_row_of_what_expired() -> None:
    """At most `limit` at once, the earliest first; it tells when the next one is due, None after the last."""
    view = Committed({"plain": 1})

    async def put(state: State) -> None:
        for n in range(5):
            await state.put(f"n{n}", n, expiration_ttl=n + 1)

    async def sweep(state: State) -> None:
        assert state.sweep(2) == NOW_MS + 3000
        assert state.sweep(2) == NOW_MS + 5000
        assert state.sweep(2) == NOW_MS + 5000
        assert await state.get("n4") == 4

    async def last(state: State) -> None:
        assert state.sweep() is None
        assert state.sweep() is None

    in_turns(view, (0, put), (4000, sweep))
    assert [name for name in view.rows if name >= "\1"] == ["plain", "n4"]
    assert view.hidden == [(NOW_MS + 5000, "n4")]
    in_turns(view, (5000, last))
    assert list(view.rows) == ["plain"]


@pytest.mark.parametrize("again", [{}, {"expiration_ttl": 100}, {"expiration_ttl": 1}])
def test_a_key_put_again_is_not_swept_with_its_old_time(again: dict[str, Any]) -> None:
    """With no expiration, a later or the same one: only what is due now goes;
    stale notes go with the sweep.
    """
    view = Committed()

    async def put(state: State) -> None:
        await state.put("a", 1, expiration_ttl=10)

    async def put_again(state: State) -> None:
        await state.put("a", 2, **again)

    async def sweep(state: State) -> None:
        due = again.get("expiration_ttl")
        assert state.sweep() == (NOW_MS + 109_000 if due == 100 else None)
        assert await state.get("a") == (None if due == 1 else 2)

    in_turns(view, (0, put), (9000, put_again), (10_000, sweep))
    assert len(view.rows) == {None: 1, 100: 2, 1: 0}[again.get("expiration_ttl")]


def test_a_sweep_of_long_names_fits_a_turn() -> None:
    """It stops at half the bytes of a turn and says that more is due; each one goes on."""
    view, limits = Committed(), TurnLimits(turn_bytes=4000)

    async def main() -> None:
        for n in range(10):
            with InTurn(view, limits) as state:
                await state.put(f"{n}" * 300, n, expiration_ttl=1)
        sweeps = 0
        while view.rows:
            turn = InTurn(view, limits, now_ms=NOW_MS + 1000)
            with turn as state:
                assert state.sweep() == (None if len(view.rows) <= 8 else NOW_MS + 1000)
            assert turn.overlay.size_bytes <= limits.turn_bytes
            sweeps += 1
        assert sweeps == 3

    asyncio.run(main())


def test_a_sweep_that_cannot_read_fails_its_turn() -> None:
    """As any handler does."""
    view = Committed({"a": 1})
    view.failure = StorageFailed("the disk is gone")

    async def main() -> None:
        turn = InTurn(view)
        with turn as state:
            with pytest.raises(StorageFailed, match="the disk is gone"):
                state.sweep()
            view.failure = None
            with pytest.raises(StorageFailed, match="met a storage failure in this turn"):
                state.sweep()
        assert isinstance(turn.overlay.failure, StorageFailed)

    asyncio.run(main())


def test_an_expiring_value_has_the_limits_of_any_other() -> None:
    """A name of the longest length may expire; a value too large leaves neither value nor note."""
    limits = TurnLimits(key_bytes=10, value_bytes=100, turn_bytes=300)

    async def main() -> None:
        turn = InTurn(limits=limits)
        with turn as state:
            await state.put("n" * 10, 1, expiration_ttl=1)
            for name, value in (("n" * 11, 1), ("a", b"x" * 95)):
                with pytest.raises(TooLarge, match="limits"):
                    await state.put(name, value, expiration_ttl=1)
            assert len(turn.overlay.changes) == 2
            with pytest.raises(TooLarge, match=r"limits\.turn_bytes"):
                await state.put(dict.fromkeys("abcd", b"x" * 70), expiration_ttl=1)
            assert len(turn.view.hidden) == 0

    asyncio.run(main())


def test_holding_a_lock_again_and_again_does_not_use_up_the_turn() -> None:
    """What counts is what the turn will commit, the notes of expiring values included."""

    async def main() -> None:
        with InTurn(limits=TurnLimits(turn_bytes=200)) as state:
            for _ in range(100):
                await state.put("lock", "held", expiration_ttl=30)
                await state.put("lock", "held", expiration_ttl=30)
                assert await state.delete("lock")

    asyncio.run(main())


USES: dict[str, Callable[[State, str], Awaitable[Any]]] = {
    "get": lambda state, name: state.get(name),
    "get of many": lambda state, name: state.get(["a", name]),
    "put": lambda state, name: state.put(name, 1),
    "put of many": lambda state, name: state.put({name: 1}),
    "put expiring": lambda state, name: state.put(name, 1, expiration_ttl=1),
    "delete": lambda state, name: state.delete(name),
    "delete of many": lambda state, name: state.delete(["a", name]),
}


@pytest.mark.parametrize("use", USES)
def test_names_that_begin_with_nul_are_not_a_users(use: str) -> None:
    """Also those that are there: the text says whose they are; nothing is written."""

    async def main() -> None:
        turn = InTurn()
        with turn as state:
            await state.put("a", 1, expiration_ttl=1)
            before = dict(turn.overlay.changes)
            for name in (next(iter(before.keys() - {"a"})), "\0", "\0x"):
                with pytest.raises(ObjectError, match="does not begin with NUL"):
                    await USES[use](state, name)
            assert turn.overlay.changes == before

    asyncio.run(main())


@pytest.mark.parametrize(
    "options",
    [{}, {"prefix": "\0"}, {"prefix": "\0x"}, {"start": "\0"}, {"start_after": "\0"}, {"end": "\1"}],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_hidden_names_are_never_shown(options: dict[str, Any], reverse: bool) -> None:
    """Nor counted, whatever is asked for."""

    async def main() -> None:
        view = Committed()
        with InTurn(view) as state:
            await state.put("b", 1, expiration_ttl=1)
        with InTurn(view) as state:
            await state.put("c", 1, expiration_ttl=1)
            expected = [] if options.get("prefix") or options.get("end") else ["b", "c"]
            page = await state.list(**options, reverse=reverse, limit=2)
            assert sorted(key.name for key in page.keys) == expected
            assert page.list_complete
            assert sorted(await state.items(**options, reverse=reverse)) == expected

    asyncio.run(main())


class Sessions(DurableObject):
    async def login(self, who: str, ttl_s: float) -> None:
        await self.state.put(who, {"who": who}, expiration_ttl=ttl_s)

    async def who(self) -> list[str]:
        return list(await self.state.items())

    async def clean(self) -> int | None:
        return self.state.sweep()


def test_sessions_end_by_the_log_and_leave_the_store() -> None:
    """Through owner, journal and tables: hidden by the time of the command, then
    swept, and a replay gives the same.
    """

    async def told(harness: OneOwner) -> None:
        await harness.call("s", "login", "ann", 60)
        await harness.call("s", "login", "bob", 3600)
        assert (await harness.call("s", "who")).body == b'{"result":["ann","bob"]}'
        harness.skew_ms = 61_000
        assert (await harness.call("s", "who")).body == b'{"result":["bob"]}'
        next_ms = int((await harness.call("s", "clean")).body[len(b'{"result":') : -1])
        assert START_MS + 3_600_000 <= next_ms < START_MS + 3_700_000
        harness.skew_ms = 3_700_000
        assert (await harness.call("s", "clean")).body == b'{"result":null}'
        harness.owner.tables.write_all()
        assert [row for row, _ in rows(harness.owner.tables) if row.startswith(b"v")] == []

    story(Sessions, told)
