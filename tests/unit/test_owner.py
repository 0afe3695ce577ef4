"""An owner's way with commands, as stories on virtual time: order, bounds,
deadlines, dead letters, client keys.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

import pytest
from tests.unit.one_owner import OneOwner, story

from perdure.objects.durable import DurableObject
from perdure.objects.overlay import current_turn
from perdure.schemas.errors import Overloaded, Refusal, TurnEnded
from perdure.schemas.replies import FAILED, OK, REFUSED, REJECTED, UNAVAILABLE, Reply, parse_reply
from perdure.streams.log.base import LogRecord, Topic
from perdure.streams.log.memory.broker import Faults
from perdure.streams.owner.owner import Owner
from perdure.streams.turns.ports import PartitionBounds


class Thing(DurableObject):
    """What each method does shows in `env.seen` and in the state."""

    async def add(self, mark: Any = None, wait_s: float = 0) -> int:
        self.env.seen.append(("begin", self.state.id.name, mark))
        count: int = await self.state.get("count", 0) + 1
        await self.state.put("count", count)
        if wait_s:
            await asyncio.sleep(wait_s)
        self.env.seen.append(("end", self.state.id.name, mark))
        return count

    async def count(self) -> int:
        count: int = await self.state.get("count", 0)
        return count

    async def look(self) -> None:
        turn: Any = current_turn.get()
        self.env.seen.append(weakref.ref(turn))

    async def now(self) -> int:
        await self.state.put("now", self.state.now)
        return self.state.now

    async def put(self, size: int) -> None:
        await self.state.put("big", b"x" * size)

    async def fail(self) -> None:
        await self.state.put("count", -1)
        raise ValueError("no")

    async def refuse(self) -> None:
        await self.state.put("count", -1)
        raise Refusal("never", code="never", detail={"why": 1})

    async def memory(self) -> int:
        self.lives = getattr(self, "lives", 0) + 1
        return self.lives

    async def leave_behind(self) -> None:
        async def later() -> None:
            await asyncio.sleep(1)
            try:
                await self.state.put("late", 1)
            except TurnEnded as error:
                self.env.seen.append(type(error))

        self.left = asyncio.create_task(later())

    async def ignore(self) -> None:
        await self.state.put("count", -1)
        for _ in range(3):
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                self.env.seen.append("ignored")
        try:
            await self.state.put("late", 1)
        except TurnEnded as error:
            self.env.seen.append(type(error))


def result(reply: Reply) -> bytes:
    assert reply.outcome == OK, reply
    return reply.body


def code(reply: Reply) -> tuple[str, str]:
    assert reply.error is not None, reply
    return reply.outcome, reply.error.code


def marks(harness: OneOwner, step: str = "begin") -> list[Any]:
    return [mark for what, _, mark in harness.seen if what == step]


SHARED = pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])


@SHARED
def test_commands_of_one_object_run_one_at_a_time_in_log_order(shared: bool) -> None:
    """Each turn ends before the next begins, and sees what the one before it wrote."""

    async def told(harness: OneOwner) -> None:
        offsets = [harness.send("a", "add", n, 0.1 * (n % 2)) for n in range(6)]
        replies = await harness.replies(*offsets)
        assert [result(each) for each in replies] == [b'{"result":%d}' % n for n in range(1, 7)]
        assert harness.seen == [(step, "a", n) for n in range(6) for step in ("begin", "end")]

    story(Thing, told, shared=shared)


@SHARED
def test_different_objects_run_at_once(shared: bool) -> None:
    """A slow object delays only itself."""

    async def told(harness: OneOwner) -> None:
        slow, quick = harness.send("slow", "add", 1, 50), harness.send("quick", "add", 2)
        await harness.replies(quick)
        assert slow not in harness.ingress.replies
        assert marks(harness) == [1, 2]
        await harness.replies(slow)

    story(Thing, told, shared=shared)


class Slow(Faults):
    """One step of the log takes its time."""

    def __init__(self, step: str) -> None:
        self.step = step

    def delay_s(self, step: str) -> float:
        return 0.05 if step == self.step else 0.0


@SHARED
def test_what_does_not_fit_into_a_mailbox_waits_on_the_log_and_runs_in_order(shared: bool) -> None:
    """Offsets past the bound are read again when their turn comes; nothing is lost, nothing overtakes."""

    async def told(harness: OneOwner) -> None:
        first = harness.send("a", "add", 0, 0.5)
        await harness.until(lambda: harness.seen)
        offsets = [harness.send("a", "add", n) for n in range(1, 9)]
        await harness.replies(first, *offsets)
        assert marks(harness) == list(range(9))

    story(Thing, told, shared=shared, bounds=PartitionBounds(mailbox=2))


def test_a_command_that_comes_while_another_is_read_again_waits_behind_it() -> None:
    """One turn at a time, in log order, also while the log is read."""

    async def told(harness: OneOwner) -> None:
        offsets = [harness.send("a", "add", n, 0.02) for n in range(3)]
        await harness.until(lambda: marks(harness, "end") == [0, 1])
        offsets += [harness.send("a", "add", n, 0.02) for n in range(3, 6)]  # while the third is read
        await harness.replies(*offsets)
        assert harness.seen == [(step, "a", n) for n in range(6) for step in ("begin", "end")]

    story(Thing, told, shared=True, bounds=PartitionBounds(mailbox=1), faults=Slow("read"))


def test_a_burst_past_the_mailbox_that_is_not_durable_yet_runs_too() -> None:
    """On an ordered log commands are taken before they can be read again; they are not forgotten."""

    async def told(harness: OneOwner) -> None:
        await harness.replies(*[harness.send("a", "add", n, 0.001) for n in range(12)])
        assert marks(harness) == list(range(12))

    story(Thing, told, bounds=PartitionBounds(mailbox=1), faults=Slow("sync"))


def test_a_full_mailbox_is_told_at_the_doors_before_anything_is_appended() -> None:
    """`Overloaded` names the object; other objects are not concerned."""

    async def told(harness: OneOwner) -> None:
        offsets = [harness.send("a", "add", n, 1) for n in range(4)]
        await harness.until(lambda: harness.seen)
        with pytest.raises(Overloaded, match=r"Thing/a has \d commands waiting"):
            harness.owner.check_room("Thing/a")
        harness.owner.check_room("Thing/b")
        await harness.replies(*offsets)
        harness.owner.check_room("Thing/a")

    story(Thing, told, shared=True, bounds=PartitionBounds(mailbox=2))


def test_more_objects_than_may_be_resident_still_run_one_turn_at_a_time() -> None:
    """Eviction takes idle objects only; an object at work or just called is never in memory twice."""

    async def told(harness: OneOwner) -> None:
        offsets = []
        for n in range(5):
            for name in ("a", "b", "c"):
                offsets.append(harness.send(name, "add", n, 0.1))
                await asyncio.sleep(0.01)
        await harness.replies(*offsets)
        for name in ("a", "b", "c"):
            mine = [(step, mark) for step, who, mark in harness.seen if who == name]
            assert mine == [(step, n) for n in range(5) for step in ("begin", "end")]
            assert harness.value(name, "count") == 5

    story(Thing, told, shared=True, bounds=PartitionBounds(activations=1))


BAD = [
    (None, b"{}", (), "malformed-command"),
    (b"Thing/a", None, (), "malformed-command"),
    (b"Thing/a", b"\xff", (), "malformed-command"),
    (b"Thing/a", b'{"method": "\\ud800"}', (), "malformed-command"),
    (b"Thing/\xff", b"{}", (), "bad-key"),
    (b"nothing", b"{}", (), "bad-key"),
    (b"Nobody/a", b'{"method": "add"}', (), "unknown-namespace"),
    (b"Thing/a", b'{"method": "add"}', (("perdure-kind", b"alarm"),), "malformed-command"),
    (b"Thing/a", b'{"method": "add"}', (("perdure-v", b"9"), ("id", b"\xff")), "malformed-command"),
]


@SHARED
@pytest.mark.parametrize(("key", "value", "headers", "why"), BAD, ids=lambda each: repr(each)[:30])
def test_what_is_no_command_gets_an_error_and_a_dead_letter(
    key: bytes | None, value: bytes | None, headers: Any, why: str, shared: bool
) -> None:
    """The record stands in the dead topic with place and reason, the sender is
    told, the partition goes on.
    """

    async def told(harness: OneOwner) -> None:
        bad = harness.append_raw(key, value, headers)
        assert result(await harness.call("a", "add")) == b'{"result":1}'
        await harness.until(lambda: harness.broker.streams[Topic.DEAD, 0].durable)
        await harness.until(lambda: harness.broker.streams[Topic.REPLIES, 0].durable)
        (letter,) = await harness.records(Topic.DEAD)
        named = dict(letter.headers)
        assert (letter.key, letter.value, named["command"]) == (key, value, b"0:%d" % bad)
        assert named["reason"].startswith(why.encode() + b": ")
        (reply,) = await harness.records(Topic.REPLIES)
        answered = parse_reply(reply.value, reply.headers)
        assert answered.command == f"0:{bad}"
        assert code(answered.reply) == (REJECTED, why)

    story(Thing, told, shared=shared)


def test_a_command_that_waited_past_its_deadline_is_not_run() -> None:
    """Its sender is told that nothing was done; without a deadline a command waits as long as it takes."""

    async def told(harness: OneOwner) -> None:
        slow = harness.send("a", "add", "slow", 2)
        late, patient = harness.send("a", "add", "late", deadline_ms=500), harness.send("a", "add", "patient")
        replies = await harness.replies(slow, late, patient)
        assert code(replies[1]) == (UNAVAILABLE, "expired")
        assert marks(harness) == ["slow", "patient"]
        assert harness.value("a", "count") == 2

    story(Thing, told)


def test_a_handler_past_its_deadline_is_cancelled_and_rolled_back() -> None:
    """At the deadline, not later; the object's next command finds nothing of it."""

    async def told(harness: OneOwner) -> None:
        began_ms = harness.clock_ms()
        reply = await harness.call("a", "add", "slow", 30, deadline_ms=500)
        assert code(reply) == (UNAVAILABLE, "expired")
        assert 500 <= harness.clock_ms() - began_ms < 520
        assert result(await harness.call("a", "count")) == b'{"result":0}'
        assert marks(harness, "end") == []

    story(Thing, told)


def test_a_handler_that_ignores_its_cancellation_is_left_behind() -> None:
    """Its object goes on in a new instance; what the old one still tries to write meets `TurnEnded`."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "memory")
        ignoring = harness.send("a", "ignore", deadline_ms=500)
        (reply,) = await harness.replies(ignoring)
        assert code(reply) == (UNAVAILABLE, "expired")
        assert result(await harness.call("a", "memory")) == b'{"result":1}'
        await harness.until(lambda: TurnEnded in harness.seen)
        assert harness.seen == ["ignored", TurnEnded]
        assert (harness.value("a", "count"), harness.value("a", "late")) == (None, None)

    story(Thing, told)


def test_what_outlives_its_turn_cannot_use_the_state() -> None:
    """Also if no other turn has begun since."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "leave_behind")
        await harness.until(lambda: harness.seen)
        assert harness.seen == [TurnEnded]
        assert harness.value("a", "late") is None

    story(Thing, told)


@SHARED
def test_a_client_key_is_spent_once(shared: bool) -> None:
    """In flight: 409. Again: the stored reply, no second effect. Another payload:
    422. Another object: its own.
    """

    async def told(harness: OneOwner) -> None:
        first = harness.send("a", "add", 1, 0.5, client_key="k")
        await harness.until(lambda: harness.seen)
        second = harness.send("a", "add", 1, 0.5, client_key="k")
        replies = await harness.replies(first, second)
        assert code(replies[1])[1] == "key-in-flight"
        assert await harness.call("a", "add", 1, 0.5, client_key="k") == replies[0]
        assert code(await harness.call("a", "add", 2, client_key="k")) == (REJECTED, "key-reused")
        assert result(await harness.call("b", "add", 1, client_key="k")) == b'{"result":1}'
        assert result(await harness.call("a", "add", 3, client_key="other")) == b'{"result":2}'
        assert marks(harness) == [1, 1, 3]

    story(Thing, told, shared=shared)


def test_every_answer_of_an_object_spends_a_key_but_an_expiry_does_not() -> None:
    """A refusal and a failure are stored; after an expiry the next command with the key runs."""

    async def told(harness: OneOwner) -> None:
        for method, outcome in (("refuse", REFUSED), ("fail", FAILED), ("count", OK), ("missing", REJECTED)):
            once = await harness.call("a", method, client_key=method)
            assert once.outcome == outcome
            assert await harness.call("a", method, client_key=method) == once
        expired = await harness.call("a", "add", 1, 5, client_key="k", deadline_ms=100)
        assert code(expired) == (UNAVAILABLE, "expired")
        assert result(await harness.call("a", "add", 2, client_key="k")) == b'{"result":1}'

    story(Thing, told)


def test_a_client_key_is_forgotten_a_day_later() -> None:
    """A day in which the partition had work: the next command with it runs."""

    async def told(harness: OneOwner) -> None:
        assert result(await harness.call("a", "add", client_key="k")) == b'{"result":1}'
        for minute in range(25 * 60 + 1):
            harness.skew_ms = minute * 60_000
            await harness.call("other", "add")
            if minute == 24 * 60:
                assert result(await harness.call("a", "add", client_key="k")) == b'{"result":1}'
        assert result(await harness.call("a", "add", client_key="k")) == b'{"result":2}'

    story(Thing, told)


def test_an_entry_that_is_too_large_fails_its_turn_only() -> None:
    """Rolled back, told, journaled; the object goes on."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "put", 10)
        assert code(await harness.call("a", "put", 5000)) == (FAILED, "too-large")
        assert harness.value("a", "big") == b"x" * 10
        assert result(await harness.call("a", "add")) == b'{"result":1}'

    story(Thing, told, bounds=PartitionBounds(entry_bytes=2000))


def test_log_time_does_not_fall_by_what_clocks_differ() -> None:
    """The wall clock jumps back by half a minute: `state.now` and the journal's times stand still instead."""

    async def told(harness: OneOwner) -> None:
        times = []
        for skew_ms in (0, 5, -30_000, -30_000 + 7, 9):
            harness.skew_ms = skew_ms
            times.append(int(result(await harness.call("a", "now"))[len('{"result":') : -1]))
        assert times == sorted(times)
        assert [entry.time_ms for entry in await harness.journal()] == times

    story(Thing, told)


@SHARED
def test_too_many_undone_commands_pause_the_partition_until_half_are_done(shared: bool) -> None:
    """No more than the bound is ever under way; then the log is taken up where it was left."""
    bound = 6

    async def told(harness: OneOwner) -> None:
        offsets = [harness.send(f"n{n % 10}", "add", n, 0.1) for n in range(60)]
        most = 0
        while len(harness.ingress.replies) < len(offsets):
            most = max(most, harness.owner.backlog)
            await asyncio.sleep(0.001)
        assert 2 <= most <= bound
        assert len(marks(harness)) == 60

    story(Thing, told, shared=shared, bounds=PartitionBounds(backlog=bound))


def test_offsets_that_the_log_does_not_show_count_as_done() -> None:
    """Behind aborted transactions there are gaps: they are journaled, and the watermark passes them."""
    hidden = frozenset((0, 3, 4))

    async def told(harness: OneOwner) -> None:
        offsets = [harness.send("a", "add", n) for n in range(7)]
        await harness.replies(*(offset for offset in offsets if offset not in hidden))
        assert marks(harness) == [1, 2, 5, 6]

    story(Thing, told, hidden=hidden)


def test_a_read_that_was_answered_leaves_only_its_offset_until_that_is_journaled() -> None:
    """Its turn is gone at once, its command counts as undone until the commit, and then is done."""

    async def told(harness: OneOwner) -> None:
        await harness.replies(harness.send("a", "look"))
        (turn,) = harness.seen
        assert (turn(), harness.owner.backlog, harness.owner.journal.idle) == (None, 1, False)
        await harness.call("a", "add")
        assert (harness.owner.backlog, harness.owner.tables.done.mark) == (0, 2)

    story(Thing, told)


def test_a_failure_drops_the_instance_and_a_refusal_keeps_it() -> None:
    """Both roll back; attributes on `self` survive only the refusal."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "memory")
        assert code(await harness.call("a", "refuse")) == (REFUSED, "never")
        assert result(await harness.call("a", "memory")) == b'{"result":2}'
        assert code(await harness.call("a", "fail")) == (FAILED, "handler-failed")
        assert result(await harness.call("a", "memory")) == b'{"result":1}'
        assert harness.value("a", "count") is None

    story(Thing, told)


@SHARED
def test_a_new_reign_goes_on_where_the_last_one_ended(shared: bool) -> None:
    """Nothing that was answered runs again; what was cut off does, once."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "add", "done")
        harness.send("a", "add", "cut", 5)
        await harness.until(lambda: "cut" in marks(harness))
        await harness.end()
        await harness.begin()
        await harness.until(lambda: "cut" in marks(harness, "end"))
        assert marks(harness) == ["done", "cut", "cut"]
        await harness.until(lambda: harness.value("a", "count") == 2)

    story(Thing, told, shared=shared)


@pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])
def test_a_start_does_not_read_long_stretches_of_done_commands_again(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of commands overtook three slow ones. After a crash only those three
    run, in order, and what comes next.
    """
    taken: list[int] = []
    true = Owner.deliver

    def deliver(self: Owner, record: LogRecord) -> None:
        taken.append(record.offset)
        true(self, record)

    monkeypatch.setattr(Owner, "deliver", deliver)

    async def told(harness: OneOwner) -> None:
        for slow in ("a", "b", "a"):
            harness.send(slow, "add", "slow", 50)
            for n in range(150):
                await harness.call(f"other{n}", "add")
        harness.owner.tables.write_all()
        await harness.end()
        taken.clear()
        await harness.begin()
        last = await harness.call("c", "add")
        assert last.body == b'{"result":1}'
        assert taken == [0, 151, 302, 453]
        await harness.until(lambda: harness.value("a", "count") == 2)
        assert (harness.value("b", "count"), harness.value("other7", "count")) == (1, 3)
        await harness.check()

    story(Thing, told, shared=shared, bounds=PartitionBounds(stretch=100))
