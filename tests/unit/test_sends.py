"""Sends, as stories on virtual time: once, after commit, in order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.owners import Owners, story

from perdure.objects.durable import DurableObject
from perdure.schemas.commands import Command, parse_command, sealed_record
from perdure.schemas.errors import Refusal
from perdure.schemas.journal import Entry, NoOp
from perdure.schemas.replies import OK, Reply
from perdure.streams.journal.reader import Position
from perdure.streams.log.base import Record, Topic
from perdure.streams.state import answered_calls
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore

SHARED = pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])


class Thing(DurableObject):
    """Sends to others of its kind; keeps what it is sent."""

    async def note(self, mark: Any) -> None:
        self.env.seen.append((self.state.id.name, mark))
        marks = await self.state.get("marks", [])
        await self.state.put("marks", [*marks, mark])

    async def post(self, names: list[str], marks: list[Any], wait_s: float = 0, end: str = "") -> int:
        for mark in marks:
            for name in names:
                self.env.THINGS.get(name).send.note(mark)
        self.env.seen.append("sent")
        await asyncio.sleep(wait_s)
        if end == "refuse":
            raise Refusal
        if end == "fail":
            raise ValueError
        return len(marks)

    async def have_posted(self, by: str, name: str, mark: Any) -> int:
        posted: int = await self.env.THINGS.get(by).post([name], [mark])
        return posted

    async def note_and_fail(self, mark: Any) -> None:
        self.env.seen.append((self.state.id.name, mark))
        raise ValueError("no")


def commands(harness: Owners, name: str) -> int:
    return harness.broker.streams[Topic.COMMANDS, harness.place(name)].end


@SHARED
def test_a_send_arrives_once_after_its_turn_has_committed(shared: bool) -> None:
    """Not before; nobody is answered, it has no deadline, and the sender may send to itself."""

    async def told(harness: Owners) -> None:
        a, b = harness.name_in(0, "a"), harness.name_in(1, "b")
        asked = harness.send(a, "post", [b, a], [1], 1.0)
        await harness.until(lambda: "sent" in harness.seen)
        await asyncio.sleep(0.9)
        assert (commands(harness, a), commands(harness, b)) == (1, 0)
        assert [each.outcome for each in await harness.replies(asked)] == [OK]
        await harness.quiet()
        assert (harness.value(a, "marks"), harness.value(b, "marks")) == ([1], [1])
        (record,) = await harness.records(Topic.COMMANDS, harness.place(b))
        command = parse_command(record.key, record.value, record.headers, harness.ports.transport.seal)
        assert (command.client_key, command.principal) == ("send:0:0:1", f"@Thing/{a}")
        assert (command.reply_to, command.deadline_ms, command.chain) == ("none", None, ())
        assert [await harness.records(Topic.REPLIES, partition) for partition in range(3)] == [[], [], []]

    story(Thing, told, shared=shared)


@SHARED
def test_a_called_object_sends_under_the_mark_of_its_own_partition(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller's partition has long passed the offsets of the called one: its sends are no late copies."""

    async def told(harness: Owners) -> None:
        monkeypatch.setattr(answered_calls, "BLOCK", 4)
        a, b, c = (harness.name_in(n, letter) for n, letter in enumerate("abc"))
        for n in range(20):
            await harness.result(a, "note", n)
        for n in range(6):
            await harness.result(a, "have_posted", b, c, n)
            await harness.quiet()
        assert harness.value(c, "marks") == [0, 1, 2, 3, 4, 5]
        for record in await harness.records(Topic.COMMANDS, harness.place(c)):
            command = parse_command(record.key, record.value, record.headers, harness.ports.transport.seal)
            assert command.mark <= int((command.client_key or "").split(":")[2])

    story(Thing, told, shared=shared)


def test_a_mark_behind_its_own_send_is_not_believed() -> None:
    """Journals of earlier versions have such: they were of another partition, and later sends were lost."""
    tables = Tables(MemoryStore(), 1)
    for n, (at, mark) in enumerate([(10, 600), (300, 900), (301, 0), (600, 520), (601, 0)]):
        key = f"send:4:{at}:1"
        sent = Entry(n, "Thing/b", 0, OK, Reply(OK), principal="@Thing/a", client_key=key, mark=mark)
        tables.applied([sent], NoOp(0, 0), Position(n + 1, 0, n + 1, b"x"))
        assert tables.answered_calls.passed(4).floor == (0 if at < 601 else 512)


@SHARED
@pytest.mark.parametrize("end", ["refuse", "fail"])
def test_a_turn_that_rolls_back_has_sent_nothing(shared: bool, end: str) -> None:
    """What it would have sent is forgotten with its writes."""

    async def told(harness: Owners) -> None:
        reply = await harness.call("a", "post", ["b"], [1, 2], 0, end)
        assert reply.outcome != OK
        await harness.quiet()
        assert commands(harness, "b") == (harness.place("a") == harness.place("b"))
        assert [entry.outbox for entry in await harness.entries("a")] == [()]

    story(Thing, told, shared=shared)


@SHARED
def test_what_was_sent_is_let_out_again_after_a_crash_and_taken_once(shared: bool) -> None:
    """The crash comes when the entry is durable and nobody has acknowledged the sends."""

    async def told(harness: Owners) -> None:
        a, b = harness.name_in(0, "a"), harness.name_in(1, "b")
        harness.send(a, "post", [b], [1, 2, 3])
        await harness.until(lambda: harness.seen.count((b, 1)) == 1)
        await harness.crash()
        await harness.begin()
        await harness.until(lambda: harness.value(b, "marks") == [1, 2, 3])
        await harness.quiet()
        assert harness.value(b, "marks") == [1, 2, 3]
        assert harness.seen.count("sent") == 1

    story(Thing, told, shared=shared)


@pytest.mark.parametrize(
    "fates", [["lost"], ["never"], ["late"], ["ok", "never"], ["lost", "ok", "late", "never"]]
)
def test_sends_from_one_object_to_another_keep_their_order(fates: list[str]) -> None:
    """Also when an append of one of them fails and is made again; and each arrives once."""

    async def told(harness: Owners) -> None:
        a, b, c = harness.name_in(0, "a"), harness.name_in(1, "b"), harness.name_in(1, "c")
        asked = [harness.send(a, "post", [b, c], [n, n + 1], 0.1) for n in (1, 3, 5)]
        await harness.until(lambda: commands(harness, a) == 3)
        harness.faults.next = list(fates)
        await harness.replies(*asked)
        await harness.until(lambda: all((harness.value(x, "marks") or [])[-1:] == [6] for x in (b, c)))
        await asyncio.sleep(5)  # late ones land
        assert harness.value(b, "marks") == harness.value(c, "marks") == [1, 2, 3, 4, 5, 6]

    story(Thing, told, shared=True)


def test_a_send_whose_turn_fails_is_done_all_the_same() -> None:
    """Its failure is in the journal of the object it was sent to; the sender hears nothing."""

    class Failing(Thing):
        async def post(self, names: list[str], *rest: Any) -> int:
            self.env.THINGS.get(names[0]).send.note_and_fail(1)
            return 1

    async def told(harness: Owners) -> None:
        assert await harness.result("a", "post", ["b"]) == b"1"
        await harness.quiet()
        assert harness.seen == [("b", 1)]
        assert [entry.outcome for entry in await harness.entries("b")] == ["failed"]

    story(Failing, told)


def test_what_bears_no_seal_is_no_send() -> None:
    """A client cannot pose as an object, nor move a low mark."""

    async def told(harness: Owners) -> None:
        forged = Command("Thing/b", "call", "note", body=b'{"method":"note","args":[1]}')
        for envelope in (
            {"principal": "@Thing/a", "client_key": "send:0:0:1"},
            {"mark": 9},
            {"chain": ("x@0:0",)},
        ):
            plain = Command(
                *(getattr(forged, name) for name in ("key", "kind", "method")), body=forged.body, **envelope
            )
            key, value, headers = sealed_record(plain, harness.ports.transport.seal)
            unsealed = tuple(header for header in headers if header[0] != "seal")
            harness.log.append(Topic.COMMANDS, harness.place("b"), Record(key, value, unsealed))
        await harness.until(lambda: harness.broker.streams[Topic.DEAD, harness.place("b")].end == 3)
        assert harness.seen == []

    story(Thing, told)
