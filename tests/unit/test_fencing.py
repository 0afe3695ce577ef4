"""Two nodes and one partition: whose claim counts, and what a node does that has lost its own."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tests.unit.one_owner import OneOwner, story

from perdure.objects.durable import DurableObject
from perdure.schemas.errors import Fenced, OutcomeUnknown
from perdure.schemas.journal import Claim, Header, decode_record, encode_unchained
from perdure.streams.journal.reader import JournalReader
from perdure.streams.log.base import Record, Topic
from perdure.streams.owner import recovery
from perdure.streams.owner.owner import Owner
from perdure.streams.turns.ports import OwnerState


class Thing(DurableObject):
    async def add(self) -> int:
        count: int = await self.state.get("count", 0) + 1
        await self.state.put("count", count)
        return count


def _claim(harness: OneOwner, **said: object) -> int:
    """A rival's claim lands; its offset."""
    stream = harness.broker.streams[Topic.JOURNAL, 0]
    claim = Claim("rival", "rival", "far.example", 77, **said)  # type: ignore[arg-type]  # `after`
    return harness.broker.accept(stream, [Record(None, encode_unchained(claim))])


async def _claims(harness: OneOwner) -> list[Claim]:
    found = [decode_record(each.value) for each in await harness.records(Topic.JOURNAL)]
    return [each for each in found if isinstance(each, Claim)]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=40))
def test_behind_each_epoch_one_claim_counts(steps: list[tuple[int, bool]]) -> None:
    """Nodes read up to the end, or not, and claim behind what they have seen: each
    epoch is followed by one claim at most.
    """
    readers = [JournalReader(f"journal of {n}") for n in range(4)]
    values = [encode_unchained(Header("app", "uuid", 0, 1))]
    for n, reads in steps:
        if reads:
            for at in range(readers[n].offset, len(values)):
                readers[n].step(at, values[at])
        else:
            values.append(encode_unchained(Claim(f"u{len(values)}", f"n{n}", "", 0, readers[n].epoch)))
    judge, follows = JournalReader("judge"), list[int | None]()
    for at, value in enumerate(values):
        epoch, record = judge.epoch, judge.step(at, value)
        if isinstance(record, Claim):
            assert record.after == epoch
            follows.append(record.after)
    assert len(follows) == len(set(follows))


def test_a_claim_of_an_earlier_version_counts() -> None:
    """It has two fields and follows nothing; an earlier version reads of ours what it knows."""
    old = b"\x01" + msgspec.msgpack.encode([1, "u", "n"])
    reader = JournalReader("journal")
    reader.step(0, encode_unchained(Header("app", "uuid", 0, 1)))
    assert reader.step(1, encode_unchained(Claim("a", "a", "h", 1, -1))) is not None
    assert reader.step(2, old) == Claim("u", "n")
    assert reader.epoch == 2
    assert msgspec.msgpack.decode(encode_unchained(Claim("a", "b", "h", 1, 2))[1:])[:3] == [1, "a", "b"]


def test_an_unsure_owner_does_not_claim_behind_a_rival() -> None:
    """Its append's outcome is unknown, as after a stop, and a rival has claimed
    meanwhile: it is fenced, and appends nothing.
    """

    async def told(harness: OneOwner) -> None:
        assert (await harness.call("a", "add")).error is None
        offset = _claim(harness)
        with capture_logs() as logged:
            harness.owner.lost(OutcomeUnknown("no acknowledgement within 10 s"))
            await harness.until(lambda: harness.owner.state is OwnerState.FENCED)
        assert isinstance(harness.owner.error, Fenced)
        assert f"claimed by node rival (host far.example, pid 77) at offset {offset}" in str(
            harness.owner.error
        )
        assert [each.node for each in await _claims(harness)] == ["node", "rival"]
        (lost,) = [each for each in logged if each["log_level"] == "error"]
        assert lost["event"] == "a partition is lost to another node"
        assert (lost["partition"], lost["node"]) == (0, "node")
        assert "pid 77" in lost["reason"]
        await harness.end()
        await harness.begin()  # named once more
        assert (await harness.call("a", "add")).error is None

    story(Thing, told, shared=True)


def test_a_claim_that_lands_behind_a_rival_s_is_void() -> None:
    """The rival claims between what the unsure owner reads and its claim: the
    rival's reign goes on undisturbed.
    """

    async def told(harness: OneOwner) -> None:
        assert (await harness.call("a", "add")).error is None
        first, living = harness.owner, harness.living
        true, go, waits = recovery._see_rivals, asyncio.Event(), asyncio.Event()

        async def seen(owner: Owner) -> None:
            await true(owner)
            if owner is first:
                waits.set()
                await go.wait()

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(recovery, "_see_rivals", seen)
            first.lost(OutcomeUnknown("no acknowledgement within 10 s"))
            await waits.wait()
            await harness.take_over()
            second = harness.owner
            assert (await harness.call("a", "add")).error is None
            go.set()
            await harness.until(lambda: first.state is OwnerState.FENCED)
        assert len(await _claims(harness)) == 3
        for _ in range(3):
            assert (await harness.call("a", "add")).error is None
        assert second.state is OwnerState.SERVING
        assert second.counts.claims == 1
        assert second.tables.reader.void >= 1
        living.cancel()

    story(Thing, told, shared=True)


def test_an_own_claim_that_lands_late_fences_nobody() -> None:
    """A claim given up for lost that arrives before the next one: the node claims once more, behind it."""

    async def told(harness: OneOwner) -> None:
        owner = harness.owner
        stream = harness.broker.streams[Topic.JOURNAL, 0]

        assert owner.follows is not None
        claim = Claim("late", "node", "", 0, owner.follows)
        owner.claims.append("late")
        harness.broker.accept(stream, [Record(None, encode_unchained(claim))])
        owner.lost(OutcomeUnknown("no acknowledgement within 10 s"))
        await harness.until(lambda: owner.state is OwnerState.SERVING)
        assert (await harness.call("a", "add")).error is None
        nodes = await _claims(harness)
        assert [each.uuid for each in nodes].count("late") == 1
        assert nodes[-1].after is not None

    story(Thing, told, shared=True)
