"""Records of other systems: CloudEvents as calls, and replies where Spring and SmallRye ask for them."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from typing import Any

import pytest
from tests.unit.owners import Owners, story

from perdure.api.loading import load_config
from perdure.objects.durable import DurableObject
from perdure.schemas.commands import Headers, parse_admitted, parse_call, parse_command
from perdure.schemas.config import parse_config, record_rules
from perdure.schemas.errors import ConfigError, MalformedCommand, PerdureError, Unavailable
from perdure.schemas.foreign import EventRule, RecordRules, ReplyTopic, allowed, reply_topic_in
from perdure.schemas.replies import REJECTED, parse_reply
from perdure.streams.log.base import Record, Topic

RULES = RecordRules(
    "shop",
    ("spring.*", "answers"),
    {
        "placed": EventRule("place"),
        "moved": EventRule("move", "arguments"),
        "seen": EventRule("see", "event"),
    },
)
CORRELATION = bytes(range(200, 216))  # not UTF-8


def binary(kind: str = "placed", **more: bytes) -> Headers:
    named = {"ce_specversion": b"1.0", "ce_id": b"7", "ce_source": b"/shop", "ce_type": kind.encode(), **more}
    return tuple(named.items())


@pytest.mark.parametrize(
    ("key", "value", "headers", "due"),
    [
        (b"Cart/a", b'{"by": 1}', binary(), ("place", [{"by": 1}], {})),
        (None, b'{"by": 1}', binary(ce_partitionkey=b"Cart/a"), ("place", [{"by": 1}], {})),
        (b"no object", b"3", binary(ce_subject=b"Cart/a"), ("place", [3], {})),
        (b"Cart/a", b'{"to": 2}', binary("moved"), ("move", [], {"to": 2})),
        (b"Cart/a", None, binary(), ("place", [], {})),
        (
            b"Cart/a",
            b"hello",
            (*binary(), ("content-type", b"text/plain; charset=utf-8")),
            ("place", ["hello"], {}),
        ),
        (b"Cart/a", b'{"method": "add", "args": [1]}', binary("unmapped"), ("add", [1], {})),
    ],
)
def test_a_binary_event_is_a_call(
    key: bytes | None, value: bytes | None, headers: Headers, due: tuple[str, list[Any], dict[str, Any]]
) -> None:
    """Of the object that its key, partition key or subject names."""
    command = parse_command(key, value, headers, rules=RULES)
    assert command.key == "Cart/a"
    assert parse_call(command.body) == due


def structured(**more: Any) -> bytes:
    event = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "placed", "subject": "Cart/a"}
    return json.dumps({**event, **more}).encode()


STRUCTURED = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)


def test_a_structured_event_is_the_same_call() -> None:
    """With its data as JSON, as base64, or none; or the whole of it."""
    for more, due in (
        ({"data": {"by": 1}}, [{"by": 1}]),
        ({"data_base64": b64encode(b'{"by": 1}').decode()}, [{"by": 1}]),
        ({}, []),
    ):
        command = parse_command(None, structured(**more), STRUCTURED, rules=RULES)
        assert (command.key, parse_call(command.body)) == ("Cart/a", ("place", due, {}))
    command = parse_command(None, structured(type="seen", data=5, mine="x"), STRUCTURED, rules=RULES)
    method, (event,), _ = parse_call(command.body)
    assert (method, event["data"], event["mine"], event["id"]) == ("see", 5, "x", "7")
    binary_command = parse_command(b"Cart/a", b"5", binary(), rules=RULES)
    assert binary_command.client_key == command.client_key


def test_source_and_id_are_the_key_of_an_event() -> None:
    """Unless it has an idempotency key of its own; the trace context is an attribute too."""
    keys = {
        parse_command(b"Cart/a", b"1", binary(ce_source=source, ce_id=id_), rules=RULES).client_key
        for source, id_ in ((b"/a", b"1"), (b"/a", b"2"), (b"/b", b"1"))
    }
    assert len(keys) == 3
    own = (*binary(ce_traceparent=b"00-1-2-03"), ("idempotency-key", b"mine"))
    command = parse_command(b"Cart/a", b"1", own, rules=RULES)
    assert (command.client_key, command.traceparent) == ("mine", "00-1-2-03")


@pytest.mark.parametrize(
    ("key", "value", "headers", "why"),
    [
        (b"Cart/a", b"1", binary("other"), "no method is mapped"),
        (None, b"1", binary(), "names no object"),
        (b"Cart/a", b"1", binary(ce_specversion=b"0.3"), "version"),
        (b"Cart/a", b"1", binary(ce_id=b""), "no 'id'"),
        (b"Cart/a", b"\xff", binary(), "not JSON"),
        (b"Cart/a", b"1", (*binary(), ("content-type", b"image/png")), "image/png"),
        (b"Cart/a", b"[1]", binary("moved"), "not a JSON object"),
        (None, b"[]", STRUCTURED, "a JSON object"),
        (None, b"{}", STRUCTURED, "no 'specversion'"),
        (None, b"[]", (("content-type", b"application/cloudevents-batch+json"),), "batch"),
        (None, structured(data_base64="?"), STRUCTURED, "data_base64"),
        (b"Cart/a", b"1", binary(ce_source=b"\xff"), "UTF-8"),
    ],
)
def test_what_is_wrong_with_an_event_is_said(
    key: bytes | None, value: bytes | None, headers: Headers, why: str
) -> None:
    """It becomes a dead letter with that reason."""
    with pytest.raises(MalformedCommand, match=why):
        parse_command(key, value, headers, rules=RULES)


def test_spring_and_smallrye_ask_for_their_reply() -> None:
    """By topic, partition and correlation id, as raw bytes."""
    call = b'{"method": "add"}'
    spring = (
        ("kafka_replyTopic", b"spring.replies"),
        ("kafka_correlationId", CORRELATION),
        ("kafka_replyPartition", (3).to_bytes(4, "big")),
    )
    to = reply_topic_in(parse_admitted(b"Cart/a", call, spring, RULES).reply_to)
    assert to == ("spring.replies", 3, "kafka_correlationId", CORRELATION)
    smallrye = (("REPLY_TOPIC", b"answers"), ("REPLY_CORRELATION_ID", b"x"))
    to = reply_topic_in(parse_admitted(b"Cart/a", call, smallrye, RULES).reply_to)
    assert to == ("answers", None, "REPLY_CORRELATION_ID", b"x")
    own = (("kafka_replyTopic", b"shop.replies"), ("kafka_correlationId", CORRELATION))
    assert reply_topic_in(parse_admitted(b"Cart/a", call, own, RULES).reply_to).topic == ""
    first = (("reply-to", b"1/me"), *spring)
    assert parse_admitted(b"Cart/a", call, first, RULES).reply_to == "1/me"
    assert (
        parse_admitted(b"Cart/a", call, (("reply-to", b"topic:answers/2"),), RULES).reply_to
        == "topic:answers/2"
    )


@pytest.mark.parametrize("topic", ["shop.commands", "shop.journal", "shop.dead", "other", "spring"])
def test_a_reply_may_not_go_anywhere(topic: str) -> None:
    """Not to the app's own topics, whatever is allowed, and to others only if they are."""
    rules = RULES._replace(reply_topics=(*RULES.reply_topics, "shop.*"))
    with pytest.raises(MalformedCommand, match="may not go to the topic"):
        allowed(f"topic:{topic}", rules)
    asked = (("kafka_replyTopic", topic.encode()), ("kafka_correlationId", CORRELATION))
    with pytest.raises(MalformedCommand, match="may not go to the topic"):
        parse_admitted(b"Cart/a", b'{"method": "add"}', asked, rules)


@pytest.mark.parametrize(
    "asked", [("kafka_correlationId", b"x" * 513), ("kafka_replyTopic", b"spring." + b"x" * 250)]
)
def test_what_a_sender_asks_to_have_back_is_bounded(asked: tuple[str, bytes]) -> None:
    """It lies in the entry, which has to fit a record; the partition goes on."""

    async def told(harness: Owners) -> None:
        rule(harness)
        large = Record(b"Thing/a", b'{"method": "add"}', ((asked[0], asked[1] * 9_000),))
        for record in (large, Record(b"Thing/a", b'{"method": "add"}', (asked,))):
            harness.log.append(Topic.COMMANDS, harness.place("a"), record)
        await harness.quiet()
        letters = await harness.records(Topic.DEAD, harness.place("a"))
        assert [b"has no room" in dict(each.headers)["reason"] for each in letters] == [True, True]
        assert harness.value("a") is None

    story(Thing, told)


def test_a_reply_address_is_read_back_as_it_was_written() -> None:
    """And one that makes no sense is refused."""
    for address in (
        ReplyTopic("a.b", None),
        ReplyTopic("", 7, "h", b""),
        ReplyTopic("a", 0, "kafka_correlationId", CORRELATION),
    ):
        assert reply_topic_in(str(address)) == address
    for text in ("topic:a/x", "topic:a/-1", "topic:a/1?h=?", "topic:a/99999999999"):
        with pytest.raises(MalformedCommand):
            reply_topic_in(text)


class Thing(DurableObject):
    """Counts."""

    async def add(self, by: int = 1) -> int:
        count: int = await self.state.get("count", 0) + by
        await self.state.put("count", count)
        return count


class Topics:
    """Topics of others on the brokers, of which some are missing."""

    def __init__(self, harness: Owners) -> None:
        self.harness = harness
        self.records: list[tuple[str, int | None, Record]] = []

    def append(self, topic: str, partition: int | None, record: Record, then: Any) -> None:
        missing = topic.endswith("missing")
        if not missing:
            self.records.append((topic, partition, record))
        asyncio.get_running_loop().call_soon(then, Unavailable("no such topic") if missing else None)


def rule(harness: Owners) -> None:
    """Let the owners read records by `RULES`."""
    rules = RULES._replace(app="app", reply_topics=("spring.*",), events={"added": EventRule("add")})
    for owner in harness.owners:
        object.__setattr__(owner.ports.transport, "rules", rules)


@pytest.mark.parametrize("place", ["home", "away"])
def test_replies_in_topics_of_others(place: str) -> None:
    """With the correlation id; what cannot get there lies in the app's replies, and stops nothing."""

    async def told(harness: Owners) -> None:
        rule(harness)
        harness.log.reply_topics = topics = Topics(harness)
        home = harness.place("a")
        partition = home if place == "home" else (home + 1) % harness.partitions
        for topic in (b"spring.replies", b"spring.missing", b"app.replies", b"forbidden"):
            asked = (("kafka_replyTopic", topic), ("kafka_correlationId", CORRELATION))
            harness.log.append(Topic.COMMANDS, partition, Record(b"Thing/a", b'{"method": "add"}', asked))
        await harness.quiet()
        assert harness.value("a") == 3
        ((name, number, record),) = topics.records
        assert (name, number, record.key) == ("spring.replies", None, b"Thing/a")
        assert dict(record.headers)["kafka_correlationId"] == CORRELATION
        assert json.loads(record.value or b"") == {"result": 1}
        there = [(await harness.records(Topic.REPLIES, p)) for p in range(harness.partitions)]
        (diverted,) = [each for each in there[home] if "undelivered" in dict(each.headers)]
        assert json.loads(diverted.value or b"") == {"result": 2}
        own = [each for each in there[partition] if "undelivered" not in dict(each.headers)]
        echoes = [dict(each.headers).get("kafka_correlationId") for each in own]
        assert echoes.count(CORRELATION) == 1
        (refused,) = [each for each in own if dict(each.headers)["outcome"] == REJECTED.encode()]
        assert dict(refused.headers)["status"] == b"400"
        assert parse_reply(refused.value, refused.headers).reply.error is not None
        letters = await harness.records(Topic.DEAD, partition)
        assert [each.key for each in letters] == [b"Thing/a"]
        assert dict(letters[0].headers)["time"].isdigit()

    story(Thing, told, shared=True)


def test_an_event_that_is_sent_twice_takes_effect_once() -> None:
    """Wherever it is produced: its subject names the object, its source and id the event."""

    async def told(harness: Owners) -> None:
        rule(harness)
        for partition in (0, 1, 2, 1):
            headers = binary("added", ce_subject=b"Thing/a")
            harness.log.append(Topic.COMMANDS, partition, Record(None, b"5", headers))
        await harness.quiet()
        assert harness.value("a") == 5

    story(Thing, told)


def test_the_configuration_maps_types_to_methods(tmp_path: Any) -> None:
    """By name, or with how the method gets the event."""
    text = """
name = "shop"
main = "app.py"
[events]
"com.shop.placed" = "place"
"com.shop.seen" = { method = "see", data = "event" }
[kafka]
reply_topics = ["spring.*"]
"""
    (tmp_path / "perdure.toml").write_text(text)
    (tmp_path / "app.py").write_text("")
    rules = record_rules(load_config(tmp_path / "app.py"))
    assert rules.app == "shop"
    assert rules.reply_topics == ("spring.*",)
    assert rules.events == {"com.shop.placed": ("place", "argument"), "com.shop.seen": ("see", "event")}
    assert parse_config is not None
    (tmp_path / "perdure.toml").write_text(text.replace('"place"', '"_place"'))
    with pytest.raises(ConfigError, match="_place"):
        load_config(tmp_path / "app.py")
    assert issubclass(ConfigError, PerdureError)
