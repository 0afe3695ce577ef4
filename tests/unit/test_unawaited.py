"""Handlers that forget an `await`, in a world and in its log."""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from typing import Any

import pytest
from structlog.testing import capture_logs

from perdure import DurableObject, HandlerFailed
from perdure.schemas.errors import ObjectError
from perdure.streams.turns.supervision import unawaited
from perdure.testing import Stub, story, world


class Hasty(DurableObject):
    async def put(self) -> str:
        self.state.put("a", 1)  # type: ignore[unused-coroutine]  # the mistake
        return "done"

    async def call(self) -> str:
        await self.state.put("a", 1)
        self.env.Hasty.get("other").note()
        await asyncio.sleep(0.01)  # what is wrong is remembered while others run
        return "done"

    async def own(self) -> None:
        self.note()  # type: ignore[unused-coroutine]  # the mistake

    async def raises(self) -> None:
        self.state.put("a", 1)  # type: ignore[unused-coroutine]  # the mistake
        raise LookupError("its own")

    async def note(self) -> None:
        await self.state.put("noted", True)

    async def right(self) -> None:
        waiting = self.note()
        await asyncio.gather(waiting, self.state.put("b", 2))
        never = asyncio.create_task(self.note())
        never.cancel()
        await asyncio.wait([never])
        self.env.Hasty.get("other").send.note()


def line_of(method: str, within: int) -> int:
    return int(vars(Hasty)[method].__code__.co_firstlineno) + within


@pytest.mark.parametrize(
    ("method", "within", "code"),
    [
        ("put", 1, 'self.state.put("a", 1)'),
        ("call", 2, 'self.env.Hasty.get("other").note()'),
        ("own", 1, "self.note()"),
    ],
)
def test_what_is_never_awaited_fails_the_turn(method: str, within: int, code: str) -> None:
    """With the line, which also stands in the log; nothing is changed, and the object goes on."""

    @story
    async def told() -> None:
        async with world(Hasty) as env:
            stub: Stub = env.Hasty.get("a")
            with capture_logs() as logged, pytest.raises(ObjectError) as failed:
                await getattr(stub, method)()
            expected = f"{__file__}:{line_of(method, within)}: never awaited, so it did nothing: {code}"
            assert expected in str(failed.value)
            assert expected in logged[0]["error"]
            assert env.state(stub) == {}
            await stub.note()
            assert env.state(stub) == {"noted": True}

    told()


class Reader(DurableObject):
    async def alone(self) -> None:
        self.state.get("a")  # type: ignore[unused-coroutine]  # the mistake

    async def asked(self) -> None:
        if self.state.get("a"):
            await self.state.put("b", 1)

    async def added(self) -> None:
        await self.state.put("a", self.state.get("a", 0) + 1)

    async def kept(self) -> Any:
        found: Any = self.state.get("a", 0)
        return found.size

    async def listed(self) -> Any:
        items: Any = self.state.items()
        return list(items)

    async def stored(self) -> None:
        await self.state.put("a", self.state.get("b"))

    async def returned(self) -> Any:
        return self.state.get("a")

    async def told(self) -> Any:
        return {"a": self.state.get("a")}


@pytest.mark.parametrize(
    ("method", "hint"),
    [
        ("alone", 'never awaited, so it did nothing: self.state.get("a")'),
        ("asked", 'never awaited, so it did nothing: if self.state.get("a"):'),
        ("added", "an `await` is missing before the call that gave the coroutine"),
        ("kept", "an `await` is missing before the call that gave the coroutine"),
        ("listed", "an `await` is missing before the call that gave the coroutine"),
        ("stored", "an `await` is missing before the call that gave the coroutine"),
        ("told", "an `await` is missing before the call that gave the coroutine"),
        ("returned", "an `await` is missing before State.get(…)"),
    ],
)
def test_a_read_that_is_not_awaited_gets_a_hint(method: str, hint: str) -> None:
    """Once, whether its coroutine is let fall or used as if it were the value; in the log too."""

    @story
    async def told() -> None:
        async with world(Reader) as env:
            with capture_logs() as logged, pytest.raises(ObjectError) as failed:
                await getattr(env.Reader.get("a"), method)()
            assert hint in str(failed.value)
            assert hint in logged[0]["error"]
            assert str(failed.value).count("an `await`") == hint.count("an `await`")

    told()


@story
async def test_what_the_handler_raised_comes_first() -> None:
    """The mistake behind it is told when that is mended."""
    async with world(Hasty) as env:
        with pytest.raises(HandlerFailed, match="LookupError: its own"):
            await env.Hasty.get("a").raises()


@story
async def test_what_is_awaited_later_or_cancelled_or_sent_is_no_mistake() -> None:
    """Tasks, gather, a Task that never began, a send."""
    async with world(Hasty) as env:
        stub = env.Hasty.get("a")
        await stub.right()
        gc.collect()
        assert env.state(stub) == {"noted": True, "b": 2}


@story
async def test_outside_of_turns_the_warning_is_what_it_was() -> None:
    """While a world is open, and after it."""

    async def forgotten() -> None: ...

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with world(Hasty):
            forgotten()  # type: ignore[unused-coroutine]  # the mistake
        forgotten()  # type: ignore[unused-coroutine]  # as above
    assert ["never awaited" in str(each.message) for each in caught] == [True, True]


@story
async def test_filters_of_others_stay_as_they_are() -> None:
    """What the program sets while a world is open is still set after it, and a
    world within another one ends as it may.
    """
    with warnings.catch_warnings():
        shown = warnings.showwarning
        first, second = world(Hasty), world(Hasty)
        await first.__aenter__()
        warnings.filterwarnings("ignore", "set meanwhile")
        filters = list(warnings.filters)
        env = await second.__aenter__()
        await first.__aexit__(None, None, None)  # not in their order
        with pytest.raises(ObjectError, match="never awaited"):
            await env.Hasty.get("a").put()
        await second.__aexit__(None, None, None)
        assert (warnings.filters, warnings.showwarning) == (filters, shown)


@pytest.mark.parametrize("depth", [0, 2])
def test_a_warning_outside_of_turns_names_the_line_that_dropped_the_coroutine(depth: int) -> None:
    """As without a watch: the same text, category, file and line, with the place of
    creation if that is tracked.
    """

    async def forgotten() -> None: ...

    def warned() -> list[tuple[str, type[Warning], str, int]]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            forgotten()  # type: ignore[unused-coroutine]  # the mistake
        return [(str(each.message), each.category, each.filename, each.lineno) for each in caught]

    tracked = sys.get_coroutine_origin_tracking_depth()
    sys.set_coroutine_origin_tracking_depth(depth)
    try:
        found = []
        for watch in (lambda: lambda: None, unawaited.watch):
            unwatch = watch()
            found.append(warned())
            unwatch()
    finally:
        sys.set_coroutine_origin_tracking_depth(tracked)
    assert len(found[0]) == 1
    assert found[1] == found[0]


def test_this_python_has_the_hook() -> None:
    """It is CPython's own, and private: a version without it would leave the mistake unnamed."""
    assert callable(getattr(warnings, unawaited.HOOK))
