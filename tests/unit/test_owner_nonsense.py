"""Handlers whose answers cannot be written down: each fails its own turn, told by a
typed error, and nothing else.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
from tests.unit.one_owner import OneOwner, story

from perdure.objects.durable import DurableObject
from perdure.schemas.errors import Refusal
from perdure.schemas.replies import FAILED, OK


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("even its text fails")


class Thing(DurableObject):
    async def add(self) -> int:
        count: int = await self.state.get("count", 0) + 1
        await self.state.put("count", count)
        return count

    async def recurse(self) -> None:
        await self.recurse()

    async def leave(self) -> None:
        sys.exit(3)

    async def out_of_memory(self) -> None:
        raise MemoryError

    async def text_is_no_utf8(self) -> None:
        raise ValueError("\ud800")

    async def text_fails(self) -> None:
        raise Unspeakable

    async def refuses_in_no_utf8(self) -> None:
        raise Refusal("\ud800")

    async def refuses_with_an_object(self) -> None:
        raise Refusal("no", detail=object())

    async def refuses_with_no_word(self) -> None:
        raise Refusal("no", code=["x"])  # type: ignore[arg-type]  # what a user may do

    async def puts_a_name_that_is_no_utf8(self) -> None:
        await self.state.put("\ud800", 1)

    async def gets_a_name_that_is_no_utf8(self) -> Any:
        return await self.state.get("\ud800", "none")

    async def gets_a_name_that_is_no_str(self) -> Any:
        return await self.state.get(5)  # type: ignore[arg-type]  # what a user may do

    async def deletes_a_name_that_is_no_utf8(self) -> Any:
        return await self.state.delete("\ud800")

    async def lists_from_a_name_that_is_no_utf8(self) -> Any:
        return list(await self.state.items(start="\ud800", prefix="\udfff"))

    async def returns_no_json(self) -> Any:
        return object()

    async def returns_no_utf8(self) -> Any:
        return "\ud800"

    async def returns_a_cycle(self) -> Any:
        cycle: list[Any] = []
        cycle.append(cycle)
        return cycle


CLEAN = {
    "recurse": (FAILED, "handler-failed"),
    "leave": (FAILED, "handler-failed"),
    "out_of_memory": (FAILED, "handler-failed"),
    "returns_no_json": (FAILED, "bad-reply"),
    "returns_no_utf8": (FAILED, "bad-reply"),
    "returns_a_cycle": (FAILED, "bad-reply"),
    "puts_a_name_that_is_no_utf8": (FAILED, "unstorable-value"),
    "gets_a_name_that_is_no_str": (FAILED, "handler-failed"),
    "gets_a_name_that_is_no_utf8": (OK, ""),
    "deletes_a_name_that_is_no_utf8": (OK, ""),
    "lists_from_a_name_that_is_no_utf8": (OK, ""),
    "text_is_no_utf8": (FAILED, "handler-failed"),
    "text_fails": (FAILED, "handler-failed"),
    "refuses_in_no_utf8": ("refused", "refused"),
    "refuses_with_an_object": (FAILED, "bad-reply"),
    "refuses_with_no_word": (FAILED, "bad-reply"),
}


@pytest.mark.parametrize("method", CLEAN)
def test_a_handlers_nonsense_is_its_own_failure(method: str) -> None:
    """The sender is told, nothing of the turn stays, and the partition serves the next command."""

    async def told(harness: OneOwner) -> None:
        reply = await harness.call("a", method)
        assert (reply.outcome, reply.error.code if reply.error else "") == CLEAN[method]
        assert (await harness.call("b", "add")).body == b'{"result":1}'
        assert (await harness.call("a", "add")).body == b'{"result":1}'

    story(Thing, told)


@pytest.mark.parametrize(
    "value",
    [
        b'{"method": "add", "kwargs": {"\\ud800": 1}}',
        b'{"method": "\\ud800"}',
        b'{"method": "add", "args": ["\xed\xa0\x80"]}',
        b'{"method": "add\\u0000"}',
        b'{"method": "add", "kwargs": {"\\u202e": 1, "self": 2}}',
        b'{"method": "fetch"}',
        b'{"method": "__init__"}',
    ],
)
def test_nonsense_from_outside_stops_nothing(value: bytes) -> None:
    """Whatever a call names, it is answered, and the partition goes on."""

    async def told(harness: OneOwner) -> None:
        offset = harness.append_raw(b"Thing/a", value, (("reply-to", b"local"),))
        (reply,) = await harness.replies(offset)
        assert reply.outcome == "rejected"
        assert (await harness.call("a", "add")).body == b'{"result":1}'

    story(Thing, told)
