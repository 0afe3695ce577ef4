"""Whose topics they are: what a journal says of them, and what is made of any that
are missing, new or grown.
"""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs
from tests.unit.one_owner import HOUR_MS, OneOwner, story

from perdure.objects.durable import DurableObject
from perdure.schemas.commands import CALL, Command, call_body, command_record
from perdure.schemas.errors import ConfigError, LogCorrupt
from perdure.schemas.journal import Claim, decode_record
from perdure.streams.journal import bootstrap
from perdure.streams.journal.bootstrap import append_one, bootstrap_log
from perdure.streams.journal.end_marks import MARK_KIND, append_mark
from perdure.streams.log.base import Bounds, Record, Topic
from perdure.streams.log.memory.log import MemoryLog
from perdure.streams.owner.maintenance import Maintenance
from perdure.streams.store.memory import MemoryStore
from perdure.streams.turns.ports import OwnerState

pytest.importorskip("aiokafka")

from perdure.streams.log.kafka.metadata import Described
from perdure.streams.log.kafka.topic_watch import GONE_AFTER_S, TopicWatch
from perdure.streams.log.kafka.topics import misfit

IDS = {"commands": "c1", "journal": "j1", "replies": "r1", "dead": "d1"}


class Thing(DurableObject):
    async def add(self) -> int:
        count: int = await self.state.get("count", 0) + 1
        await self.state.put("count", count)
        return count


@pytest.mark.parametrize("topic", IDS)
def test_another_topic_under_the_old_name_is_refused(topic: str) -> None:
    """The newest claim names the ids of all four: with another one of any of them
    nothing is claimed or changed.
    """

    async def told(harness: OneOwner) -> None:
        await harness.end()
        harness.broker.topic_ids.update(IDS)
        await harness.begin()
        assert (await harness.call("a", "add")).error is None
        await harness.end()
        harness.broker.topic_ids[topic] = "another"
        before = harness.broker.streams[Topic.JOURNAL, 0].end
        await harness.begin(OwnerState.STOPPED)
        assert isinstance(harness.owner.error, LogCorrupt)
        said = str(harness.owner.error)
        assert f"the topic of the {topic} is not the one" in said
        assert f"its id was {IDS[topic]} and is another" in said
        assert harness.broker.streams[Topic.JOURNAL, 0].end == before

    story(Thing, told, shared=True, check=False)


def test_topics_of_an_earlier_version_are_adopted_once_and_loudly() -> None:
    """A journal whose newest claim names no topics: a warning at the first start
    that knows ids, none at the next.
    """

    async def told(harness: OneOwner) -> None:
        await harness.end()
        harness.broker.topic_ids.update(IDS)
        for warnings in (1, 0):
            with capture_logs() as logged:
                await harness.begin()
            assert [each["log_level"] for each in logged if "are accepted as" in each["event"]] == [
                "warning"
            ] * warnings
            await harness.end()
        await harness.begin()
        claims = [decode_record(each.value) for each in await harness.records(Topic.JOURNAL)]
        assert [each.topics for each in claims if isinstance(each, Claim)] == [{}, IDS, IDS, IDS]

    story(Thing, told, shared=True)


@pytest.mark.parametrize(
    ("topic", "record", "trace"),
    [
        (Topic.REPLIES, Record(b"k", b"v"), "its replies end at offset 1"),
        (Topic.DEAD, Record(b"k", b"v"), "its dead end at offset 1"),
        (Topic.COMMANDS, Record(b"k", b"v", (("perdure-kind", b"call"),)), "the command at offset 0"),
        (Topic.COMMANDS, Record(b"k", b"v", (("kind", b"call"), ("id", b"1"))), "the command at offset 0"),
        (Topic.COMMANDS, Record(b"k", b"v", (("seal", b"1"),)), "the command at offset 0"),
        (Topic.COMMANDS, Record(b"k", b"v", (("kind", b"order-created"),)), None),
        (Topic.COMMANDS, Record(b"k", b"v"), None),
    ],
)
def test_an_empty_journal_beside_traces_of_an_app_is_not_founded(
    topic: Topic, record: Record, trace: str | None
) -> None:
    """What perdure left in the other topics shows that a journal was lost; what a
    client produced first does not.
    """

    async def told(harness: OneOwner) -> None:
        await harness.end()
        for stream in harness.broker.streams.values():
            stream.records.clear()
            stream.durable = 0
        harness.broker.accept(harness.broker.streams[topic, 0], [record])
        if trace is None:
            await bootstrap_log(harness.log, "app", "another-uuid")
            return
        with pytest.raises(LogCorrupt, match=f"was served before: .*{trace}.*Restore the topic"):
            await bootstrap_log(harness.log, "app", "another-uuid")
        assert harness.broker.streams[Topic.JOURNAL, 0].end == 0

    story(Thing, told, shared=True, check=False)


def test_trimmed_commands_are_a_trace() -> None:
    """Only perdure trims them."""

    async def told(harness: OneOwner) -> None:
        await harness.end()
        for stream in harness.broker.streams.values():
            stream.records.clear()
            stream.durable = stream.start = 7 if stream.topic is Topic.COMMANDS else 0
        with pytest.raises(LogCorrupt, match="its commands were trimmed up to offset 7"):
            await bootstrap_log(harness.log, "app", "another-uuid")

    story(Thing, told, shared=True, check=False)


def test_a_journal_that_another_node_founds_meanwhile_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was empty a moment ago, and the other node serves already: that is no lost journal."""

    async def told(harness: OneOwner) -> None:
        true, asked = MemoryLog.bounds, list[Topic]()

        async def slow(self: MemoryLog, topic: Topic, partition: int) -> Bounds:
            asked.append(topic)
            return Bounds(0, 0) if len(asked) == 1 else await true(self, topic, partition)

        await harness.call("a", "add")
        monkeypatch.setattr(MemoryLog, "bounds", slow)
        monkeypatch.setattr(bootstrap, "append_one", _nothing)
        assert await bootstrap_log(harness.log, "app", "app-uuid") == "app-uuid"
        monkeypatch.undo()

    story(Thing, told, shared=True)


async def _nothing(*given: object) -> int:
    return 0


# Rolled back in place, without a data directory: what was known is compared


def _keeper(harness: OneOwner) -> Maintenance:
    return Maintenance(
        harness.store,
        [harness.owner],
        clock_ms=harness.clock_ms,
        keep_ms=24 * HOUR_MS,
        failed=lambda error: None,
    )


def _roll_back(harness: OneOwner, topic: Topic, end: int) -> None:
    stream = harness.broker.streams[topic, 0]
    del stream.records[end - stream.start :]
    stream.durable = end


async def _marks(harness: OneOwner) -> list[bytes]:
    records = await harness.records(Topic.REPLIES)
    return [dict(each.headers)["journal"] for each in records if MARK_KIND in each.headers]


def test_a_mark_is_left_where_a_journal_ends() -> None:
    """One each time it has moved, and once more before the last is trimmed; none on an exclusive log."""

    async def told(harness: OneOwner) -> None:
        keeper = _keeper(harness)
        for _ in range(2):
            await harness.call("a", "add")
            keeper.mark(harness.owner)
            keeper.mark(harness.owner)
            await asyncio.sleep(1)
            assert (await _marks(harness))[-1] == f"0:{harness.broker.streams[Topic.JOURNAL, 0].end}".encode()
        assert len(await _marks(harness)) == 2
        harness.skew_ms += 13 * HOUR_MS
        await keeper.trim(harness.owner)
        await harness.until(lambda: harness.broker.streams[Topic.REPLIES, 0].end == 3)
        assert len(set(await _marks(harness))) == 2

    story(Thing, told, shared=True)

    async def alone(harness: OneOwner) -> None:
        await harness.call("a", "add")
        _keeper(harness).mark(harness.owner)
        assert await harness.records(Topic.REPLIES) == []

    story(Thing, alone)


@pytest.mark.parametrize("trace", ["mark", "reply", "dead letter"])
def test_a_journal_that_was_rolled_back_is_refused_without_a_data_directory(trace: str) -> None:
    """A mark, a reply or a dead letter names an offset behind its end: no claim is made, the remedy named."""

    async def told(harness: OneOwner) -> None:
        for _ in range(3):
            await harness.call("a", "add")
        end = harness.broker.streams[Topic.JOURNAL, 0].end
        if trace == "mark":
            _keeper(harness).mark(harness.owner)
        elif trace == "reply":
            harness.append(
                Record(*command_record(Command("Thing/a", CALL, "add", body=call_body("add", [], {}))))
            )
            end += 1
        else:
            harness.append_raw(b"Thing/a", b"not a call")
            end += 1
        await harness.until(
            lambda: harness.owner.idle and harness.broker.streams[Topic.JOURNAL, 0].end == end
        )
        await asyncio.sleep(1)
        await harness.end()
        if trace == "dead letter":
            harness.broker.streams[Topic.REPLIES, 0].records.clear()
            harness.broker.streams[Topic.REPLIES, 0].durable = 0
        _roll_back(harness, Topic.JOURNAL, end - 1)
        harness.store = MemoryStore()
        await harness.begin(OwnerState.STOPPED)
        assert isinstance(harness.owner.error, LogCorrupt)
        said = str(harness.owner.error)
        assert f"it ends at offset {end - 1}, and once ended at {end} or later" in said
        assert "perdure state adopt" in said
        assert harness.broker.streams[Topic.JOURNAL, 0].end == end - 1

    story(Thing, told, shared=True, check=False)


def test_a_rolled_back_journal_can_be_adopted() -> None:
    """A mark of `adopt` takes its end for the true one; commands whose outcome was lost run again."""

    async def told(harness: OneOwner) -> None:
        for _ in range(3):
            await harness.call("a", "add")
        _keeper(harness).mark(harness.owner)
        await asyncio.sleep(1)
        await harness.end()
        end = harness.broker.streams[Topic.JOURNAL, 0].end - 1
        _roll_back(harness, Topic.JOURNAL, end)
        harness.store = MemoryStore()
        assert await append_one(harness.log, 0, Claim("adopt", "adopt")) == end
        append_mark(harness.log, 0, end + 1, adopted=True)
        await harness.begin()
        assert (await harness.call("a", "add")).body == b'{"result":4}'

    story(Thing, told, shared=True)


@pytest.mark.parametrize("shared", [False, True])
def test_commands_that_end_before_what_is_done_are_refused_without_a_data_directory(shared: bool) -> None:
    """New ones would get offsets that the journal has done, and be passed over."""

    async def told(harness: OneOwner) -> None:
        for _ in range(3):
            await harness.call("a", "add")
        await harness.end()
        _roll_back(harness, Topic.COMMANDS, 2)
        harness.store = MemoryStore()
        before = harness.broker.streams[Topic.JOURNAL, 0].end
        await harness.begin(OwnerState.STOPPED)
        assert "it has applied commands up to offset 2, the log ends before 2" in str(harness.owner.error)
        assert harness.broker.streams[Topic.JOURNAL, 0].end == before

    story(Thing, told, shared=shared, check=False)


def test_a_journal_that_ends_before_what_was_trimmed_is_refused() -> None:
    """Only done commands are trimmed: a journal that does not have them as done was rolled back."""

    async def told(harness: OneOwner) -> None:
        for _ in range(3):
            await harness.call("a", "add")
        await harness.end()
        stream = harness.broker.streams[Topic.COMMANDS, 0]
        del stream.records[:2]
        stream.start = 2
        _roll_back(harness, Topic.JOURNAL, harness.broker.streams[Topic.JOURNAL, 0].end - 2)
        harness.store = MemoryStore()
        await harness.begin(OwnerState.STOPPED)
        assert "begin at offset 2, but those from 1 on are not done" in str(harness.owner.error)

    story(Thing, told, shared=True, check=False)


# Topics on Kafka


class _Topics:
    def __init__(self) -> None:
        self.ids = {f"app.{topic}": id_ for topic, id_ in IDS.items()}


def _described(partitions: int = 2, **others: Described) -> dict[str, Described]:
    found = {f"app.{topic}": Described(id_, 0, (1,) * partitions) for topic, id_ in IDS.items()}
    return found | {f"app.{topic}": described for topic, described in others.items()}


def test_a_running_node_sees_what_becomes_of_its_topics() -> None:
    """Nothing wrong; more partitions: a trouble, until they are gone; another id:
    an error; away for long: an error.
    """
    watch = TopicWatch(_Topics(), 2, lambda error: None)  # type: ignore[arg-type]  # its ids are all that is asked
    assert watch.look(_described(), 0.0) is None
    assert watch.troubles == ()
    with capture_logs() as logged:
        for at_s in (1.0, 2.0):
            assert watch.look(_described(commands=Described("c1", 0, (1, 1, 1))), at_s) is None
    (trouble,) = watch.troubles
    assert (trouble.topic, trouble.state) == ("app.commands", "partitions added")
    assert len(logged) == 1
    error = watch.look(_described(replies=Described("r2", 0, (1, 1))), 3.0)
    assert "its id was r1 and is r2" in str(error)
    away = {name: each for name, each in _described().items() if name != "app.journal"}
    assert watch.look(away, 4.0) is None
    assert watch.look(_described(), 5.0) is None
    assert watch.look(away, 6.0) is None
    assert "app.journal is gone" in str(watch.look(away, 6.0 + GONE_AFTER_S))


@pytest.mark.parametrize(
    ("counts", "held", "kind", "said"),
    [
        ({"commands": 1}, (), ConfigError, r"perdure did not make it.*--delete --topic app\.commands"),
        ({"commands": 2}, (), None, ""),
        ({"commands": 2}, ("commands",), None, ""),
        ({"commands": 2, "journal": 1, "replies": 2, "dead": 2}, ("replies",), LogCorrupt, "deleted and made again"),
        ({"commands": 2, "journal": 2, "dead": 2}, ("journal",), LogCorrupt, r"app\.replies is gone.*state adopt"),
        ({"commands": 4, "journal": 2, "replies": 2, "dead": 2}, ("journal",), ConfigError, "has 4, the app was created with 2"),
        ({"commands": 1, "journal": 2, "replies": 2, "dead": 2}, ("journal",), LogCorrupt, "was deleted and made again"),
        (dict.fromkeys(IDS, 3), ("journal",), ConfigError, "has 3 partitions, but 2 are configured.*Configure 3"),
        (dict.fromkeys(IDS, 2), ("journal", "commands"), None, ""),
    ],
)  # fmt: skip
def test_topics_that_do_not_fit_are_told_with_a_way_out(
    counts: dict[str, int], held: tuple[str, ...], kind: type[Exception] | None, said: str
) -> None:
    """What is said depends on whether the app was served: its journal, and what the others hold, tell."""
    named = {f"app.{topic}": count for topic, count in counts.items()}
    ends = {name: int(name.partition(".")[2] in held) for name in named}
    error = misfit("app.journal", named, ends, 2, "broker:9092")
    if kind is None:
        assert error is None
    else:
        assert isinstance(error, kind)
        with pytest.raises(kind, match=f"(?s){said}"):
            raise error
