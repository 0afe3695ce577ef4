"""Commands under an idempotency key that is in flight, read from the log: they wait for the first one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.one_owner import OneOwner, story

from perdure.objects.durable import DurableObject
from perdure.schemas.commands import CALL, Command, call_body, command_record
from perdure.schemas.replies import OK, REJECTED, UNAVAILABLE, AnsweredCommand, parse_reply
from perdure.streams.log.base import Record, Topic
from perdure.streams.turns.ports import PartitionBounds

SHARED = pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])


class Thing(DurableObject):
    """Counts, slowly if it is asked to."""

    async def add(self, mark: Any = None, wait_s: float = 0) -> int:
        self.env.seen.append(mark)
        await asyncio.sleep(wait_s)
        count: int = await self.state.get("count", 0) + 1
        await self.state.put("count", count)
        return count


def send(harness: OneOwner, *args: Any, client_key: str | None = "k", **envelope: Any) -> int:
    """Append a call as a Kafka client does; its offset."""
    command = Command(
        "Thing/a", CALL, "add", body=call_body("add", list(args), {}), client_key=client_key, **envelope
    )
    return harness.append(Record(*command_record(command)))


async def answers(harness: OneOwner, *offsets: int) -> list[AnsweredCommand]:
    """The answers to these commands, once all are there."""
    found: dict[str, AnsweredCommand] = {}

    def all_there() -> bool:
        for record in harness.broker.streams[Topic.REPLIES, 0].records:
            answer = parse_reply(record.value, record.headers)
            found[answer.command] = answer
        return all(f"0:{offset}" in found for offset in offsets)

    await harness.until(all_there)
    return [found[f"0:{offset}"] for offset in offsets]


@SHARED
def test_a_copy_waits_for_the_first_one_and_gets_its_answer(shared: bool) -> None:
    """Also if another command of the object lies between; order and effects are those of the log."""

    async def told(harness: OneOwner) -> None:
        first = send(harness, "first", 2)
        between = send(harness, "between", client_key=None)
        copies = [send(harness, "first", 2) for _ in range(3)]
        said = [each.reply for each in await answers(harness, first, between, *copies)]
        assert [each.outcome for each in said] == [OK] * 5
        assert [each.body for each in said] == [b'{"result":%d}' % n for n in (1, 2, 1, 1, 1)]
        assert harness.seen == ["first", "between"]
        assert (await answers(harness, send(harness, "first", 2)))[0].reply == said[0]
        assert harness.value("a", "count") == 2

    story(Thing, told, shared=shared)


@SHARED
def test_a_copy_runs_if_the_first_one_was_not_done(shared: bool) -> None:
    """Its sender cannot send it again; further copies then wait for that one."""

    async def told(harness: OneOwner) -> None:
        slow = send(harness, "slow", 5, client_key=None)
        late = send(harness, "late", deadline_ms=1000)
        copies = [send(harness, "late") for _ in range(2)]
        said = [each.reply for each in await answers(harness, slow, late, *copies)]
        assert [each.outcome for each in said] == [OK, UNAVAILABLE, OK, OK]
        assert [each.body for each in said[2:]] == [b'{"result":2}'] * 2
        assert harness.seen == ["slow", "late"]

    story(Thing, told, shared=shared)


@SHARED
def test_a_copy_with_another_payload_is_refused(shared: bool) -> None:
    """As soon as it is known that the first one has spent the key."""

    async def told(harness: OneOwner) -> None:
        first, other = send(harness, "first", 1), send(harness, "other", 1)
        said = [each.reply for each in await answers(harness, first, other)]
        assert [each.outcome for each in said] == [OK, REJECTED]
        assert said[1].error is not None
        assert said[1].error.code == "key-reused"
        assert harness.seen == ["first"]

    story(Thing, told, shared=shared)


def test_copies_beyond_the_mailbox_wait_on_the_log() -> None:
    """Those that are kept as offsets only are found when they are read again."""

    async def told(harness: OneOwner) -> None:
        offsets = [send(harness, "first", 1) for _ in range(12)]
        said = [each.reply.body for each in await answers(harness, *offsets)]
        assert said == [b'{"result":1}'] * 12
        assert harness.seen == ["first"]

    story(Thing, told, bounds=PartitionBounds(mailbox=3))


def test_a_door_is_told_that_the_key_is_in_flight() -> None:
    """Its client can ask again, and is answered at once."""

    async def told(harness: OneOwner) -> None:
        first = harness.send("a", "add", "first", 2, client_key="k")
        second = harness.send("a", "add", "first", 2, client_key="k")
        (reply,) = await harness.replies(second)
        assert first not in harness.ingress.replies
        assert reply.error is not None
        assert reply.error.code == "key-in-flight"

    story(Thing, told)


@SHARED
def test_a_crash_forgets_no_copy(shared: bool) -> None:
    """Those that wait are read again, behind the first one."""

    async def told(harness: OneOwner) -> None:
        offsets = [send(harness, "first", 3) for _ in range(3)]
        await harness.until(lambda: harness.seen)
        await harness.end()
        await harness.begin()
        said = [each.reply.body for each in await answers(harness, *offsets)]
        assert said == [b'{"result":1}'] * 3
        assert harness.value("a", "count") == 1

    story(Thing, told, shared=shared)
