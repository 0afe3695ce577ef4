"""Records of other systems as commands: CloudEvents, and requests of Spring and SmallRye.

A record that has no header of perdure's own may be a CloudEvent 1.0, in the binary mode (`ce_…` headers) or
the structured one (`application/cloudevents+json`). `as_call` makes a call of it: key, body and headers as
a client of perdure would write them. A record may also ask for its reply as Spring's
`ReplyingKafkaTemplate` or SmallRye's `KafkaRequestReply` do: by headers that name a topic, maybe a
partition, and a correlation id of raw bytes.

Laws [test_foreign.py]
- An event's object is the first that names one of key, `partitionkey` and `subject`; its method is what the
  configuration maps its `type` to. The same `source` and `id` take effect once.
- Data that is a call of perdure's (`{"method": …}`) is one, whatever the type.
- A reply goes to `{app}.replies`, or to a topic that the configuration allows; never to another of the
  app's own topics. A record that asks for another one is refused, and has no effect.
"""

from __future__ import annotations

import json
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Mapping
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from perdure.schemas.errors import BadKey, MalformedCommand
from perdure.schemas.keys import parse_key

Headers = tuple[tuple[str, bytes], ...]
Named = Mapping[str, bytes]
TOPIC = "topic:"  # how a reply address begins that names a topic
ARGUMENT, ARGUMENTS, EVENT = "argument", "arguments", "event"  # what of an event a method is called with
_STRUCTURED = b"application/cloudevents+json"
_BATCH = b"application/cloudevents-batch+json"
_ATTRIBUTE = "ce_"
# (topic, partition, correlation id) of those who ask for a reply by headers
_ASKING = (
    ("kafka_replyTopic", "kafka_replyPartition", "kafka_correlationId"),
    ("REPLY_TOPIC", "REPLY_PARTITION", "REPLY_CORRELATION_ID"),
)
_PARTITION_BYTES = 4
_TOPIC_CHARS = 249  # the most that Kafka allows
_CORRELATION_BYTES = 512  # it is kept in the entry
_encode = msgspec.json.Encoder().encode


class EventRule(NamedTuple):
    """A method that events of a type call, with their data or as a whole."""

    method: str
    data: str = ARGUMENT


class RecordRules(NamedTuple):
    """The part of the configuration by which records of other systems are read.

    `app`: its name, with which its topics begin. `reply_topics`: patterns of the topics that replies may go
    to beside `{app}.replies`. `events`: by type.
    """

    app: str = ""
    reply_topics: tuple[str, ...] = ()
    events: Mapping[str, EventRule] = {}


NO_RULES = RecordRules()


class ReplyTopic(NamedTuple):
    """A reply address that names a topic (empty: `{app}.replies`), and a header that the reply has."""

    topic: str
    partition: int | None = None
    header: str = ""
    value: bytes = b""

    def __str__(self) -> str:
        partition = "" if self.partition is None else self.partition
        echo = f"?{self.header}={urlsafe_b64encode(self.value).decode()}" if self.header else ""
        return f"{TOPIC}{self.topic}/{partition}{echo}"


def reply_topic_in(reply_to: str) -> ReplyTopic:
    """The address that `str` wrote, or a client: `topic:NAME`, `topic:NAME/PARTITION`.

    Raises `MalformedCommand`.
    """
    place, _, echo = reply_to.removeprefix(TOPIC).partition("?")
    topic, _, partition = place.partition("/")
    header, _, value = echo.partition("=")
    if partition and not (partition.isascii() and partition.isdigit() and len(partition) < 10):
        raise MalformedCommand(
            f"the reply address {reply_to[:80]!r} names no partition: topic:NAME/PARTITION"
        )
    try:
        raw = b64decode(value, altchars=b"-_", validate=True)
    except ValueError as error:
        raise MalformedCommand(f"the reply address {reply_to[:80]!r} is not one: {error}") from error
    return ReplyTopic(topic, int(partition) if partition else None, header, raw)


def allowed(reply_to: str, rules: RecordRules) -> str:
    """A reply address that names a topic, if the reply may go there. Raises `MalformedCommand`."""
    address = reply_topic_in(reply_to)
    if address.topic in ("", f"{rules.app}.replies"):
        return str(address._replace(topic=""))
    own = address.topic in {f"{rules.app}.{each}" for each in ("commands", "journal", "dead")}
    if own or not any(fnmatchcase(address.topic, each) for each in rules.reply_topics):
        raise MalformedCommand(
            f"a reply may not go to the topic {address.topic[:200]!r}: it is not among the reply_topics of the "
            f"[kafka] table; nothing was done. Reply topics are {rules.app}.replies and those"
        )
    return str(address)


def requested_reply(named: Named, rules: RecordRules) -> str:
    """Where a record of Spring or SmallRye asks for its reply; empty if it is not one.

    Raises `MalformedCommand`.
    """
    for topic, partition, correlation in _ASKING:
        if topic not in named and correlation not in named:
            continue
        try:
            name = named.get(topic, b"").decode()
        except UnicodeDecodeError as error:
            raise MalformedCommand(f"the header {topic} is not UTF-8") from error
        if len(name) > _TOPIC_CHARS or len(named.get(correlation, b"")) > _CORRELATION_BYTES:
            raise MalformedCommand(
                f"the reply that {topic} asks for has no room: a topic has at most {_TOPIC_CHARS} characters, and "
                f"{correlation} at most {_CORRELATION_BYTES} bytes"
            )
        number = named.get(partition)
        if number is not None and len(number) != _PARTITION_BYTES:
            raise MalformedCommand(f"the header {partition} is not a number of {_PARTITION_BYTES} bytes")
        place = None if number is None else int.from_bytes(number, "big")
        header = correlation if correlation in named else ""
        return allowed(str(ReplyTopic(name, place, header, named.get(correlation, b""))), rules)
    return ""


def is_event(named: Named) -> bool:
    """True if the headers are those of a CloudEvent."""
    return "ce_specversion" in named or named.get("content-type", b"").startswith(b"application/cloudevents")


def as_call(
    key: bytes | None, value: bytes | None, headers: Headers, rules: RecordRules
) -> tuple[bytes | None, bytes, Headers]:
    """(key, value, headers) of the call that a CloudEvent is.

    Args:
        key: of the record.
        value: of the record.
        headers: of the record; those that are not the event's are kept.
        rules: what the configuration says.

    Raises:
        MalformedCommand: it is not a CloudEvent, names no object, or its type is not mapped to a method.
    """
    event, data = _read(value, dict(headers))
    for required in ("specversion", "id", "source", "type"):
        if not isinstance(event.get(required), str) or not event[required]:
            raise MalformedCommand(f"the CloudEvent has no {required!r}")
    if event["specversion"] != "1.0":
        raise MalformedCommand(f"a CloudEvent of version {event['specversion'][:20]!r}: 1.0 is known")
    once = blake2b(f"{event['source']}\0{event['id']}".encode(), digest_size=16).hexdigest()
    kept = tuple(header for header in headers if not header[0].startswith(_ATTRIBUTE))
    if not any(name == "idempotency-key" for name, _ in kept):
        kept += (("idempotency-key", f"ce:{once}".encode()),)
    if "traceparent" in event and not any(name == "traceparent" for name, _ in kept):
        kept += (("traceparent", str(event["traceparent"]).encode()),)
    kept = tuple(header for header in kept if header[0] != "content-type")
    return _object(key, event), _body(event, data, rules), kept


def _object(key: bytes | None, event: dict[str, Any]) -> bytes:
    places = (key, event.get("partitionkey"), event.get("subject"))
    for each in places:
        text = each.encode() if isinstance(each, str) else each
        if text:
            try:
                return parse_key(text).encode()
            except BadKey:
                continue
    raise MalformedCommand(
        "the CloudEvent names no object: the record's key, `partitionkey` or `subject` must be one, such as Counter/alice"
    )


def _body(event: dict[str, Any], data: Any, rules: RecordRules) -> bytes:
    if isinstance(data, dict) and isinstance(data.get("method"), str) and event["type"] not in rules.events:
        return _encode(data)
    rule = rules.events.get(event["type"])
    if rule is None:
        raise MalformedCommand(
            f"no method is mapped to CloudEvents of the type {event['type'][:200]!r}: name it in the [events] table"
        )
    if rule.data == EVENT:
        return _encode({"method": rule.method, "args": [event if data is None else {**event, "data": data}]})
    if rule.data == ARGUMENTS:
        if not isinstance(data, dict):
            raise MalformedCommand(f"the data of a {event['type'][:200]!r} is not a JSON object of arguments")
        return _encode({"method": rule.method, "kwargs": data})
    return _encode({"method": rule.method, "args": [] if data is None else [data]})


def _read(value: bytes | None, named: Named) -> tuple[dict[str, Any], Any]:
    """(attributes, data) of an event."""
    kind = named.get("content-type", b"")
    if kind.startswith(_BATCH):
        raise MalformedCommand("a batch of CloudEvents is not a command: send each event as a record")
    if kind.startswith(_STRUCTURED):
        event = _json(value or b"")
        if type(event) is not dict:
            raise MalformedCommand("a structured CloudEvent is a JSON object")
        data = event.pop("data", None)
        if (encoded := event.pop("data_base64", None)) is not None:
            try:
                data = _data(b64decode(encoded, validate=True), str(event.get("datacontenttype", "")))
            except (TypeError, ValueError) as error:
                raise MalformedCommand(f"data_base64 of the CloudEvent: {error}") from error
        return event, data
    try:
        event = {
            name[len(_ATTRIBUTE) :]: text.decode()
            for name, text in named.items()
            if name.startswith(_ATTRIBUTE)
        }
        if kind:
            event["datacontenttype"] = kind.decode()
    except UnicodeDecodeError as error:
        raise MalformedCommand("an attribute of the CloudEvent is not UTF-8") from error
    return event, None if not value else _data(value, event.get("datacontenttype", ""))


def _data(raw: bytes, kind: str) -> Any:
    media = kind.partition(";")[0].strip().lower()
    if media in ("", "application/json", "text/json") or media.endswith("+json"):
        return _json(raw)
    if media.startswith("text/"):
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise MalformedCommand("the text of the CloudEvent is not UTF-8") from error
    raise MalformedCommand(f"the data of the CloudEvent is {media[:80]!r}: JSON and text are understood")


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise MalformedCommand(f"the CloudEvent is not JSON: {str(error)[:200]}") from error
