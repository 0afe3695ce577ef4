"""Commands that were produced into a partition that is not their key's home, as stories on virtual time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.unit.owners import Owners, story

from perdure.objects.durable import DurableObject
from perdure.schemas.commands import (
    ALARM,
    CALL,
    NOBODY,
    Command,
    call_body,
    command_record,
    parse_command,
    sealed_record,
)
from perdure.schemas.errors import MalformedCommand
from perdure.schemas.forwards import Origin, forward, origin_in, received
from perdure.schemas.replies import FORWARDED, OK, UNAVAILABLE, AnsweredCommand, parse_reply
from perdure.streams.log.base import LogRecord, Record, Topic
from perdure.streams.owner import forwarding
from perdure.streams.turns.ports import UNSEALED, PartitionBounds

SHARED = pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])


class Thing(DurableObject):
    """Counts, and keeps what it was sent."""

    async def add(self, mark: Any = None) -> int:
        self.env.seen.append((self.state.id.name, mark))
        count: int = await self.state.get("count", 0) + 1
        await self.state.put("count", count)
        return count

    async def hold(self) -> None:
        await asyncio.sleep(20.0)

    async def look(self) -> int:
        self.env.seen.append("looked")
        count: int = await self.state.get("count", 0)
        return count


def elsewhere(harness: Owners, name: str) -> int:
    """A partition that is not the home of an object."""
    return (harness.place(name) + 1) % harness.partitions


def call(name: str, method: str = "add", *args: Any, **envelope: Any) -> Record:
    """The record of a client's call."""
    command = Command(f"Thing/{name}", CALL, method, body=call_body(method, list(args), {}), **envelope)
    return Record(*(sealed_record(command, UNSEALED) if command.internal else command_record(command)))


async def append(harness: Owners, partition: int, record: Record) -> int:
    """The offset at which a record lies."""
    end = (await harness.log.bounds(Topic.COMMANDS, partition)).end
    harness.log.append(Topic.COMMANDS, partition, record)
    await harness.until(lambda: harness.broker.streams[Topic.COMMANDS, partition].durable > end)
    return end


async def answers(harness: Owners, partition: int) -> list[tuple[bytes | None, AnsweredCommand]]:
    """(key, answer) of each reply in a partition."""
    records = await harness.records(Topic.REPLIES, partition)
    return [(each.key, parse_reply(each.value, each.headers)) for each in records]


async def forwards(harness: Owners, name: str) -> list[LogRecord]:
    """The forwards on the log of an object's home."""
    records = await harness.records(Topic.COMMANDS, harness.place(name))
    return [each for each in records if "perdure-forwarded" in dict(each.headers)]


@SHARED
def test_a_misplaced_command_runs_at_home_and_is_answered_where_it_was_sent(shared: bool) -> None:
    """Once, whatever the headers; the answer names the place that the sender's delivery report names."""

    async def told(harness: Owners) -> None:
        away = elsewhere(harness, "a")
        bare = Record(b"Thing/a", b'{"method": "add", "args": [1]}')
        at = await append(harness, away, bare)
        await harness.quiet()
        assert harness.seen == [("a", 1)]
        ((key, answer),) = await answers(harness, away)
        assert (key, answer.correlation_id) == (b"Thing/a", f"{away}:{at}")
        assert json.loads(answer.reply.body) == {"result": 1}
        (entry,) = [each for each in await harness.entries("a") if each.outcome == OK]
        assert (entry.command, answer.command) == (0, f"{harness.place('a')}:0")
        assert await harness.records(Topic.DEAD, away) == []

    story(Thing, told, shared=shared)


@SHARED
def test_a_forward_keeps_what_its_sender_said(shared: bool) -> None:
    """Id, reply address, principal, idempotency key: as if the record had been placed well."""

    async def told(harness: Owners) -> None:
        away, home = elsewhere(harness, "a"), harness.place("a")
        for _ in range(2):
            record = call("a", id="mine", reply_to="2/desk", client_key="k", principal="pat", traceparent="t")
            await append(harness, away, record)
            await harness.quiet()
        await append(harness, home, call("a", id="third", client_key="k", principal="pat"))
        await harness.quiet()
        assert harness.value("a") == 1
        said = [each for each in await answers(harness, 2) if each[0] == b"desk"]
        assert [(each.correlation_id, each.reply.body) for _, each in said] == [("mine", b'{"result":1}')] * 2
        sent = await forwards(harness, "a")
        command = parse_command(sent[0].key, sent[0].value, sent[0].headers, UNSEALED)
        assert (command.principal, command.client_key, command.traceparent) == ("pat", "k", "t")

    story(Thing, told, shared=shared)


def test_a_one_way_command_is_forwarded_and_not_answered() -> None:
    """A sender that wants no answer gets none."""

    async def told(harness: Owners) -> None:
        await append(harness, elsewhere(harness, "a"), call("a", reply_to=NOBODY))
        await harness.quiet()
        assert harness.value("a") == 1
        assert [await answers(harness, p) for p in range(3)] == [[], [], []]

    story(Thing, told)


@SHARED
def test_commands_of_one_partition_keep_their_order(shared: bool) -> None:
    """Also if some of the appends are lost, and made again."""

    async def told(harness: Owners) -> None:
        away = elsewhere(harness, "a")
        for n in range(30):
            harness.log.append(Topic.COMMANDS, away, call("a", "add", n))
        await harness.until(lambda: harness.broker.streams[Topic.COMMANDS, away].durable == 30)
        if shared:
            harness.faults.next = ["lost", "ok", "never", "late"] * 3
        await harness.until(lambda: len(harness.seen) == 30)
        await harness.quiet()
        assert harness.seen == [("a", n) for n in range(30)]

    story(Thing, told, shared=shared)


@SHARED
def test_a_forward_that_is_sent_again_runs_once(shared: bool) -> None:
    """A copy behind it, before or after it was folded, is done without an effect, and without an answer."""

    async def told(harness: Owners) -> None:
        away, home = elsewhere(harness, "a"), harness.place("a")
        await append(harness, away, call("a", "look"))
        await append(harness, away, call("a", "add"))
        await harness.quiet()
        sent = await forwards(harness, "a")
        for each in sent:
            await append(harness, home, Record(each.key, each.value, each.headers))
        await harness.quiet()
        await harness.crash()
        await harness.begin()
        for each in sent:
            await append(harness, home, Record(each.key, each.value, each.headers))
        await harness.quiet()
        assert harness.seen == ["looked", ("a", None)]
        assert len(await answers(harness, away)) == 2

    story(Thing, told, shared=shared)


def test_a_late_copy_of_a_forward_does_not_run() -> None:
    """Its row is removed when the partition that it is from has passed it; a copy is then late, and known
    as such.
    """

    async def told(harness: Owners) -> None:
        away, home = elsewhere(harness, "a"), harness.place("a")
        first = await append(harness, away, call("a", "add", 0))
        await harness.quiet()
        for n in range(1, 600):
            harness.log.append(Topic.COMMANDS, away, call("a", "add", n))
            if n % 50 == 0:
                await harness.quiet()
        await harness.quiet()
        sent = await forwards(harness, "a")
        assert origin_in(dict(sent[0].headers)["perdure-forwarded"].decode()).offset == first
        assert harness.owner_of("a").tables.answered_calls.passed(away).floor > first
        await append(harness, home, Record(sent[0].key, sent[0].value, sent[0].headers))
        await harness.quiet()
        assert harness.value("a") == 600

    story(Thing, told)


def test_the_deadline_of_a_forward_is_that_of_the_original() -> None:
    """What it waited before it arrived at home counts."""

    async def told(harness: Owners) -> None:
        away, home = elsewhere(harness, "a"), harness.place("a")
        harness.faults.delays = {"append": 2.0}
        harness.log.append(Topic.COMMANDS, away, call("a", deadline_ms=3000))
        harness.log.append(Topic.COMMANDS, away, call("a", deadline_ms=30_000))
        await harness.quiet()
        said = [each.reply for _, each in await answers(harness, away)]
        assert [each.outcome for each in said] == [UNAVAILABLE, OK]
        assert harness.seen == [("a", None)]
        assert home != away

    command = Command("Thing/a", CALL, "add", deadline_ms=1000, forwarded="1:2:5000")
    assert [received(command, at).deadline_ms for at in (4000, 5000, 5400, 9000)] == [1000, 1000, 600, 0]
    story(Thing, told, shared=True)


def test_a_forward_that_waits_behind_a_full_mailbox_keeps_its_deadline() -> None:
    """There it waits as its offset only: what it waited before it arrived counts all the same."""

    async def told(harness: Owners) -> None:
        away, home = elsewhere(harness, "a"), harness.place("a")
        await append(harness, home, call("a", "hold"))
        await append(harness, home, call("a", "add", "fills the mailbox"))
        harness.faults.delays = {"append": 2.0}
        harness.log.append(Topic.COMMANDS, away, call("a", "add", "too late", deadline_ms=17_000))
        harness.log.append(Topic.COMMANDS, away, call("a", "add", "in time", deadline_ms=60_000))
        await harness.quiet()
        assert [mark for _, mark in harness.seen] == ["fills the mailbox", "in time"]

    story(Thing, told, shared=True, bounds=PartitionBounds(mailbox=1))


def test_what_meant_nothing_in_the_original_means_nothing_under_the_seal() -> None:
    """A forward is written from the command: a foreign `principal`, `kind` or `socket` does not travel."""

    async def told(harness: Owners) -> None:
        foreign = (("kind", b"call"), ("principal", b"admin"), ("chain", b"Thing/x@0:0"), ("x", b"y"))
        await append(harness, elsewhere(harness, "a"), Record(b"Thing/a", b'{"method": "add"}', foreign))
        await harness.quiet()
        (sent,) = await forwards(harness, "a")
        command = parse_command(sent.key, sent.value, sent.headers, UNSEALED)
        assert (command.principal, command.chain, harness.value("a")) == ("", (), 1)
        names = {name for name, _ in sent.headers}
        assert not names & {"principal", "chain", "x"}

    story(Thing, told)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (call("a", forwarded="1:2:3"), b"belongs to partition"),
        (Record(b"Thing/a", b'{"method": "add"}', (("perdure-forwarded", b"1:2:3"),)), b"forwarded commands"),
        (Record(*sealed_record(Command("Thing/a", ALARM, "tick", body=b"{}"), UNSEALED)), b"not forwarded"),
        (call("a", principal="@Thing/b", client_key="send:0:7:1"), b"not forwarded"),
        (call("a", "add", "x" * (9 << 20)), b"too large"),
    ],
    ids=["forward of a forward", "forged", "alarm", "send", "too large"],
)
def test_what_is_not_forwarded_is_a_dead_letter(record: Record, why: bytes) -> None:
    """A forward that is not at home, what only perdure sends, and what has no room in an entry."""

    async def told(harness: Owners) -> None:
        away = elsewhere(harness, "a")
        await append(harness, away, record)
        await harness.quiet()
        (letter,) = await harness.records(Topic.DEAD, away)
        assert why in dict(letter.headers)["reason"]
        assert harness.seen == []
        assert await forwards(harness, "a") == []

    story(Thing, told)


@SHARED
def test_forwards_that_are_under_way_are_bounded(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is behind them waits on the log, in order; what is placed well is not held up."""
    monkeypatch.setattr(forwarding, "UNDER_WAY", 3)

    async def told(harness: Owners) -> None:
        away, home = elsewhere(harness, "a"), harness.place("a")
        there = harness.name_in(away)
        owner, most = harness.owners[away], 0
        harness.faults.delays = {"append": 0.2, "commit": 0.2}
        for n in range(40):
            harness.log.append(Topic.COMMANDS, away, call("a", "add", n))
        harness.log.append(Topic.COMMANDS, away, call(there, "add", "placed well"))

        def all_there() -> bool:
            nonlocal most
            most = max(most, owner.output.under_way.get(home, (0, 0))[0])
            return len(harness.seen) == 41

        await harness.until(all_there)
        await harness.quiet()
        assert [mark for name, mark in harness.seen if name == "a"] == list(range(40))
        assert 0 < most <= 3
        assert harness.seen.index((there, "placed well")) < 40 or not shared
        assert owner.output.under_way[home] == (0, 0)

    story(Thing, told, shared=shared)


def test_forwards_and_what_waits_survive_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them arrive, once, in order, however often the process dies."""
    monkeypatch.setattr(forwarding, "UNDER_WAY", 2)

    async def told(harness: Owners) -> None:
        away = elsewhere(harness, "a")
        harness.faults.delays = {"append": 0.05}
        for n in range(20):
            harness.log.append(Topic.COMMANDS, away, call("a", "add", n))
        await harness.until(lambda: harness.broker.streams[Topic.COMMANDS, away].durable == 20)
        for _ in range(4):
            before = len(harness.seen)
            await harness.until(lambda before=before: len(harness.seen) > before)
            await harness.crash()
            await harness.begin()
        await harness.quiet()
        marks = [mark for _, mark in dict.fromkeys(harness.seen)]
        assert marks == list(range(20))
        assert harness.value("a") == 20

    story(Thing, told, shared=True)


def test_the_reply_address_of_a_forward() -> None:
    """It names the partition that the sender wrote to, unless the sender named one that there is."""
    for said, due in (
        ("", "2/Thing/a"),
        ("local", "2/Thing/a"),
        ("desk", "2/desk"),
        ("1/desk", "1/desk"),
        ("9/desk", "2/9/desk"),
        (NOBODY, NOBODY),
    ):
        moved = forward(Command("Thing/a", CALL, "add", reply_to=said), Origin(2, 7, 5), 3, 4)
        assert (moved.reply_to, moved.id, moved.mark, moved.forwarded) == (due, "2:7", 3, "2:7:5")
    for text in ("", "1:2", "1:2:x", "-1:2:3", "1:2:3:4", f"1:2:{'9' * 30}"):
        with pytest.raises(MalformedCommand, match="origin"):
            origin_in(text)
    assert origin_in(str(Origin(1, 2, 3))) == (1, 2, 3)
    assert FORWARDED not in (OK, UNAVAILABLE)
