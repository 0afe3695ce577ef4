"""Foreign records of any size: each is answered, kept as far as it may be, and the partition goes on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tests.unit.one_owner import OneOwner, story

from perdure.objects.durable import DurableObject
from perdure.schemas.admin import decode_record
from perdure.schemas.commands import record_hash
from perdure.schemas.errors import MalformedCommand, OutcomeUnknown, StorageFailed
from perdure.schemas.journal import NO_CHAIN, encode_entry, encode_raw_entry
from perdure.streams.log.base import LogRecord, Record, Topic, size_bytes
from perdure.streams.owner import recovery
from perdure.streams.turns.entries import CUT_BYTES, FIELD_BYTES, WHOLE_BYTES, dead_letter, parked_change
from perdure.streams.turns.ports import OwnerState, PartitionBounds

BROKER_BYTES = 10 << 20
MIB = 1 << 20


class Thing(DurableObject):
    async def add(self) -> int:
        count: int = await self.state.get("count", 0) + 1
        await self.state.put("count", count)
        return count


_texts = st.sampled_from((b"", b"x", b"\xff\xfe", b"id")) | st.binary(max_size=20)
_large = st.tuples(_texts, st.sampled_from((0, 1, 100, MIB, 4 * MIB, BROKER_BYTES))).map(
    lambda made: ((made[0] or b"-") * -(-made[1] // len(made[0] or b"-")))[: made[1]]  # as many bytes as that
)


@settings(max_examples=60, deadline=None)
@given(
    key=st.none() | _large,
    value=st.none() | _large,
    headers=st.lists(st.tuples(st.sampled_from(("id", "reply-to", "kind", "x" * 300)), _large), max_size=3),
    message=st.sampled_from(("short", "y" * BROKER_BYTES)),
)
def test_a_dead_letter_fits_whatever_the_record_holds(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]], message: str
) -> None:
    """Its entry is below the bound of entries, and what it lets out below that of
    records: also beyond the broker's size.
    """
    record = LogRecord(5, 1, key, value, tuple(headers))
    entry = dead_letter(record, MalformedCommand(message), 3, "")
    encoded = encode_entry(entry)
    journaled, _ = encode_raw_entry(7, 3, encoded, NO_CHAIN, (5, 1), 5, 5)
    assert len(encoded) <= PartitionBounds().entry_bytes
    assert size_bytes(Record(entry.key.encode(), journaled)) <= BROKER_BYTES - 64 * 1024
    (letter,) = entry.outbox
    assert size_bytes(Record(letter.key, letter.value, letter.headers)) <= BROKER_BYTES - 64 * 1024
    named = dict(letter.headers)
    assert named["command"] == b"3:5"
    if size_bytes(record) <= WHOLE_BYTES:
        assert (letter.key, letter.value) == (key, value)
        assert letter.headers[: len(headers)] == tuple(headers)
    else:
        assert named["perdure-size"] == b"%d" % size_bytes(record)
        assert named["perdure-hash"] == record_hash(key, value, tuple(headers)).hex().encode()
        assert letter.value is None or (value is not None and letter.value == value[:CUT_BYTES])
        assert letter.key is None or (key is not None and letter.key == key[:FIELD_BYTES])


def test_a_record_near_the_broker_s_bound_costs_no_claim() -> None:
    """10 MiB that are no command: one entry, one cut dead letter, and the next
    command is served in the same reign.
    """

    async def told(harness: OneOwner) -> None:
        harness.append(Record(b"nonsense", b"x" * (BROKER_BYTES - 200)))
        assert (await harness.call("a", "add")).error is None
        dead = harness.broker.streams[Topic.DEAD, 0]
        await harness.until(lambda: dead.end == 1)
        assert harness.owner.counts.claims == 1
        (letter,) = await harness.records(Topic.DEAD)
        assert letter.value == b"x" * CUT_BYTES
        assert all(
            len(each.value or b"") <= PartitionBounds().entry_bytes
            for each in await harness.records(Topic.JOURNAL)
        )

    story(Thing, told, shared=True)


def test_a_parked_command_is_kept_whole_or_not_at_all() -> None:
    """One that an entry can hold is kept as it is; a larger one is not, and can only be dropped."""
    small = LogRecord(1, 1, b"Thing/a", b"{}", (("id", b"1"),))
    assert decode_record(parked_change(small).record) == (small.key, small.value, small.headers)
    assert parked_change(LogRecord(1, 1, b"Thing/a", b"x" * WHOLE_BYTES)).record == b""


class _Refusing:
    """A writer that refuses its first batches, as a broker does each time with one
    that is too large for it.
    """

    def __init__(self, harness: OneOwner, error: BaseException) -> None:
        self._true, self._error = harness.log.writer, error
        self.refused = 0

    def __call__(self, partition: int, source: Any) -> Any:
        refusing, fill = self, source.fill

        class Source:
            acked = source.acked
            failed = source.failed

            def fill(self, max_bytes: int) -> Any:
                if not source._alone:
                    refusing.refused += 1
                    refusing_writer.close()
                    source.failed(refusing._error)
                    return ()
                return fill(max_bytes)

        refusing_writer = self._true(partition, Source())
        return refusing_writer


def test_a_broker_that_refuses_is_claimed_from_with_back_off() -> None:
    """A batch that is refused each time: a minute of it costs some twenty claims,
    and the log says so rarely.
    """

    async def told(harness: OneOwner) -> None:
        harness.log.writer = refusing = _Refusing(harness, OutcomeUnknown("refused"))  # type: ignore[assignment]  # a writer like it
        with capture_logs() as logged:
            harness.owner.lost(OutcomeUnknown("refused: the writer before this one"))
            harness.send("a", "add")
            await harness.until(lambda: harness.broker.loop.time() > 60)
        assert 10 <= refusing.refused <= 40
        assert harness.owner.counts.claims <= refusing.refused + 1
        tried = [
            each["attempts"] for each in logged if each["event"].startswith("a partition is claimed again")
        ]
        assert tried[:4] == [1, 2, 4, 8]
        assert {each["log_level"] for each in logged if "claimed again" in each["event"]} == {"warning"}
        assert all("refused" in each["reason"] for each in logged if "claimed again" in each["event"])

    story(Thing, told, shared=True, check=False)


def test_what_can_never_be_appended_stops_its_partition() -> None:
    """A writer that says so (the record does not fit) is not asked again: the
    partition stops and says why.
    """

    async def told(harness: OneOwner) -> None:
        harness.log.writer = refusing = _Refusing(harness, StorageFailed("does not fit"))  # type: ignore[assignment]  # a writer like it
        await harness.until(lambda: harness.owner.state is OwnerState.SERVING)
        await harness.end()
        await harness.begin()
        harness.send("a", "add")
        await harness.until(lambda: harness.owner.state is OwnerState.STOPPED)
        assert "does not fit" in str(harness.owner.error)
        assert refusing.refused == 1

    story(Thing, told, shared=True, check=False)


def test_a_reign_that_lasted_begins_the_back_off_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost append after a long reign costs a short pause, however many there were before."""
    monkeypatch.setattr(recovery, "LASTING_S", 0.0)

    async def told(harness: OneOwner) -> None:
        for n in range(12):
            harness.owner.lost(OutcomeUnknown("as a producer is dropped"))
            since_s = harness.broker.loop.time()
            await harness.until(lambda: harness.owner.state is OwnerState.SERVING)
            assert harness.broker.loop.time() - since_s < 0.2, n

    story(Thing, told, shared=True)
