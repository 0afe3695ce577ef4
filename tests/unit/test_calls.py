"""Calls between objects, as stories on virtual time: answers, errors, crashes, copies, deadlines, rings."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.one_owner import START_MS
from tests.unit.owners import Owners, story

from perdure.objects.durable import DurableObject
from perdure.objects.http import Request, Response
from perdure.objects.names import ObjectId
from perdure.schemas.calls import CallKey, content_of
from perdure.schemas.commands import CALL, Command, call_body, parse_command
from perdure.schemas.errors import (
    BadKey,
    Deadlock,
    Expired,
    HandlerFailed,
    InvalidArguments,
    PerdureError,
    Refusal,
    TurnEnded,
)
from perdure.schemas.journal import Entry, EntryRecord, NoOp, decode_record, in_runs
from perdure.schemas.replies import FAILED, OK, REFUSED, UNAVAILABLE, Reply
from perdure.streams.journal.reader import Position
from perdure.streams.log.base import Topic
from perdure.streams.state.answered_calls import BLOCK
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore
from perdure.streams.turns.pending_calls import Call
from perdure.streams.turns.ports import OwnerState, PartitionBounds

SHARED = pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])


class Thing(DurableObject):
    """Calls others of its kind. What happens shows in `env.seen` and in the state."""

    def other(self, name: str) -> Any:
        return self.env.THINGS.get(name)

    async def fetch(self, request: Request) -> Response:
        if "x-fail" in request.headers:
            raise Refusal("no", code="no")
        text = f"{request.method} {request.path}?{request.query_string} {request.body.decode()}"
        return Response(
            text, 201, {"x-seen": request.headers.get("x-mark", ""), "x-all": str(list(request.headers))}
        )

    async def add(self, by: int = 1, wait_s: float = 0) -> int:
        self.env.seen.append(("add", self.state.id.name))
        count: int = await self.state.get("count", 0) + by
        await self.state.put("count", count)
        await asyncio.sleep(wait_s)
        return count

    async def refuse(self) -> None:
        raise Refusal("never", code="never", detail={"why": [1]})

    async def fail(self) -> None:
        raise ValueError("broken")

    async def put_bad(self) -> None:
        await self.state.put("x", object())

    async def through(self, names: list[str], method: str, *args: Any) -> Any:
        """Call `method` of the last of `names`, through the others."""
        if len(names) == 1:
            return await getattr(self.other(names[0]), method)(*args)
        return await self.other(names[0]).through(names[1:], method, *args)

    async def caught(self, name: str, method: str, *args: Any) -> list[Any]:
        try:
            await getattr(self.other(name), method)(*args)
        except PerdureError as error:
            detail = [error.code, error.detail] if isinstance(error, Refusal) else []
            return [type(error).__name__, str(error), *detail]
        return []

    async def both(self, name: str, wait_s: float) -> Any:
        """Change the other, wait, and then itself."""
        found = await self.other(name).add(1)
        self.env.seen.append(("called", found))
        await asyncio.sleep(wait_s)
        await self.state.put("count", found)
        return found

    async def slow_both(self, name: str) -> Any:
        found = await self.other(name).add(1, 1.0)
        await self.state.put("count", found)
        return found

    async def fickle(self, name: str, again: str) -> str:
        """Asks for something else when it runs again."""
        by = 1 if "ran" not in self.env.seen else 2
        self.env.seen.append("ran")
        try:
            await self.other(name if by == 1 else again).add(by)
        except PerdureError:
            return "hushed up"
        self.env.seen.append("called")
        await asyncio.sleep(60)
        return "never"

    async def meet(self, name: str) -> str:
        """Call somebody who calls back at the same moment."""
        await asyncio.sleep(0.05)
        try:
            await self.other(name).add(1)
        except Deadlock as error:
            self.env.seen.append(error)
            return "deadlock"
        return "met"

    async def spread(self, names: list[str]) -> list[int]:
        return await asyncio.gather(*(self.other(name).add(1) for name in names))

    async def fetched(self, name: str, *args: Any) -> list[Any]:
        request: Any = Request(*args) if len(args) > 1 else args[0]
        options: dict[str, Any] = (
            {} if len(args) > 1 else {"method": "put", "headers": {"X-Mark": "m"}, "body": "b"}
        )
        response = await self.other(name).fetch(request, **options)
        return [response.status, response.body.decode(), dict(response.headers)]

    async def ids(self) -> list[str]:
        made = [self.env.THINGS.new_unique_id().name for _ in range(2)]
        self.env.seen.append(made)
        if "crash" in self.env.seen:
            self.env.seen.remove("crash")
            await asyncio.sleep(60)
        await self.other(self.env.THINGS.id_from_name(made[0])).add(1)
        return made

    async def synced(self) -> bool:
        before = len(self.env.seen)
        await self.state.put("x", 1)
        self.env.seen.append("wrote")
        await self.state.sync()
        self.env.seen.append("synced")
        return before == 0

    async def sent(self, name: str) -> None:
        self.other(name).send.add(1)

    async def leave_behind(self, name: str) -> None:
        async def later() -> None:
            await asyncio.sleep(1)
            for use in (self.other(name).add, self.other(name).send.add, self.env.THINGS.new_unique_id):
                try:
                    made = use()
                    if asyncio.iscoroutine(made):
                        await made
                except TurnEnded as error:
                    self.env.seen.append(type(error))

        self.left = asyncio.create_task(later())


def error(reply: Reply) -> tuple[str, str]:
    assert reply.error is not None, reply
    return reply.outcome, reply.error.code


def calls_of(harness: Owners, name: str) -> list[Call]:
    """What the running turn of an object waits for."""
    activation = harness.owner_of(name).turns.activations.get(f"Thing/{name}")
    running = None if activation is None else activation.running
    return [] if running is None or running.calling is None else [*running.calling.waiting]


def commands(harness: Owners, name: str) -> int:
    """How many commands of its partition are accepted."""
    return harness.broker.streams[Topic.COMMANDS, harness.place(name)].end


@SHARED
def test_a_call_returns_what_the_other_object_answered(shared: bool) -> None:
    """Through two objects of other partitions and one of the same; each has done its part once."""

    async def told(harness: Owners) -> None:
        a, b, c, d = (harness.name_in(p, prefix) for p, prefix in ((0, "a"), (1, "b"), (2, "c"), (0, "d")))
        assert await harness.result(a, "through", [b, c, d], "add", 5) == b"5"
        assert await harness.result(a, "through", [b, c, d], "add", 5) == b"10"
        assert await harness.result(a, "through", [b], "add", 3) == b"3"
        assert (harness.value(d), harness.value(b), harness.value(c)) == (10, 3, None)
        assert await harness.result(a, "spread", [b, c, d]) == b"[4,1,11]"

    story(Thing, told, shared=shared)


def test_a_fetch_keeps_status_headers_and_body() -> None:
    """With a path, a URL and a request; secrets and what belongs to the connection do not travel."""

    async def told(harness: Owners) -> None:
        assert await harness.call("a", "fetched", "b", "/x?y=1") == Reply(
            OK,
            200,
            (),
            b'{"result":[201,"PUT /x?y=1 b",{"x-seen":"m","x-all":"[\'x-mark\']",'
            b'"content-type":"text/plain; charset=utf-8"}]}',
        )
        assert b"PUT /x?y=1 b" in await harness.result("a", "fetched", "b", "https://any.host/x?y=1")
        secret = [["x-mark", "1"], ["authorization", "s"], ["cookie", "s"], ["content-length", "9"]]
        answer = await harness.result("a", "fetched", "b", "POST", "/p", secret)
        assert b"POST /p?" in answer
        assert b"\"['x-mark']\"" in answer
        assert error(await harness.call("a", "fetched", "b", "GET", "/", [["x-fail", "1"]])) == (
            REFUSED,
            "no",
        )
        assert error(await harness.call("a", "fetched", "b", "GET", "/", [["x-bad", "a\n"]]))[0] == FAILED

    story(Thing, told)


@SHARED
def test_errors_keep_their_type_and_message_in_the_caller(shared: bool) -> None:
    """A refusal its code and detail; what cannot be called is the caller's fault, not its client's."""

    async def told(harness: Owners) -> None:
        caught = await harness.result("a", "caught", "b", "refuse")
        assert caught == b'["Refusal","never","never",{"why":[1]}]'
        for method, name, text in (
            ("fail", HandlerFailed, b"Thing/b failed: ValueError: broken"),
            ("put_bad", PerdureError, b"UnstorableValue"),
            ("missing", PerdureError, b"Thing has no method 'missing'"),
        ):
            caught = await harness.result("a", "caught", "b", method)
            assert text in caught, (method, name)
        assert (await harness.result("a", "caught", "b", "add", "x")).startswith(
            f'["{InvalidArguments.__name__}"'.encode()
        )
        assert error(await harness.call("a", "through", ["b"], "add", "x")) == (FAILED, "invalid-arguments")
        assert error(await harness.call("a", "through", ["b"], "_hidden")) == (FAILED, "handler-failed")

    story(Thing, told, shared=shared)


@SHARED
def test_a_refusal_that_nobody_catches_travels_all_the_way(shared: bool) -> None:
    """Through two hops, with its own code and detail; a failure fails each caller."""

    async def told(harness: Owners) -> None:
        reply = await harness.call("a", "through", ["b", "c"], "refuse")
        assert reply.outcome == REFUSED
        assert reply.error is not None
        assert (reply.error.code, reply.error.message, reply.error.detail) == ("never", "never", {"why": [1]})
        reply = await harness.call("a", "through", ["b", "c"], "fail")
        assert error(reply) == (FAILED, "handler-failed")
        assert reply.error is not None
        assert "ValueError: broken" in reply.error.message

    story(Thing, told, shared=shared)


@SHARED
def test_a_call_takes_effect_once_when_its_turn_runs_again(shared: bool) -> None:
    """A crash after the other's effect and before the caller's commit: the second
    run is given the stored answer.
    """

    async def told(harness: Owners) -> None:
        asked = harness.send("a", "both", "b", 5)
        await harness.until(lambda: ("called", 1) in harness.seen)
        await harness.crash()
        await harness.begin()
        assert [each.body for each in await harness.replies(asked)] == [b'{"result":1}']
        assert harness.seen.count(("called", 1)) == 2
        assert (harness.value("a"), harness.value("b")) == (1, 1)
        assert harness.seen.count(("add", "b")) == 1

    story(Thing, told, shared=shared)


@SHARED
def test_a_copy_of_a_call_in_flight_is_answered_with_the_first(shared: bool) -> None:
    """A crash while the other works: its command runs again and the caller's second copy joins it."""

    async def told(harness: Owners) -> None:
        asked = harness.send("a", "slow_both", "b")
        await harness.until(lambda: ("add", "b") in harness.seen)
        await asyncio.sleep(0.1)
        await harness.crash()
        await harness.begin()
        assert [each.body for each in await harness.replies(asked)] == [b'{"result":1}']
        assert harness.value("b") == 1
        assert len(await harness.entries("b")) == 1
        commands = await harness.records(Topic.COMMANDS, harness.place("b"))
        keys = [dict(each.headers).get("idempotency-key") for each in commands]
        assert sum(key is not None and key.startswith(b"call:") for key in keys) == 2

    story(Thing, told, shared=shared)


@SHARED
def test_a_copy_is_journaled_right_behind_the_call_that_it_joined(shared: bool) -> None:
    """Else a crash could find a later command of the object done and the copy not:
    it would run after that one.
    """

    async def told(harness: Owners) -> None:
        harness.send("a", "slow_both", "b")
        await harness.until(lambda: ("add", "b") in harness.seen)
        await asyncio.sleep(0.1)
        await harness.crash()
        await harness.begin()
        await asyncio.sleep(0.1)
        copy = (await harness.records(Topic.COMMANDS, harness.place("b")))[-1].offset
        await harness.replies(harness.send("b", "add", 1))
        done_at, later = None, []
        for record in await harness.records(Topic.JOURNAL, harness.place("b")):
            said = decode_record(record.value)
            if isinstance(said, EntryRecord) and said.entry.command > copy:
                later.append(record.offset)
            if isinstance(said, (EntryRecord, NoOp)) and copy in in_runs(said.done):
                done_at = record.offset
        assert done_at is not None
        assert done_at <= min(later), "the copy is done no later than the commands that came behind it"

    story(Thing, told, shared=shared)


@SHARED
def test_a_turn_that_asks_for_something_else_when_it_runs_again_fails(shared: bool) -> None:
    """Whatever its handler makes of it; both calls are named, and what it changed itself is rolled back."""

    async def told(harness: Owners) -> None:
        asked = harness.send("a", "fickle", "b", "b")
        await harness.until(lambda: "called" in harness.seen)
        await harness.crash()
        await harness.begin()
        (reply,) = await harness.replies(asked)
        assert error(reply) == (FAILED, "non-deterministic")
        assert reply.error is not None
        assert reply.error.message.count("call add") == 2
        assert harness.value("b") == 1 + 2, "both took effect; what the turn itself changed did not"
        assert [entry.outcome for entry in await harness.entries("a")] == [FAILED]

    story(Thing, told, shared=shared)


@pytest.mark.parametrize("partition", [0, 1, 2])
def test_another_object_of_any_partition_is_something_else_too(partition: int) -> None:
    """All partitions are asked what the turn called when it ran before."""

    async def told(harness: Owners) -> None:
        one, other = harness.name_in(1, "p"), harness.name_in(partition, "q")
        asked = harness.send("a", "fickle", one, other)
        await harness.until(lambda: "called" in harness.seen)
        await harness.crash()
        await harness.begin()
        (reply,) = await harness.replies(asked)
        assert error(reply) == (FAILED, "non-deterministic")
        assert reply.error is not None
        assert f"Thing/{one}" in reply.error.message
        assert f"Thing/{other}" in reply.error.message

    story(Thing, told)


def test_answers_of_calls_are_kept_until_their_caller_has_passed_them() -> None:
    """Its low mark comes with later calls: what it has passed is not seen any
    more, and goes block by block.
    """

    async def told(harness: Owners) -> None:
        a, b = harness.name_in(0, "a"), harness.name_in(1, "b")
        tables = harness.owner_of(b).tables

        def kept() -> list[bytes]:
            return [row for row, _ in tables.memtables.rows(b"c\0\1", b"c\0\2")]

        content = content_of(Command(f"Thing/{b}", CALL, "add", body=call_body("add", [], {})))
        key = CallKey("call", 0, 0, 1, "", content)
        for n in range(BLOCK + 5):
            await harness.result(a, "through", [b], "add")
            assert tables.answered_calls.get(key) is not None or n > BLOCK
        tables.write_all()
        assert tables.answered_calls.get(key) is None
        assert 0 < len(kept()) < 10
        assert tables.answered_calls.passed(0).floor == BLOCK

    story(Thing, told)


def test_a_copy_that_comes_when_its_caller_is_over_is_not_run() -> None:
    """Such as an append that was given up and lands when its row has gone: no second effect."""

    async def told(harness: Owners) -> None:
        a, b = harness.name_in(0, "a"), harness.name_in(1, "b")
        harness.faults.late = 60.0
        asked = harness.send(a, "both", b, 0)
        await harness.until(lambda: harness.owners[0].backlog)
        harness.faults.next = ["late"]
        await harness.replies(asked)
        assert harness.value(b) == 1
        calls = BLOCK + 5
        for _ in range(calls):
            await harness.result(a, "through", [b], "add")  # they bring the mark
        assert harness.owners[1].tables.answered_calls.passed(0).floor == BLOCK
        await asyncio.sleep(60)
        assert commands(harness, b) == calls + 2, "the late copy is to be there"
        assert harness.value(b) == calls + 1

    story(Thing, told, shared=True)


def test_what_lies_below_a_mark_leaves_no_row() -> None:
    """Not even if it is folded after the mark; whole, and in pieces that are cut anywhere."""
    told = [(5, 0), (600, 300), (601, 0), (7, 0), (300, 0), (590, 590), (800, 0), (801, 0), (9, 0)]
    entries = [
        Entry(
            n,
            "Thing/b",
            START_MS,
            OK,
            Reply(OK),
            principal="@Thing/a",
            client_key=f"call:4:{at}:1",
            mark=mark,
        )
        for n, (at, mark) in enumerate(told)
    ]
    kept = []
    for cut in (1, 2, 3, 100):
        tables = Tables(MemoryStore(), 1)
        for n, entry in enumerate(entries):
            tables.applied([entry], NoOp(0, 0), Position(n + 1, 0, n + 1, b"x"))
            if n % cut == cut - 1:
                tables.write_all()
        tables.write_all()
        kept.append([row for row, _ in tables.store.scan(b"c", b"d")])
        assert (
            tables.answered_calls.passed(4).floor
            == Tables(tables.store, 1).answered_calls.passed(4).floor
            == 512
        )
    assert [int.from_bytes(row[5:13], "big") for row in kept[0]] == [590, 600, 601, 800, 801]
    assert kept.count(kept[0]) == len(kept)


def test_a_send_that_waits_is_not_taken_for_a_late_copy() -> None:
    """Its sender's mark has passed it when it is on the log; it runs all the same,
    and then the mark counts.
    """

    async def told(harness: Owners) -> None:
        a, b, other = harness.name_in(0, "a"), harness.name_in(1, "b"), harness.name_in(1, "o")
        slow = harness.send(b, "add", 1, 30)
        await harness.until(lambda: harness.seen)
        await harness.call(a, "sent", b)
        for _ in range(BLOCK + 5):
            await harness.result(a, "through", [other], "add")
        tables = harness.owners[1].tables
        assert (tables.answered_calls.passed(0).floor, tables.answered_calls.passed(0).next) == (0, BLOCK)
        await harness.replies(slow)
        await harness.quiet()
        assert harness.value(b) == 2
        await harness.result(a, "through", [other], "add")
        assert tables.answered_calls.passed(0).floor == BLOCK

    story(Thing, told)


@SHARED
def test_an_object_that_calls_itself_is_told_at_once(shared: bool) -> None:
    """`Deadlock`, with nothing appended; and so is one that calls back along the chain, which is named."""

    async def told(harness: Owners) -> None:
        began = harness.clock_ms()
        reply = await harness.call("a", "through", ["a"], "add")
        assert error(reply) == (FAILED, "deadlock")
        assert len(await harness.records(Topic.COMMANDS, harness.place("a"))) == 1
        reply = await harness.call("a", "through", ["b", "c", "a"], "add")
        assert error(reply) == (FAILED, "deadlock")
        assert reply.error is not None
        names = [f"Thing/{name}@{harness.place(name)}:" for name in "abc"]
        assert all(name in reply.error.message for name in names), reply.error.message
        assert reply.error.message.index(names[0]) < reply.error.message.index(names[1])
        assert harness.clock_ms() - began < 500
        assert harness.seen == []
        assert await harness.result("a", "caught", "b", "caught", "a", "add") == b"[]"

    story(Thing, told, shared=shared)


@SHARED
def test_of_two_objects_that_call_each_other_one_is_told_and_the_other_goes_on(shared: bool) -> None:
    """Within a second; what was told `Deadlock` never happens."""

    async def told(harness: Owners) -> None:
        a, b = harness.name_in(0, "a"), harness.name_in(1, "b")
        began = harness.clock_ms()
        replies = await harness.replies(harness.send(a, "meet", b), harness.send(b, "meet", a))
        assert harness.clock_ms() - began < 1000
        assert sorted(reply.body for reply in replies) == [b'{"result":"deadlock"}', b'{"result":"met"}']
        (deadlock,) = harness.seen[:1]
        assert "they wait for each other" in str(deadlock)
        await harness.quiet()
        assert sorted((harness.value(a) or 0, harness.value(b) or 0)) == [0, 1]

    story(Thing, told, shared=shared)


def test_a_ring_of_three_is_found_and_a_mere_queue_is_none() -> None:
    """Calls that wait long behind a slow turn are no deadlock."""

    async def told(harness: Owners) -> None:
        replies = await harness.replies(*(harness.send(x, "meet", y) for x, y in ("ab", "bc", "ca")))
        assert sum(reply.body == b'{"result":"deadlock"}' for reply in replies) == 1
        slow = harness.send("d", "add", 1, 3)
        await harness.until(lambda: ("add", "d") in harness.seen)
        waiting = [
            harness.send("e", "meet", "d"),
            harness.send("f", "meet", "d"),
            harness.send("g", "meet", "e"),
        ]
        assert [each.body for each in await harness.replies(slow, *waiting)][1:] == [b'{"result":"met"}'] * 3

    story(Thing, told)


def test_slow_durability_is_no_ring() -> None:
    """An answer that is not durable yet is on its way: whoever waits for it waits for no turn."""

    async def told(harness: Owners) -> None:
        harness.faults.delays = {"append": 0.8, "ack": 0.8, "deliver": 0.01}
        a, b = harness.name_in(0, "a"), harness.name_in(1, "b")
        first = harness.send(b, "meet", a)
        await harness.until(lambda: ("add", a) in harness.seen)  # it ran, and is not durable
        second = harness.send(a, "meet", b)
        assert [each.body for each in await harness.replies(first, second)] == [b'{"result":"met"}'] * 2

    story(Thing, told, shared=True)


@SHARED
def test_a_call_has_what_is_left_of_its_callers_deadline(shared: bool) -> None:
    """30 s if the caller has none; past it the callee says so, and the caller may catch that."""

    async def told(harness: Owners) -> None:
        await harness.result("a", "through", ["b"], "add", 1, 1)
        await harness.result("a", "through", ["c"], "through", ["b"], "add", deadline_ms=5000)
        deadlines = []
        for name in ("b", "c"):
            for record in await harness.records(Topic.COMMANDS, harness.place(name)):
                command = parse_command(
                    record.key, record.value, record.headers, harness.ports.transport.seal
                )
                if command.chain:
                    deadlines.append(command.deadline_ms or 0)
        assert 29_900 < max(deadlines) <= 30_000
        limited = sorted(deadline for deadline in deadlines if deadline < 29_000)
        assert len(limited) == 2
        assert 4000 < limited[0] < limited[1] < 5000
        caught = await harness.result("a", "caught", "b", "add", 1, 40)
        assert caught.startswith(f'["{Expired.__name__}"'.encode())
        reply = await harness.call("a", "through", ["b"], "add", 1, 40, client_key="k")
        assert error(reply) == (UNAVAILABLE, "expired")

    story(Thing, told, shared=shared)


def test_a_full_mailbox_is_asked_again_within_the_deadline() -> None:
    """With nothing appended meanwhile; then both the call and its caller are
    `overloaded`, which spends no key.
    """

    async def told(harness: Owners) -> None:
        a, b = harness.name_in(0, "a"), harness.name_in(1, "b")
        slow = [harness.send(b, "add", 1, 2) for _ in range(3)]
        await harness.until(lambda: commands(harness, b) == 3)
        assert await harness.result(a, "through", [b], "add", client_key="first") == b"4"
        await harness.replies(*slow)
        slow = [harness.send(b, "add", 1, 40) for _ in range(3)]
        await harness.until(lambda: commands(harness, b) == 7)
        reply = await harness.call(a, "through", [b], "add", client_key="k")
        assert error(reply) == (UNAVAILABLE, "overloaded")
        assert commands(harness, b) == 7
        await harness.replies(*slow)
        assert await harness.result(a, "through", [b], "add", client_key="k") == b"8"

    story(Thing, told, bounds=PartitionBounds(mailbox=2))


def test_a_call_that_has_found_room_no_longer_waits_for_whoever_filled_it() -> None:
    """On its way on the log it stands behind no turn; in a full mailbox it did."""

    async def told(harness: Owners) -> None:
        a, b = harness.name_in(0, "a"), harness.name_in(1, "b")
        slow = [harness.send(b, "add", 1, wait_s) for wait_s in (2, 5)]
        await harness.until(lambda: commands(harness, b) == 2)
        caller, exchange = harness.send(a, "through", [b], "add"), harness.ports.transport.pending_calls
        await harness.until(lambda: calls_of(harness, a))
        (call,) = calls_of(harness, a)
        await harness.until(lambda: exchange.blocker(call))
        harness.faults.delays = {"append": 1.0}
        await harness.until(lambda: harness.seen.count(("add", b)) == 2)  # the one that waited runs
        await harness.until(lambda: call.future is not None and not call.future.done())
        assert commands(harness, b) == 2
        assert exchange.blocker(call) is None
        harness.faults.delays = {}
        await harness.replies(*slow, caller)

    story(Thing, told, shared=True, bounds=PartitionBounds(mailbox=1))


@pytest.mark.parametrize("fate", ["lost", "never", "late"])
def test_a_call_whose_append_is_unknown_is_made_again(fate: str) -> None:
    """Under its key it takes effect once."""

    async def told(harness: Owners) -> None:
        asked = harness.send("a", "both", "b", 0)
        await harness.until(lambda: harness.owner_of("a").backlog)
        harness.faults.next = [fate]
        assert [each.body for each in await harness.replies(asked)] == [b'{"result":1}']
        await asyncio.sleep(5)
        assert harness.value("b") == 1

    story(Thing, told, shared=True)


@SHARED
def test_sync_returns_when_the_turns_command_is_durable(shared: bool) -> None:
    """And what came before it; on a log that is shared, an append of ours has been acknowledged since."""

    async def told(harness: Owners) -> None:
        harness.faults.delays = {"sync": 1.0, "append": 0.5, "ack": 0.5}
        asked = harness.send("a", "synced")
        await harness.until(lambda: "wrote" in harness.seen)
        wrote = harness.clock_ms()
        owner = harness.owner_of("a")
        before = owner.tables.reader.offset
        await harness.until(lambda: "synced" in harness.seen)
        assert harness.clock_ms() - wrote >= 999
        assert harness.broker.streams[Topic.COMMANDS, owner.partition].durable == 1
        assert owner.tables.reader.offset == before + 1
        assert harness.value("a", "x") is None, "its own writes are not committed by it"
        await harness.replies(asked)
        assert harness.value("a", "x") == 1

    story(Thing, told, shared=shared)


@SHARED
def test_a_call_does_not_leave_before_what_its_turn_has_seen_is_durable(shared: bool) -> None:
    """The entry before it of the same object is settled when the call's command appears."""

    async def told(harness: Owners) -> None:
        a, b = harness.name_in(0, "a"), harness.name_in(1, "b")
        await harness.call(a, "add")
        harness.faults.delays = {"sync": 1.0, "append": 0.5, "ack": 0.5}
        asked = [harness.send(a, "add"), harness.send(a, "through", [b], "add")]
        commands = harness.broker.streams[Topic.COMMANDS, 1]
        await harness.until(lambda: commands.end)
        assert harness.owners[0].turns.activations[f"Thing/{a}"].in_flight_writes is None
        assert harness.value(a) == 2
        assert harness.broker.streams[Topic.COMMANDS, 0].durable == 3
        await harness.replies(*asked)

    story(Thing, told, shared=shared)


def test_a_fenced_owner_lets_no_call_out() -> None:
    """Its turn waits for a proof that does not come, and ends with the reign."""

    async def told(harness: Owners) -> None:
        a, b = harness.name_in(0, "a"), harness.name_in(1, "b")
        (old, first) = harness.log, harness.owners[0]
        await harness.result(a, "both", b, 0)
        old.stalled_until_s = asyncio.get_running_loop().time() + 3
        await harness.begin()  # another node claims everything
        old.stalled_until_s = 0.0
        harness.seen.clear()
        old_command = harness.send(a, "both", b, 5)  # both nodes read it
        await harness.replies(old_command)
        assert first.state is OwnerState.FENCED
        assert harness.seen.count(("called", 2)) == 1
        assert len(await harness.records(Topic.COMMANDS, 1)) == 2
        assert harness.value(b) == 2

    story(Thing, told, shared=True)


def test_objects_of_two_nodes_call_each_other() -> None:
    """Commands go over the log, and answers come back over it, to the node that asked."""

    async def told(harness: Owners) -> None:
        a, b = harness.name_in(0, "a"), harness.name_in(1, "b")
        await harness.begin(1)  # a second node claims one of the partitions
        assert await harness.result(a, "through", [b], "add") == b"1"
        assert await harness.result(b, "through", [a], "add") == b"1"
        assert error(await harness.call(a, "through", [b, a], "add")) == (FAILED, "deadlock")
        replies = [each for p in range(3) for each in await harness.records(Topic.REPLIES, p)]
        assert {each.key for each in replies} == {b"calls.n0", b"calls.n1"}

    story(Thing, told, shared=True)


@SHARED
def test_new_ids_are_the_same_when_the_turn_runs_again(shared: bool) -> None:
    """So a call to a new object goes to the same one."""

    async def told(harness: Owners) -> None:
        harness.seen.append("crash")
        asked = harness.send("a", "ids")
        await harness.until(lambda: len(harness.seen) == 1 and harness.seen != ["crash"])
        await asyncio.sleep(0.1)  # until its command is durable
        await harness.crash()
        await harness.begin()
        await harness.replies(asked)
        first, second = harness.seen[:2]
        assert first == second
        assert len({*first}) == 2
        assert all(len(each) == 32 and int(each, 16) for each in first)
        assert harness.value(first[0]) == 1

    story(Thing, told, shared=shared)


def test_nobody_is_called_outside_a_turn() -> None:
    """What outlives its turn cannot call, send or make an id."""

    async def told(harness: Owners) -> None:
        await harness.call("a", "leave_behind", "b")
        await harness.until(lambda: len(harness.seen) == 3)
        assert harness.seen == [TurnEnded] * 3
        things = harness.registry.env.THINGS
        with pytest.raises(TurnEnded):
            await things.get("b").add()
        with pytest.raises(TurnEnded):
            things.new_unique_id()
        with pytest.raises(AttributeError, match="underscore"):
            things.get("b").send._hidden  # noqa: B018 - it raises
        assert things.get("b", location_hint="weur").key == things.get_by_name("b").id.key == "Thing/b"
        with pytest.raises(BadKey):
            things.get(ObjectId("Other/b"))

    story(Thing, told)
