"""The AsyncAPI 3.0 document of an app: the records that any Kafka client may write
to it, and those it answers with.

Laws
- Like the OpenAPI document it is made of the classes alone, gives the same bytes in every process, and has a
  hash of its content for a version.
- All objects are in it: no Worker stands before the topics, and the broker decides which clients may write to
  them.
- Commands that only perdure itself may send (schemas/commands.py) are not in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

import msgspec

from perdure.api.openapi.objects import signatures, tags
from perdure.api.openapi.parts import Json, described, key_of
from perdure.objects.durable import DurableObject
from perdure.objects.registry import Registry
from perdure.objects.signatures import Schema, Signatures
from perdure.schemas.commands import MAX_CLIENT_KEY_CHARS
from perdure.schemas.config import Config
from perdure.schemas.replies import FAILED, PARKED, REFUSED, REJECTED, UNAVAILABLE

_BINDING = "0.5.0"  # of https://github.com/asyncapi/bindings/tree/master/kafka
_ABOUT = """Commands for objects, and their replies, as records of Kafka topics.

- A record's key is the object's, such as `Room/a`. Any partitioner will do: a command that is not in the partition
  where Java's clients would put its key (murmur2) is forwarded there.
- A record without headers is a call. Headers are UTF-8, and optional unless listed as required.
- A reply is written to the partition of its command, under the object's key, unless the command says otherwise. It
  may appear twice after a crash, with the same `message-id`.
- An error is a reply too: its `status` is that of HTTP.
- CloudEvents 1.0 are calls of the methods that the configuration maps their types to; requests of Spring's
  `ReplyingKafkaTemplate` and SmallRye's `KafkaRequestReply` are answered in their topic, with their correlation id.
- A record that is not a command is answered with an error, and copied to the dead letters with the reason."""
_EMBEDDED = (
    "\n\nThis app runs on the embedded log, which Kafka clients cannot reach: use `--log kafka://HOST:PORT`."
)
_TEXT: Json = {"type": "string"}
_COMMAND_HEADERS: Json = {
    "type": "object",
    "properties": {
        "perdure-v": {"const": "1", "description": "The format of the record."},
        "perdure-kind": {"const": "call"},
        "id": {**_TEXT, "description": "Returned as `correlation-id`."},
        "reply-to": {
            **_TEXT,
            "description": "`PARTITION/KEY`: the reply's place in the topic of replies; `topic:NAME` or "
            "`topic:NAME/PARTITION`: another topic, if the configuration allows it; `none`: no reply.",
        },
        "idempotency-key": {
            **_TEXT,
            "minLength": 1,
            "maxLength": MAX_CLIENT_KEY_CHARS,
            "description": "A command takes effect once, however often it is sent with this key within 24 h.",
        },
        "deadline": {
            **_TEXT,
            "pattern": "^[0-9]{1,12}$",
            "description": "Milliseconds after the record's time, after which the command has expired.",
        },
        "traceparent": {**_TEXT, "description": "W3C Trace Context."},
    },
}
_FETCH_HEADERS: Json = {
    "type": "object",
    "properties": {
        **_COMMAND_HEADERS["properties"],
        "perdure-kind": {"const": "fetch"},
        "perdure-method": {**_TEXT, "default": "GET"},
        "perdure-path": {
            **_TEXT,
            "default": "/",
            "description": "What the object sees as its path, with the query.",
        },
    },
    "patternProperties": {"^http-": {**_TEXT, "description": "An HTTP header, its name in lower case."}},
    "required": ["perdure-kind"],
}


def _of_reply(outcomes: list[str], **more: Json) -> Json:
    return {
        "type": "object",
        "properties": {
            "message-id": {**_TEXT, "description": "`PARTITION:OFFSET/N`, the same if it comes again."},
            "correlation-id": {**_TEXT, "description": "The command's `id`, or its place."},
            "command": {**_TEXT, "pattern": "^[0-9]+:[0-9]+$", "description": "The command's place."},
            "outcome": {"enum": outcomes},
            **more,
        },
        "required": ["message-id", "correlation-id", "command", "outcome", *more],
    }


_STATUS: Json = {"status": {**_TEXT, "pattern": "^[0-9]{3}$", "description": "As in HTTP."}}
_SCHEMAS: Json = {
    "CallHeaders": _COMMAND_HEADERS,
    "FetchHeaders": _FETCH_HEADERS,
    "ReplyHeaders": _of_reply(["ok"], **_STATUS),
    "ErrorHeaders": _of_reply(
        [REFUSED, FAILED, REJECTED, UNAVAILABLE, PARKED],
        **_STATUS,
        error={**_TEXT, "description": "The error's code."},
    ),
    "Error": {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "description": "Its code is stable, as a problem's `type` over HTTP; its text says what to do.",
                "properties": {
                    "code": _TEXT,
                    "message": _TEXT,
                    "detail": {"description": "The detail of a Refusal."},
                },
                "required": ["code", "message"],
            }
        },
        "required": ["error"],
    },
}
_CORRELATED: Json = {"location": "$message.header#/correlation-id"}


class _Operation(NamedTuple):
    """An operation of an object: the record of a command, and that of its reply."""

    namespace: str
    at: str
    docstring: str | None
    command: Json
    reply: Json

    @property
    def reply_at(self) -> str:
        return f"{self.at}.reply"


def asyncapi(config: Config, registry: Registry, topics: str = "") -> Json:
    """The document of an app. `topics`: what the names of its topics begin with; empty: the app's name."""
    topics = topics or config.name
    described_types = signatures(registry.types)
    operations = list(_operations(registry, described_types))
    whole: Json = {
        "asyncapi": "3.0.0",
        "info": {
            "title": config.name,
            "version": "",
            "description": _ABOUT if config.kafka_brokers else _ABOUT + _EMBEDDED,
            "tags": tags(registry.types),
        },
        "defaultContentType": "application/json",
        "servers": {
            f"kafka-{at}": {"host": broker, "protocol": "kafka"}
            for at, broker in enumerate(config.kafka_brokers)
        },
        "channels": {
            "commands": _channel(config, f"{topics}.commands", [each.at for each in operations]),
            "replies": _channel(
                config, f"{topics}.replies", [*(each.reply_at for each in operations), "error"]
            ),
            "dead": _channel(config, f"{topics}.dead", ["dead"]),
        },
        "operations": {**{each.at: _operation(each) for each in operations}, "dead": _DEAD_LETTERS},
        "components": {
            "messages": {**_messages(operations), "error": _error(), "dead": _dead()},
            "schemas": {**_SCHEMAS, **described_types.definitions},
        },
    }
    whole["info"]["version"] = sha256(msgspec.json.encode(whole)).hexdigest()[:12]
    return whole


def _operations(registry: Registry, described_types: Signatures) -> Iterator[_Operation]:
    for namespace in sorted(registry.types):
        kind = registry.types[namespace]
        for name, method in sorted(kind.methods.items()):
            key, docstring = (namespace, name), method.function.__doc__
            call, result = _call(name, described_types.bodies[key]), _result(described_types.results[key])
            yield _Operation(namespace, f"{namespace}.{name}", docstring, call, result)
        if kind.cls.fetch is not DurableObject.fetch:
            yield _Operation(namespace, f"{namespace}.fetch", kind.cls.fetch.__doc__, _FETCH, _FETCHED)


def _channel(config: Config, name: str, messages: list[str]) -> Json:
    binding = {"topic": name, "partitions": config.partitions, "bindingVersion": _BINDING}
    return {
        "address": name,
        "messages": {each: {"$ref": f"#/components/messages/{each}"} for each in messages},
        "bindings": {"kafka": binding},
    }


def _messages(operations: list[_Operation]) -> Json:
    made: Json = {}
    for each in operations:
        binding = {"kafka": {"key": key_of(each.namespace), "bindingVersion": _BINDING}}
        made[each.at] = {"name": each.at, **described(each.docstring), **each.command, "bindings": binding}
        made[each.reply_at] = {"name": each.reply_at, **each.reply}
    return made


def _operation(operation: _Operation) -> Json:
    return {
        "action": "receive",
        "channel": {"$ref": "#/channels/commands"},
        **described(operation.docstring),
        "tags": [{"name": operation.namespace}],
        "messages": [_in("commands", operation.at)],
        "reply": {
            "channel": {"$ref": "#/channels/replies"},
            "messages": [_in("replies", operation.reply_at), _in("replies", "error")],
        },
    }


def _in(channel: str, name: str) -> Json:
    return {"$ref": f"#/channels/{channel}/messages/{name}"}


def _schema(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _call(name: str, body: Schema) -> Json:
    """A record's value is the body of a call at `/rpc/…`, and the method's name with it."""
    shapes = [
        {
            **shape,
            "properties": {"method": {"const": name}, **shape["properties"]},
            "required": ["method", *shape.get("required", ())],
        }
        for shape in body.get("anyOf", (body,))
    ]
    payload = shapes[0] if len(shapes) == 1 else {"anyOf": shapes}
    if "anyOf" in body:
        payload = {key: value for key, value in body.items() if key != "anyOf"} | payload
    return {
        "headers": _schema("CallHeaders"),
        "payload": payload,
        "correlationId": {"location": "$message.header#/id"},
    }


def _result(result: Schema) -> Json:
    value = {"type": "object", "properties": {"result": result}, "required": ["result"]}
    return {"headers": _schema("ReplyHeaders"), "payload": value, "correlationId": _CORRELATED}


_FETCH: Json = {
    "headers": _schema("FetchHeaders"),
    "payload": {"description": "The request's body, as it is."},
    "contentType": "application/octet-stream",
    "correlationId": {"location": "$message.header#/id"},
}
_FETCHED: Json = {
    "headers": _schema("ReplyHeaders"),
    "payload": {"description": "The response's body; its headers are `http-NAME`."},
    "contentType": "application/octet-stream",
    "correlationId": _CORRELATED,
}


_DEAD_LETTERS: Json = {
    "action": "send",
    "channel": {"$ref": "#/channels/dead"},
    "summary": "Records that were not commands.",
    "messages": [_in("dead", "dead")],
}


def _error() -> Json:
    return {
        "name": "error",
        "summary": "The reason why a command failed.",
        "headers": _schema("ErrorHeaders"),
        "payload": _schema("Error"),
        "correlationId": _CORRELATED,
    }


def _dead() -> Json:
    reason = {
        "reason": _TEXT,
        "command": {**_TEXT, "description": "The record's place: `PARTITION:OFFSET`."},
        "time": {**_TEXT, "pattern": "^[0-9]+$", "description": "When it was read, in ms since 1970."},
    }
    return {
        "name": "dead",
        "summary": "A record that was not a command, unchanged, with the reason in its headers.",
        "headers": {"type": "object", "properties": reason, "required": list(reason)},
        "payload": {"description": "The record's value, unchanged."},
        "contentType": "application/octet-stream",
    }
