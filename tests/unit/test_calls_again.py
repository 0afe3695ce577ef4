"""Calls of turns that run again: after a crash, under a client's key, in another
order; each takes effect once.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.owners import Owners, story

from perdure.objects.durable import DurableObject
from perdure.schemas.calls import CALL_KEY, PRINCIPAL, CallKey, call_key, root_of
from perdure.schemas.commands import CALL, Command, call_body, payload_hash, sealed_record
from perdure.schemas.errors import Refusal, Unavailable
from perdure.schemas.journal import Entry, NoOp
from perdure.schemas.replies import FAILED, OK, REFUSED, REJECTED, UNAVAILABLE, Reply
from perdure.streams.journal.reader import Position
from perdure.streams.log.base import LogRecord, Record, Topic
from perdure.streams.state.rows import HOUR_MS, STEP_MS, WINDOW_HOURS
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore
from perdure.streams.turns.activation import Turn
from perdure.streams.turns.pending_calls import Call, PendingCalls
from perdure.streams.turns.ports import UNSEALED

SHARED = pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])


class Thing(DurableObject):
    """Counts in `count`; how long a method takes, and when it fails, is said by `env.seen`."""

    def other(self, name: str) -> Any:
        return self.env.THINGS.get(name)

    def first(self, what: str) -> bool:
        """Is it the first time that this is asked?"""
        self.env.seen.append(what)
        return bool(self.env.seen.count(what) == 1)

    async def add(self, by: int = 1, wait_s: float = 0.0) -> int:
        await asyncio.sleep(wait_s)
        count: int = await self.state.get("count", 0) + by
        await self.state.put("count", count)
        return count

    async def side_by_side(self, names: list[str]) -> str:
        """Two calls of each, one after the other; in the second run the first ones
        are answered in another order.
        """
        waits = dict(zip(names, range(len(names)), strict=True))
        again = not self.first("side by side")

        async def line(name: str) -> None:
            await self.other(name).add(1, float(waits[name]))
            await asyncio.sleep(0.01 * (len(names) - waits[name] if again else 0))
            await self.other(name).add(2)

        await asyncio.gather(*(line(name) for name in names))
        self.env.seen.append("all added")
        await asyncio.sleep(5 if not again else 0)
        return "added"

    async def slow(self, name: str) -> int:
        """Calls, and then is slow once."""
        found: int = await self.other(name).add()
        if self.first(f"slow {self.state.id.name}"):
            await asyncio.sleep(100)
        await self.state.put("found", found)
        return found

    async def through(self, name: str, method: str, *args: Any) -> Any:
        return await getattr(self.other(name), method)(*args)

    async def asks_again(self, name: str, method: str, *args: Any) -> list[Any]:
        """Until it is done, as code that retries does."""
        told: list[Any] = []
        while not told or told[-1] == "unavailable":
            try:
                told.append(await getattr(self.other(name), method)(*args))
            except Unavailable:
                told.append("unavailable")
        return told

    async def unavailable_once(self, name: str) -> int:
        """Has called, and then another call of it is not done."""
        found: int = await self.other(name).add()
        if self.first("unavailable once"):
            error = Unavailable("by somebody")
            error.of_call = True
            raise error
        await self.state.put("found", found)
        return found

    async def impatient(self, name: str) -> int:
        """Gives up a call, and makes it again."""
        while True:
            try:
                return int(await asyncio.wait_for(self.other(name).add(1, 2), 1))
            except TimeoutError:
                self.env.seen.append("gave up")

    async def equal(self, name: str, times: int) -> list[int]:
        found = await asyncio.gather(*(self.other(name).add() for _ in range(times)))
        if self.first("equal"):
            await asyncio.sleep(5)
        return sorted(found)

    async def turncoat(self, name: str) -> None:
        """Refuses in its second run, before it asks."""
        if not self.first("turncoat"):
            raise Refusal("changed my mind")
        await self.other(name).add()
        self.env.seen.append("added")
        await asyncio.sleep(100)

    async def drawn(self, name: str) -> list[str]:
        drawn = [
            str(self.state.random.random()),
            self.state.uuid().hex,
            self.env.THINGS.new_unique_id().name,
        ]
        self.env.seen.append(drawn)
        await self.other(name).add()
        if self.first("drawn"):
            await asyncio.sleep(100)
        return drawn


def error(reply: Reply) -> tuple[str, str]:
    assert reply.error is not None, reply
    return reply.outcome, reply.error.code


@SHARED
def test_calls_side_by_side_are_the_same_in_whatever_order_they_are_made_again(shared: bool) -> None:
    """A crash after all were answered: the second run makes the later ones in another order."""

    async def told(harness: Owners) -> None:
        names = [harness.name_in(n % 3, f"s{n}") for n in range(4)]
        asked = harness.send("a", "side_by_side", names)
        await harness.until(lambda: "all added" in harness.seen)
        await harness.crash()
        await harness.begin()
        assert [each.body for each in await harness.replies(asked)] == [b'{"result":"added"}']
        assert [harness.value(name) for name in names] == [3] * 4

    story(Thing, told, shared=shared)


@SHARED
def test_equal_calls_are_counted(shared: bool) -> None:
    """As many effects as calls, in the first run and not more in the second."""

    async def told(harness: Owners) -> None:
        asked = harness.send("a", "equal", "b", 5)
        await harness.until(lambda: harness.value("b") == 5)
        await harness.crash()
        await harness.begin()
        assert [each.body for each in await harness.replies(asked)] == [b'{"result":[1,2,3,4,5]}']
        assert harness.value("b") == 5

    story(Thing, told, shared=shared)


@SHARED
def test_a_command_repeated_under_its_key_goes_on_where_it_was(shared: bool) -> None:
    """It expired after its call was answered; repeated, it is given that answer, also after a restart."""

    async def told(harness: Owners) -> None:
        envelope: dict[str, Any] = {"client_key": "k", "deadline_ms": 2000}
        assert error(await harness.call("a", "slow", "b", **envelope)) == (UNAVAILABLE, "expired")
        if shared:
            await harness.crash()
            await harness.begin()
        assert harness.value("b") == 1
        assert await harness.result("a", "slow", "b", **envelope) == b"1"
        assert await harness.result("a", "slow", "b", **envelope) == b"1"
        assert (harness.value("a", "found"), harness.value("b")) == (1, 1)
        assert await harness.result("a", "slow", "b", client_key="another", deadline_ms=2000) == b"2"

    story(Thing, told, shared=shared)


@SHARED
def test_one_that_expired_while_the_process_was_down_goes_on_too(shared: bool) -> None:
    """The first command is not run again: its time is over. The second knows that there was one."""

    async def told(harness: Owners) -> None:
        envelope: dict[str, Any] = {"client_key": "k", "deadline_ms": 2000}
        asked = harness.send("a", "slow", "b", **envelope)
        await harness.until(lambda: harness.value("b") == 1)
        await harness.crash()
        await asyncio.sleep(3)
        await harness.begin()
        assert [error(each) for each in await harness.replies(asked)] == [(UNAVAILABLE, "expired")]
        assert await harness.result("a", "slow", "b", **envelope) == b"1"
        assert harness.value("b") == 1

    story(Thing, told, shared=shared)


@SHARED
@pytest.mark.parametrize("key", [None, "k"])
def test_what_a_called_object_called_is_not_called_twice(shared: bool, key: str | None) -> None:
    """It had called another, was not done, and is asked again by its caller: with a
    client's key at the root or without.
    """

    async def told(harness: Owners) -> None:
        found = await harness.result("a", "asks_again", "b", "unavailable_once", "c", client_key=key)
        assert found == b'["unavailable",1]'
        assert (harness.value("b", "found"), harness.value("c")) == (1, 1)
        await harness.crash()
        await harness.begin()
        found = await harness.result("a", "asks_again", "b", "unavailable_once", "c", client_key=key)
        assert found == (b'["unavailable",1]' if key else b"[2]")

    story(Thing, told, shared=shared)


@SHARED
def test_a_tree_of_calls_repeated_under_a_key_takes_effect_once(shared: bool) -> None:
    """Both the caller and the called one ran out of time behind an answered call."""

    async def told(harness: Owners) -> None:
        envelope: dict[str, Any] = {"client_key": "k", "deadline_ms": 2000}
        reply = await harness.call("a", "through", "b", "slow", "c", **envelope)
        assert error(reply) == (UNAVAILABLE, "expired")
        assert harness.value("c") == 1
        assert await harness.result("a", "through", "b", "slow", "c", **envelope) == b"1"
        assert (harness.value("b", "found"), harness.value("c")) == (1, 1)

    story(Thing, told, shared=shared)


@SHARED
def test_a_call_that_was_given_up_and_is_made_again_is_the_same_call(shared: bool) -> None:
    """A time-out around it ends the waiting, not the call."""

    async def told(harness: Owners) -> None:
        assert await harness.result("a", "impatient", "b") == b"1"
        assert harness.seen.count("gave up") > 0
        assert harness.value("b") == 1

    story(Thing, told, shared=shared)


@SHARED
@pytest.mark.parametrize("key", [None, "k"])
def test_an_error_that_comes_before_what_was_asked_for_is_told_as_what_it_is(
    shared: bool, key: str | None
) -> None:
    """The turn that runs again refuses before it asks: the other's effect stands,
    so that is no plain refusal.
    """

    async def told(harness: Owners) -> None:
        envelope: dict[str, Any] = {"client_key": key, "deadline_ms": 2000 if key else None}
        asked = harness.send("a", "turncoat", "b", **envelope)
        await harness.until(lambda: "added" in harness.seen)
        if key is None:
            await harness.crash()
            await harness.begin()
            (reply,) = await harness.replies(asked)
        else:
            assert error((await harness.replies(asked))[0]) == (UNAVAILABLE, "expired")
            reply = await harness.call("a", "turncoat", "b", **envelope)
        assert error(reply) == (FAILED, "non-deterministic")
        assert reply.error is not None
        assert "nothing in its place now" in reply.error.message
        assert "Refusal: changed my mind" in reply.error.message
        assert error(await harness.call("a", "turncoat", "b"))[0] == REFUSED, (
            "another command is not concerned"
        )

    story(Thing, told, shared=shared)


def test_a_key_that_was_to_go_on_is_for_its_own_payload_only() -> None:
    """What is to be gone on with is that command, no other."""

    async def told(harness: Owners) -> None:
        await harness.call("a", "slow", "b", client_key="k", deadline_ms=2000)
        assert error(await harness.call("a", "slow", "c", client_key="k")) == (REJECTED, "key-reused")

    story(Thing, told)


@pytest.mark.parametrize("crash", [False, True])
def test_what_a_turn_draws_is_the_same_when_it_runs_again(crash: bool) -> None:
    """After a crash, and repeated under its key; another turn draws something else."""

    async def told(harness: Owners) -> None:
        envelope: dict[str, Any] = {"client_key": "k", "deadline_ms": 2000}
        asked = harness.send("a", "drawn", "b", **({} if crash else envelope))
        await harness.until(lambda: harness.value("b") == 1)
        if crash:
            await harness.crash()
            await harness.begin()
            await harness.replies(asked)
        else:
            await harness.replies(asked)
            await harness.result("a", "drawn", "b", **envelope)
        await harness.result("a", "drawn", "b")
        first, second, other = (each for each in harness.seen if isinstance(each, list))
        assert first == second
        assert not {*first} & {*other}
        assert harness.value("b") == 2

    story(Thing, told)


# Calls that were written by order, before they were known by content


def ordered(harness: Owners, n: int, caller: str, to: str, body: bytes) -> Record:
    """A call as it lay on the log then: of the caller's first command."""
    command = Command(
        f"Thing/{to}",
        CALL,
        "add",
        body=body,
        id=f"old{n}",
        reply_to="calls",
        client_key=f"call:{harness.place(caller)}:0:{n}",
        principal=f"@Thing/{caller}",
    )
    return Record(*sealed_record(command, UNSEALED))


@pytest.mark.parametrize("answered", [0, 1, 2])
def test_a_turn_of_before_finds_what_its_calls_were_answered(answered: int) -> None:
    """Its calls lie on the log by order, some answered, some not yet: it runs
    again, and each takes effect once.
    """

    async def told(harness: Owners) -> None:
        a, b = harness.name_in(0, "a"), harness.name_in(1, "b")
        body = call_body("add", [], {})
        for n in range(1, answered + 1):
            harness.log.append(Topic.COMMANDS, 1, ordered(harness, n, a, b, body))
        await harness.until(lambda: (harness.value(b) or 0) == answered)
        for n in range(answered + 1, 3):  # on the log when the new process begins, and not done
            harness.log.append(Topic.COMMANDS, 1, ordered(harness, n, a, b, body))
        asked = harness.send(a, "equal", b, 2)
        await harness.replies(asked)
        assert harness.value(b) == 2

    story(Thing, told)


def test_what_a_turn_of_before_called_and_does_not_ask_for_again_is_told() -> None:
    """Calls by order are compared by what they asked."""

    async def told(harness: Owners) -> None:
        a, b = harness.name_in(0, "a"), harness.name_in(1, "b")
        harness.send(a, "equal", b, 2)
        await harness.quiet()
        await harness.crash()
        await harness.begin()
        turns = harness.owners[0].turns
        old = Entry(99, f"Thing/{b}", 1, OK, Reply(OK), principal=f"@Thing/{a}", summary="call gone ")
        owner = harness.owners[1]
        assert owner.tables.answered_calls.by_order(0, 5) == []
        for n, by in ((1, 1), (2, 2)):
            command = Command(f"Thing/{b}", CALL, "add", body=call_body("add", [by], {}))
            key = CallKey(CALL_KEY, 0, 5, n)
            owner.tables.answered_calls.fold(_with(old, str(key), payload_hash(command)), key)
        command = Command(f"Thing/{a}", CALL, "equal", body=call_body("equal", [b, 1], {}))
        turn = Turn(LogRecord(5, 0, None, None), command, turns.activation(f"Thing/{a}"), 5)
        difference = await turns.reruns.difference(turn, None)
        assert difference is not None
        assert "call gone" in str(difference)

    story(Thing, told, check=False)


def _with(entry: Entry, client_key: str, hashed: bytes) -> Entry:
    fields = {name: getattr(entry, name) for name in entry.__struct_fields__}
    return Entry(**{**fields, "client_key": client_key, "payload_hash": hashed})


# Keys and rows


def test_keys_of_all_kinds_are_read_as_they_were_written() -> None:
    """By order, by content, and under a client's key; what is no such key is a client's."""
    keys = [
        CallKey("call", 3, 17, 2),
        CallKey("send", 3, 17, 2),
        CallKey("call", 3, 17, 2, "", "c" * 20),
        CallKey("call", 3, 17, 2, "p" * 20, "1" * 20),
        CallKey("call", -1, -1, 9, "p" * 20, "c" * 20),
    ]
    assert [call_key("@Thing/a", str(key)) for key in keys] == keys
    for text in (
        "call:1:2",
        "call:1:2:x",
        "call:1:2::short:1",
        f"call:::{'':20}:1",
        f"call::::{'c' * 20}:1",
        "k",
    ):
        assert call_key("@Thing/a", text) is None
    assert call_key("mallory", str(keys[0])) is None


def test_what_a_turn_hangs_on() -> None:
    """The place of its command, a client's key, or the call that it answers; never
    its own place under another's.
    """
    command = Command("Thing/a", CALL, "add")
    place = root_of(command, 1, 7)
    keyed = Command("Thing/a", CALL, "add", client_key="k")
    own = root_of(keyed, 1, 7)
    assert place == (1, 7, "")
    assert own[:2] == (-1, -1)
    assert root_of(keyed, 2, 9) == own != root_of(Command("Thing/b", CALL, "add", client_key="k"), 1, 7)
    call = CallKey("call", 1, 7, 1, "", "c" * 20)
    called = Command("Thing/b", CALL, "add", client_key=str(call), principal="@Thing/a")
    assert root_of(called, 5, 5)[:2] == (1, 7)
    assert root_of(called, 5, 5) == root_of(called, 6, 6) != place
    sent = Command("Thing/b", CALL, "add", client_key="send:1:7:1", principal="@Thing/a")
    assert root_of(sent, 5, 5) == (5, 5, "")


def test_answers_under_a_clients_key_are_kept_as_long_as_that_key() -> None:
    """And are then not seen, and go by the window; however the journal is cut."""
    key = CallKey("call", -1, -1, 1, "p" * 20, "c" * 20)
    start_ms = 1_000 * WINDOW_HOURS * HOUR_MS + 20 * HOUR_MS
    minutes = 60 * WINDOW_HOURS
    kept = []
    for cut in (1, 7, 100_000):
        tables = Tables(MemoryStore(), 1)
        seen = []
        for n in range(2 * minutes + 1):
            time_ms = start_ms + n * STEP_MS
            keyed: dict[str, Any] = {"principal": f"{PRINCIPAL}Thing/a", "client_key": str(key)}
            entry = Entry(n, "Thing/b", time_ms, OK, Reply(OK), **(keyed if n == 0 else {}))
            tables.applied([entry], NoOp(0, 0), Position(n + 1, 0, n + 1, b"x"))
            if n in (0, minutes // 2, minutes - 1, minutes, 2 * minutes):
                seen.append(
                    (
                        tables.answered_calls.get(key) is not None,
                        len([*tables.answered_calls.of_root(key.root)]),
                    )
                )
            if n % cut == cut - 1:
                tables.write_all()
        tables.write_all()
        assert seen == [(True, 1), (True, 1), (True, 1), (False, 0), (False, 0)]
        kept.append([*tables.store.scan(b"x", b"y")])
    assert kept == [[], [], []]


# Rings


class _Waiting:
    def __init__(self) -> None:
        self.waiting: dict[Call, None] = {}


def test_a_chain_of_any_length_is_searched() -> None:
    """Thousands of turns that wait for one another, in a line and in a ring."""

    async def main() -> None:
        length = 3000
        turns = [
            Turn(LogRecord(n, 0, None, None), Command(f"Thing/{n}", CALL, "m"), None, n)
            for n in range(length)
        ]
        exchange = PendingCalls()
        calls = []
        for n, turn in enumerate(turns):
            command = Command(
                f"Thing/{n + 1}", CALL, "m", client_key=f"call:0:{n}:1", principal=f"@Thing/{n}"
            )
            call = Call(turn, command, 0)
            turn.calling = waiting = _Waiting()  # type: ignore[assignment]  # as much of it as is looked at
            waiting.waiting[call] = None
            calls.append(call)
        exchange.blocker = lambda call: turns[call.turn.offset + 1] if call.turn.offset + 1 < length else None  # type: ignore[method-assign]
        assert exchange.ring(calls[0]) == []
        exchange.blocker = lambda call: turns[(call.turn.offset + 1) % length]  # type: ignore[method-assign]
        assert exchange.ring(calls[7]) == turns[7:] + turns[:7]

    asyncio.run(main())
