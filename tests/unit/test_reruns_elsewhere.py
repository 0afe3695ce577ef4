"""Turns that run again on a node that does not serve the partitions they had
called: compared with those all the same.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.owners import Owners, story

from perdure.objects.durable import DurableObject
from perdure.schemas.admin import CALLS_OF
from perdure.schemas.calls import Root
from perdure.schemas.commands import ADMIN, Command, parse_command, sealed_record
from perdure.schemas.errors import Refusal
from perdure.schemas.replies import FAILED, OK, REFUSED, REJECTED, UNAVAILABLE, Reply
from perdure.streams.log.base import Record, Topic
from perdure.streams.turns import known_calls, reruns
from perdure.streams.turns.known_calls import Earlier, KnownCalls, Made, RemoteCalls
from perdure.streams.turns.ports import UNSEALED, OwnerState


class Thing(DurableObject):
    """How often a method was run is in `env.seen`."""

    def first(self, what: str) -> bool:
        self.env.seen.append(what)
        return bool(self.env.seen.count(what) == 1)

    async def add(self, by: int = 1) -> int:
        count: int = await self.state.get("count", 0) + by
        await self.state.put("count", count)
        return count

    async def steady(self, *names: str) -> list[int]:
        """Asks for the same whenever it runs."""
        first = self.first("steady")
        found = [await self.env.THINGS.get(name).add() for name in names]
        self.env.seen.append("called")
        if first:
            await asyncio.sleep(100)
        return found

    async def turncoat(self, name: str) -> None:
        """Refuses in its second run, before it asks."""
        if not self.first("turncoat"):
            raise Refusal("changed my mind")
        await self.env.THINGS.get(name).add()
        self.env.seen.append("called")
        await asyncio.sleep(100)

    async def slow_add(self) -> None:
        self.env.seen.append("adding")
        await asyncio.sleep(3)
        await self.state.put("count", 1)

    async def slowcoat(self, name: str) -> None:
        if not self.first("slowcoat"):
            raise Refusal("changed my mind")
        await self.env.THINGS.get(name).slow_add()

    async def fickle(self, name: str) -> None:
        """The first call is the same in each run, the second is not."""
        by = 10 if self.first("fickle") else 20
        await self.env.THINGS.get(name).add(1)
        await self.env.THINGS.get(name).add(by)
        self.env.seen.append("called")
        await asyncio.sleep(100 if by == 10 else 0)

    async def nothing(self) -> None:
        """Calls nobody."""
        await self.state.put("x", 1)


async def apart(harness: Owners) -> tuple[str, str]:
    """Two objects, each in a partition of a node of its own."""
    first = harness.owners
    await harness.begin(1)
    await harness.begin(0)
    names = harness.name_in(0), harness.name_in(1)
    for name in names:
        await harness.call(name, "nothing")
    await harness.until(lambda: all(owner.state is OwnerState.FENCED for owner in first))
    return names


async def questions(harness: Owners, partition: int) -> int:
    """How many records of that partition ask it for calls."""
    found = 0
    for each in await harness.records(Topic.COMMANDS, partition):
        command = parse_command(each.key, each.value, each.headers, UNSEALED)
        found += command.kind == ADMIN and command.method == CALLS_OF
    return found


def failure(reply: Reply) -> tuple[str, str, str]:
    assert reply.error is not None, reply
    return reply.outcome, reply.error.code, reply.error.message


def test_a_call_in_a_partition_of_another_node_is_missed() -> None:
    """It was made before the owner changed; the new owner's node does not serve the
    partition that answered it.
    """

    async def told(harness: Owners) -> None:
        a, b = await apart(harness)
        asked = harness.send(a, "turncoat", b)
        await harness.until(lambda: "called" in harness.seen)
        await harness.begin(0)
        outcome, code, message = failure((await harness.replies(asked))[0])
        assert (outcome, code) == (FAILED, "non-deterministic")
        assert (
            f"nothing in its place now, call add 1 of Thing/{b}" in message.replace("  ", " ") or b in message
        )
        assert "Refusal: changed my mind" in message
        assert harness.value(b) == 1

    story(Thing, told, shared=True, partitions=2)


def silent(self: RemoteCalls) -> list[int]:
    """Planted: no other node is asked."""
    return []


def stored(self: KnownCalls, root: Root) -> Earlier:
    """Planted: calls that are under way are not told."""
    return Earlier(
        tuple((key, Made(each.key, "")) for key, each in self._tables.answered_calls.of_root(root))
    )


def test_a_call_that_is_under_way_on_another_node_is_missed() -> None:
    """It has no answer yet, and will take effect."""

    async def told(harness: Owners) -> None:
        a, b = await apart(harness)
        asked = harness.send(a, "slowcoat", b)
        await harness.until(lambda: "adding" in harness.seen)
        await harness.begin(0)
        assert failure((await harness.replies(asked))[0])[:2] == (FAILED, "non-deterministic")

    story(Thing, told, shared=True, partitions=2)


@pytest.mark.parametrize(
    ("place", "name", "bug", "case"),
    [
        (RemoteCalls, "partitions", silent, test_a_call_in_a_partition_of_another_node_is_missed),
        (KnownCalls, "earlier", stored, test_a_call_that_is_under_way_on_another_node_is_missed),
    ],
)
def test_these_stories_catch_a_planted_bug(
    place: type, name: str, bug: Callable[..., Any], case: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes that are not asked, or say half, are noticed here: the random runs have
    few partitions of two nodes.
    """
    monkeypatch.setattr(place, name, bug)
    with pytest.raises(AssertionError):
        case()


def test_both_calls_are_named_and_not_one_that_is_the_same() -> None:
    """The first call is the same one as before: the other node says that it knew it."""

    async def told(harness: Owners) -> None:
        a, b = await apart(harness)
        asked = harness.send(a, "fickle", b)
        await harness.until(lambda: "called" in harness.seen)
        await harness.begin(0)
        outcome, code, message = failure((await harness.replies(asked))[0])
        assert (outcome, code) == (FAILED, "non-deterministic")
        now, _, before = message.partition(" now, ")
        entries = [each for each in await harness.entries(b) if each.summary.startswith("call add")]
        same, old, new = (_hash_of(entries, by) for by in (1, 10, 20))
        assert new in now
        assert old in before
        assert same not in message

    story(Thing, told, shared=True, partitions=2)


def _hash_of(entries: list[Any], by: int) -> str:
    """What stands in messages for the call that added so much."""
    (found,) = {each.payload_hash.hex()[:8] for each in entries if _added(entries, each) == by}
    return str(found)


def _added(entries: list[Any], entry: Any) -> int:
    sums = [json.loads(each.reply.body)["result"] for each in entries]
    at = entries.index(entry)
    return int(sums[at] - (sums[at - 1] if at else 0))


@pytest.mark.parametrize("key", [None, "k"])
def test_a_turn_that_asks_for_the_same_is_done(key: str | None) -> None:
    """Each call once; the answers are those of then."""

    async def told(harness: Owners) -> None:
        a, b = await apart(harness)
        asked = harness.send(a, "steady", b, b, client_key=key)
        await harness.until(lambda: "called" in harness.seen)
        await harness.begin(0)
        (reply,) = await harness.replies(asked)
        assert (reply.outcome, reply.body) == (OK, b'{"result":[1,2]}')
        assert harness.value(b) == 2

    story(Thing, told, shared=True, partitions=2)


def test_a_command_repeated_under_its_key_is_compared_with_other_nodes() -> None:
    """No owner has changed: it had called, ran out of time, and is asked for again."""

    async def told(harness: Owners) -> None:
        a, b = await apart(harness)
        envelope: dict[str, Any] = {"client_key": "k", "deadline_ms": 2000}
        assert failure(await harness.call(a, "turncoat", b, **envelope))[:2] == (UNAVAILABLE, "expired")
        assert failure(await harness.call(a, "turncoat", b, **envelope))[:2] == (FAILED, "non-deterministic")

    story(Thing, told, shared=True, partitions=2)


def test_a_partition_that_does_not_answer_is_left_out_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the bound the turn ends as it is; the next ones do not wait for it."""
    left_out: list[list[int]] = []
    monkeypatch.setattr(reruns, "not_compared", lambda turn, partitions: left_out.append(partitions))

    async def told(harness: Owners) -> None:
        a, b = await apart(harness)
        asked = harness.send(a, "turncoat", b)
        await harness.until(lambda: "called" in harness.seen)
        down = harness.by_partition[1]
        down.log.kill()  # type: ignore[attr-defined]
        await harness.end(down)
        await harness.begin(0)
        now_s = asyncio.get_running_loop().time()
        assert failure((await harness.replies(asked))[0])[0] == REFUSED
        took_s = asyncio.get_running_loop().time() - now_s
        assert known_calls.BOUND_S <= took_s + 0.1 <= 2 * known_calls.BOUND_S + 1
        assert left_out == [[1]]

    story(Thing, told, check=False, shared=True, partitions=2)


def test_many_that_may_have_run_ask_together() -> None:
    """One object has a long row of commands with keys when its owner changes."""

    async def told(harness: Owners) -> None:
        a, b = await apart(harness)
        asked = [harness.send(a, "steady", b, client_key="k")]
        await harness.until(lambda: "called" in harness.seen)
        asked += [harness.send(a, "nothing", client_key=f"k{n}") for n in range(300)]
        await asyncio.sleep(1)
        await harness.begin(0)
        assert {reply.outcome for reply in await harness.replies(*asked)} == {OK}
        assert await questions(harness, 1) < 10

    story(Thing, told, shared=True, partitions=2)


@pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])
def test_nothing_is_asked_where_all_is_of_this_process(shared: bool) -> None:
    """What other nodes could know is not asked where there are none."""

    async def told(harness: Owners) -> None:
        a, b = harness.name_in(0), harness.name_in(1)
        asked = harness.send(a, "steady", b)
        await harness.until(lambda: "called" in harness.seen)
        await harness.crash()
        await harness.begin()
        assert (await harness.replies(asked))[0].outcome == OK
        assert await questions(harness, 0) + await questions(harness, 1) == 0

    story(Thing, told, shared=shared, partitions=2)


def test_a_question_that_makes_no_sense_is_refused() -> None:
    """It is sealed, so another version has asked it: that is told it, and the partition goes on."""

    async def told(harness: Owners) -> None:
        name = harness.name_in(1)
        command = Command(f"Thing/{name}", ADMIN, CALLS_OF, body=b"\xc1", id="q", reply_to="local")
        harness.log.append(Topic.COMMANDS, 1, Record(*sealed_record(command, UNSEALED)))
        assert failure((await harness.replies("q"))[0])[0] == REJECTED
        assert await harness.result(name, "add") == b"1"

    story(Thing, told, partitions=2)
