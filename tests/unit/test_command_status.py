"""What became of a command, by its id: on an exclusive log and on a shared one,
where a void record proves nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.one_owner import HOUR_MS, OneOwner, story

from perdure.objects.durable import DurableObject
from perdure.schemas.commands import CALL, LOCAL, Command, call_body, command_record
from perdure.schemas.errors import Unavailable
from perdure.schemas.journal import Entry, EntryRecord, encode_chained
from perdure.schemas.replies import OK, Reply
from perdure.streams.log.base import Record, Topic
from perdure.streams.owner import command_status
from perdure.streams.owner.command_status import (
    BURST_S,
    NEAR,
    RECORDS_PER_S,
    WAITING_MAX,
    CommandStatus,
    Pace,
    look_up,
    time_in,
)

SHARED = pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])


class Thing(DurableObject):
    async def add(self, wait_s: float = 0) -> int:
        await asyncio.sleep(wait_s)
        count: int = await self.state.get("count", 0) + 1
        await self.state.put("count", count)
        return count

    async def count(self) -> int:
        count: int = await self.state.get("count", 0)
        return count


def send(harness: OneOwner, id_: str, method: str, *args: Any, key: str | None = None) -> int:
    body = call_body(method, list(args), {})
    command = Command("Thing/a", CALL, method, "", (), body, id_, LOCAL, client_key=key)
    return harness.append(Record(*command_record(command)))


async def found(harness: OneOwner, id_: str, time_ms: int | None = None) -> CommandStatus | None:
    return await look_up(harness.owner, id_, harness.clock_ms() if time_ms is None else time_ms)


@SHARED
def test_each_end_of_a_command_is_told(shared: bool) -> None:
    """An entry's reply, with a key and without; no reply for what changed nothing;
    pending until it is done.
    """

    async def told(harness: OneOwner) -> None:
        offsets = [
            send(harness, "plain", "add"),
            send(harness, "keyed", "add", key="k"),
            send(harness, "read", "count"),
        ]
        await harness.replies(*offsets)
        await harness.until(lambda: harness.owner.idle)
        for id_, body in (("plain", b'{"result":1}'), ("keyed", b'{"result":2}'), ("read", None)):
            each = await found(harness, id_)
            assert each is not None
            assert each.done
            assert (each.reply.body if each.reply else None) == body
        later = send(harness, "slow", "add", 5)
        await asyncio.sleep(1)  # virtual: it is durable and runs
        pending = await found(harness, "slow")
        assert pending is not None
        assert (pending.done, pending.reply) == (False, None)
        await harness.replies(later)

    story(Thing, told, shared=shared)


@SHARED
def test_the_time_in_the_id_bounds_the_look_up(shared: bool) -> None:
    """It is found within the skew on both sides, among many others, and not beyond;
    what is not there is None.
    """

    async def told(harness: OneOwner) -> None:
        for n in range(40):
            if n == 20:
                then_ms = harness.clock_ms()
            await harness.replies(send(harness, f"id{n}", "add"))
            await asyncio.sleep(1)
        for skew_ms in (-9_000, 0, 9_000):
            assert (each := await found(harness, "id20", then_ms + skew_ms)) is not None
            assert each.reply is not None
            assert each.reply.body == b'{"result":21}'
        assert await found(harness, "id20", then_ms + 12_000) is None
        assert await found(harness, "id20", then_ms - 12_000) is None
        assert await found(harness, "other", then_ms) is None

    story(Thing, told, shared=shared)


@SHARED
def test_records_stamped_by_a_clock_that_was_ahead_hide_no_others(shared: bool) -> None:
    """A broker that is a year ahead for some of them: each of the others is found, with its reply."""

    async def told(harness: OneOwner) -> None:
        then_ms = {}
        for n in range(40):
            skew_ms = 365 * 24 * HOUR_MS if n % 7 in (2, 3) else 0
            harness.broker.clock_ms = lambda skew_ms=skew_ms: harness.clock_ms() + skew_ms  # type: ignore[misc]
            if not skew_ms:
                then_ms[n] = harness.clock_ms()
            await harness.replies(send(harness, f"id{n}", "add"))
            await asyncio.sleep(1)
        harness.broker.clock_ms = harness.clock_ms
        for n, time_ms in then_ms.items():
            assert (each := await found(harness, f"id{n}", time_ms)) is not None, n
            assert each.reply is not None
            assert each.reply.body == b'{"result":%d}' % (n + 1)

    story(Thing, told, shared=shared)


def test_past_its_bound_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that there is no such command."""
    monkeypatch.setattr(command_status, "SCAN", 5)

    async def told(harness: OneOwner) -> None:
        await harness.replies(*(send(harness, f"id{n}", "add") for n in range(20)))
        with pytest.raises(Unavailable, match="gave up"):
            await found(harness, "none")

    story(Thing, told)


@pytest.mark.parametrize("number", [0, 1, 700, 1999, 2000, 0xFFFFFF])
def test_an_id_is_found_among_many_by_reading_few(number: int) -> None:
    """Also one that is not there: numbers lead to where it would be, past what no
    door of this node has appended.
    """

    async def told(harness: OneOwner) -> None:
        for n in range(2000):
            last = send(harness, f"other-{n}" if n % 3 else f"0-1-node-{n:x}", "count")
        await harness.replies(last)
        await harness.until(lambda: harness.owner.idle)
        seen = 0

        class Counted(Pace):
            async def took(self, records: int) -> None:
                nonlocal seen
                seen += records

        id_ = f"0-1-node-{number:x}"
        each = await look_up(harness.owner, id_, harness.clock_ms(), Counted())
        assert (each is not None) == (number < 2000 and number % 3 == 0)
        if each is not None:
            assert each.offset == number
        journal = 0 if each is None else 2000  # its entry is looked for, too
        assert seen <= 14 * NEAR + journal

    story(Thing, told)


def test_all_look_ups_together_read_at_a_pace() -> None:
    """Made-up ids, asked for at once and again and again, are read in turn, and too
    many of them are refused.
    """

    async def told(harness: OneOwner) -> None:
        pace, loop = Pace(), asyncio.get_running_loop()
        began_s = loop.time()
        outcomes = await asyncio.gather(
            *(pace.took(10_000) for _ in range(WAITING_MAX + 50)), return_exceptions=True
        )
        refused = [each for each in outcomes if each is not None]
        assert len(refused) > 20
        assert all(isinstance(each, Unavailable) for each in refused)
        read = 10_000 * len(outcomes)
        assert loop.time() - began_s >= 10_000 * WAITING_MAX / RECORDS_PER_S - BURST_S
        await asyncio.sleep(read / RECORDS_PER_S)
        again_s = loop.time()
        await pace.took(1_000)
        assert loop.time() == again_s, "who asks once in a while waits for nobody"

    story(Thing, told)


def test_an_owner_that_does_not_serve_tells_nothing() -> None:
    """Not even that there is no such command."""

    async def told(harness: OneOwner) -> None:
        await harness.take_over()
        harness.owner.lost(Unavailable("a test"))
        with pytest.raises(Unavailable):
            await found(harness, "none")
        await harness.until(lambda: harness.owner.tail)

    story(Thing, told, shared=True, check=False)


def test_a_void_entry_is_not_what_became_of_it() -> None:
    """A predecessor's last breath, behind the claim of who ran the command in truth."""

    async def told(harness: OneOwner) -> None:
        before = harness.owner
        epoch, seq = before.tables.reader.epoch, before.tables.reader.seq
        await harness.take_over()
        entry = Entry(0, "Thing/a", harness.clock_ms(), OK, Reply(OK, 200, (), b"void"))
        value, _ = encode_chained(EntryRecord(epoch, seq, entry), b"x" * 16)
        stream = harness.broker.streams[Topic.JOURNAL, 0]
        harness.broker.accept(stream, [Record(None, value)])
        await harness.replies(send(harness, "id", "add"))
        await harness.take_over()
        each = await found(harness, "id")
        assert each is not None
        assert each.reply is not None
        assert each.reply.body == b'{"result":1}'

    story(Thing, told, shared=True, check=False)


@pytest.mark.parametrize(
    ("id_", "told"),
    [
        ("1-ff-n-0", (1, 255)),
        ("1-ff-a-b-0", (1, 255)),
        ("2-ff-n-0", None),
        ("1-xx-n-0", None),
        ("1-ff", None),
        ("-1-ff-n-0", None),
        ("", None),
        ("\u0661-ff-n-0", None),
        ("1-ffffffffffffffffffff-n-0", None),
    ],
)
def test_an_id_says_where_and_when(id_: str, told: tuple[int, int] | None) -> None:
    """Partition and millisecond; a text that is none of this app's says nothing."""
    assert time_in(id_, 2) == told


def test_on_a_shared_log_a_made_up_id_reads_what_was_stamped_at_its_time() -> None:
    """Nothing for a time of which there is nothing; and for one that is there what
    came just after it first.
    """

    async def told(harness: OneOwner) -> None:
        times_ms = []
        for n in range(100):
            times_ms.append(harness.clock_ms())
            await harness.replies(send(harness, f"id{n}", "count"))
            await asyncio.sleep(1)
        read, true = list[int](), harness.log.read

        async def counted(topic: Topic, partition: int, start: int, end: int) -> Any:
            async for chunk in true(topic, partition, start, end):
                if topic is Topic.COMMANDS:
                    read.extend(record.offset for record in chunk)
                yield chunk

        harness.log.read = counted  # type: ignore[method-assign]  # looked at on its way
        for time_ms in (times_ms[0] - HOUR_MS, times_ms[-1] + HOUR_MS):
            assert await found(harness, "made up", time_ms) is None
            assert read == []
        assert await found(harness, "made up", times_ms[50]) is None
        assert read
        assert sorted(read) == list(range(min(read), max(read) + 1)), "each once"
        assert set(read) <= set(range(40, 61))
        read.clear()
        assert await found(harness, "id50", times_ms[50]) is not None
        assert min(read) == 50, "what came before is not read"

    story(Thing, told, shared=True)


def test_all_that_one_look_up_reads_counts_towards_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands and the journal together: neither alone is over it."""

    async def told(harness: OneOwner) -> None:
        for n in range(60):
            await harness.replies(send(harness, f"id{n}", "add"))
            await asyncio.sleep(0.1)
        then_ms = harness.clock_ms() - 200
        assert await found(harness, "id59", then_ms) is not None
        monkeypatch.setattr(command_status, "SCAN", 50)
        with pytest.raises(Unavailable, match="gave up"):
            await found(harness, "made up", then_ms)

    story(Thing, told, shared=True)
