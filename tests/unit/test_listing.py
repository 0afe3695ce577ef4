"""`list` and `items`: their options, their pages, and what they read for them."""

from __future__ import annotations

import asyncio
import string
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.inturn import Committed, InTurn

from perdure.objects.listing import MAX_LISTED, Listing, prefix_end
from perdure.objects.overlay import Overlay, current_turn
from perdure.objects.state import State
from perdure.schemas.errors import ObjectError, StorageFailed
from perdure.schemas.journal import Entry
from perdure.schemas.replies import OK, Reply
from perdure.streams.state.tables import Tables
from perdure.streams.store.rocks import RocksStore
from perdure.streams.turns.activation import Activation


def in_turn(values: dict[str, Any], handler: Callable[[State], Awaitable[None]]) -> None:
    async def main() -> None:
        with InTurn(Committed(values)) as state:
            await handler(state)

    asyncio.run(main())


def names(page: Listing) -> list[str]:
    return [key.name for key in page.keys]


def test_the_order_of_names_is_that_of_their_bytes() -> None:
    """Sorting str and sorting UTF-8 agree, and the end of a prefix lies right behind all it begins."""
    these = ["a", "a\U0010ffff", "a\U0010ffff\U0010ffff", "b", "\ud7ff", "\ue000", "\U0010ffff"]
    assert sorted(these) == sorted(these, key=str.encode)
    for prefix in these:
        end = prefix_end(prefix)
        inside = [name for name in these if name >= prefix and (end is None or name < end)]
        assert sorted(inside) == sorted(name for name in these if name.startswith(prefix))


def test_a_page_has_at_most_a_thousand_names() -> None:
    """More are told by `list_complete` and the cursor, whatever limit was asked
    for; items have no such end.
    """

    async def handler(state: State) -> None:
        page = await state.list(limit=10**6)
        assert (len(page.keys), page.list_complete) == (MAX_LISTED, False)
        assert names(await state.list(cursor=page.cursor)) == ["01000"]
        assert list(await state.items(cursor=page.cursor)) == ["01000"]
        assert len(await state.items()) == MAX_LISTED + 1

    in_turn({f"{n:05}": n for n in range(MAX_LISTED + 1)}, handler)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_cursor_travels_through_a_url(reverse: bool) -> None:
    """Whatever the names are, it is of letters, digits, - and _, and goes on behind the page that gave it."""
    values = dict.fromkeys(("a b", "a/ü?", "a\n", "a\x00", "\U0010ffff", "ÿÿÿ", "~~~"), 1)

    async def handler(state: State) -> None:
        found, page = [], Listing(list_complete=False)
        while not page.list_complete:
            page = await state.list(limit=1, reverse=reverse, cursor=page.cursor)
            found += names(page)
            assert set(page.cursor or "") <= set(string.ascii_letters + string.digits + "-_")
        assert page.cursor is None
        assert found == sorted(values, reverse=reverse)
        assert names(await state.list(cursor="", reverse=reverse)) == found

    in_turn(values, handler)


def test_a_cursor_goes_on_over_what_changed() -> None:
    """The name it stands behind may be gone, and new ones may have come."""

    async def handler(state: State) -> None:
        page = await state.list(limit=2)
        await state.delete("b")
        await state.put({"aa": 1, "bb": 1})
        assert names(await state.list(cursor=page.cursor)) == ["bb", "c"]

    in_turn(dict.fromkeys("abc", 1), handler)


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"limit": 0}, ValueError, "at least 1, not 0"),
        ({"limit": -1}, ValueError, "at least 1"),
        ({"limit": True}, TypeError, "limit is an int, not bool"),
        ({"limit": "5"}, TypeError, "limit is an int, not str"),
        ({"prefix": 5}, TypeError, "prefix is a str, not int"),
        ({"prefix": None}, TypeError, "prefix is a str, not NoneType"),
        ({"start": b"a"}, TypeError, "start is a str, not bytes"),
        ({"start_after": 5}, TypeError, "start_after is a str"),
        ({"end": 5}, TypeError, "end is a str"),
        ({"cursor": 5}, TypeError, "cursor is a str"),
        ({"cursor": "not one"}, ValueError, "'not one' is not a cursor that list returned"),
        ({"cursor": "YWJj!!!!"}, ValueError, "is not a cursor"),
        ({"cursor": "é"}, ValueError, "is not a cursor"),
        ({"cursor": "_w"}, ValueError, "is not a cursor"),
        ({"start": "a", "start_after": "b"}, ObjectError, "start or start_after, not both"),
    ],
)
def test_options_that_cannot_be_are_refused(
    options: dict[str, Any], error: type[Exception], told: str
) -> None:
    """By both, naming the option; the turn goes on."""

    async def handler(state: State) -> None:
        for use in (state.list, state.items):
            with pytest.raises(error, match=told):
                await use(**options)
        await state.put("b", 1)

    in_turn({"a": 1}, handler)


def test_a_page_reads_its_names_and_no_more() -> None:
    """Through 100,000 of them page by page: each scan ends with its page, and reads one row beyond it."""
    view = Committed()
    view.rows = {f"{n:06}": b"\x01" for n in range(100_000)}

    async def main() -> None:
        with InTurn(view) as state:
            await state.put("050000x", 1)
            pages, total, cursor = 0, 0, None
            while True:
                before = view.read
                page = await state.list(cursor=cursor)
                assert view.read - before <= MAX_LISTED + 1
                assert view.open == 0
                pages, total, cursor = pages + 1, total + len(page.keys), page.cursor
                if page.list_complete:
                    break
            assert (pages, total) == (101, 100_001)
            before = view.read
            assert len(await state.items(limit=10, reverse=True)) == 10
            assert view.read - before == 10
            assert view.open == 0

    asyncio.run(main())


def test_a_scan_that_fails_is_closed() -> None:
    """Also while the error is still looked at."""
    view = Committed(dict.fromkeys("abc", 1))
    view.rows["b"] = b"\xc1"  # no value at all

    async def main() -> None:
        with InTurn(view) as state:
            with pytest.raises(Exception, match="MessagePack") as caught:
                await state.items()
            assert view.open == 0
            assert caught.value is not None
            view.rows["b"] = b""
            with pytest.raises(IndexError) as caught_too:
                await state.list()
            assert view.open == 0
            assert caught_too.value is not None
            view.failure = StorageFailed("the disk is gone")
            with pytest.raises(StorageFailed):
                await state.list()
            assert view.open == 0

    asyncio.run(main())


def test_a_page_holds_nothing_of_the_store(tmp_path: Path) -> None:
    """RocksDB keeps its lock while an iterator lives: after one page it can be closed and opened again."""
    store = RocksStore(tmp_path)
    tables = Tables(store, 0)
    tables._fold_entry(
        Entry(0, "A/a", 1, OK, Reply(OK, 200, (), b""), puts={f"n{n}": b"\x01" for n in range(99)}), 0
    )
    tables.write_all()
    state = Activation("A/a", None, tables, InTurn().state._limits).state  # type: ignore[arg-type]  # no turn of its kind

    async def main() -> Listing:
        turn = object()
        current_turn.set(turn)
        state.begin(turn, Overlay(), 1)
        assert len(await state.items(limit=2)) == 2
        return await state.list(limit=1)

    page = asyncio.run(main())
    assert not page.list_complete
    store.close()
    RocksStore(tmp_path).close()
