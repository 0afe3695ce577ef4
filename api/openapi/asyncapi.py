"""The AsyncAPI 3.0 document of an app: the records that any Kafka client may write to it, and those it answers with.

Laws
- Like the OpenAPI document it is made of the classes alone, gives the same bytes in every process, and has a hash of what
  it says for a version.
- All objects are in it: no Worker stands before the topics, and who may write to them is the broker's to say.
- What only perdure itself may send (schemas/commands.py) is not in it.
"""

from __future__ import annotations

import inspect
from hashlib import sha256

import msgspec

from perdure.api.openapi.objects import signatures
from perdure.api.openapi.parts import About, Json, described
from perdure.objects.durable import DurableObject
from perdure.objects.registry import Registry
from perdure.objects.signatures import Schema
from perdure.schemas.commands import MAX_CLIENT_KEY_CHARS
from perdure.schemas.config import Config
from perdure.schemas.replies import FAILED, PARKED, REFUSED, REJECTED, UNAVAILABLE

_BINDING = "0.5.0"  # of https://github.com/asyncapi/bindings/tree/master/kafka
_ABOUT = """Commands for objects, and their replies, as records of Kafka topics.

- A record's key is the object's, such as `Room/a`. It decides the partition as Java's clients do (murmur2): of other libraries
  set the partitioner so.
- A record without headers is a call. Headers are UTF-8, all optional unless it is said that they are required.
- A reply lies in the partition of its command, under the object's key, unless the command says something else. It may come
  twice after a crash, with the same `message-id`.
- What is no command is answered with an error, and lies in the topic of dead letters with the reason."""
_EMBEDDED = "\n\nThis app runs on the embedded log, which no Kafka client reaches: start it with `--log kafka://HOST:PORT` for that."
_TEXT: Json = {"type": "string"}
_COMMAND_HEADERS: Json = {
    "type": "object",
    "properties": {
        "v": {"const": "1", "description": "The format of the record."},
        "kind": {"const": "call"},
        "id": {**_TEXT, "description": "Comes back as `correlation-id`."},
        "reply-to": {
            **_TEXT,
            "description": "`PARTITION/KEY`: where the reply goes in the topic of replies; `none`: nobody wants it.",
        },
        "idempotency-key": {
            **_TEXT,
            "minLength": 1,
            "maxLength": MAX_CLIENT_KEY_CHARS,
            "description": "It is done once, however often it is sent with this key within 24 h.",
        },
        "deadline": {
            **_TEXT,
            "pattern": "^[0-9]{1,12}$",
            "description": "Milliseconds after the record's time, from which on nobody waits for it.",
        },
        "traceparent": {**_TEXT, "description": "W3C Trace Context."},
    },
}
_FETCH_HEADERS: Json = {
    "type": "object",
    "properties": {
        **_COMMAND_HEADERS["properties"],
        "kind": {"const": "fetch"},
        "method": {**_TEXT, "default": "GET"},
        "path": {**_TEXT, "default": "/", "description": "What the object sees as its path, with the query."},
    },
    "patternProperties": {"^http-": {**_TEXT, "description": "An HTTP header, its name in lower case."}},
    "required": ["kind"],
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
    "ErrorHeaders": _of_reply([REFUSED, FAILED, REJECTED, UNAVAILABLE, PARKED]),
    "Error": {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "description": "Its code is stable, as the `type` of a problem over HTTP; its text says what to do.",
                "properties": {
                    "code": _TEXT,
                    "message": _TEXT,
                    "detail": {"description": "What a Refusal brings."},
                },
                "required": ["code", "message"],
            }
        },
        "required": ["error"],
    },
}
_CORRELATED: Json = {"location": "$message.header#/correlation-id"}


def asyncapi(config: Config, registry: Registry) -> Json:
    """The document of an app."""
    found = signatures(registry.kinds)
    names = [f"{config.name}.{topic}" for topic in ("commands", "replies", "dead")]
    commands, replies, dead = (_channel(name, config.partitions) for name in names)
    messages: Json = {"error": _error(), "dead": _dead()}
    operations: Json = {}
    for namespace in sorted(registry.kinds):
        kind = registry.kinds[namespace]
        asked = [
            (
                name,
                method.function.__doc__,
                _call(name, found.bodies[namespace, name]),
                _result(found.results[namespace, name]),
            )
            for name, method in sorted(kind.methods.items())
        ]
        if kind.cls.fetch is not DurableObject.fetch:
            asked.append(("fetch", kind.cls.fetch.__doc__, dict(_FETCH), dict(_FETCHED)))
        for name, docstring, command, reply in asked:
            at, told = f"{namespace}.{name}", f"{namespace}.{name}.reply"
            command["bindings"] = {"kafka": {"key": _key(namespace), "bindingVersion": _BINDING}}
            messages |= {at: {"name": at, **described(docstring), **command}, told: {"name": told, **reply}}
            commands["messages"][at] = _message(at)
            replies["messages"][told] = _message(told)
            operations[at] = {
                "action": "receive",
                "channel": {"$ref": "#/channels/commands"},
                **described(docstring),
                "tags": [{"name": namespace}],
                "messages": [_in("commands", at)],
                "reply": {
                    "channel": {"$ref": "#/channels/replies"},
                    "messages": [_in("replies", told), _in("replies", "error")],
                },
            }
    replies["messages"]["error"], dead["messages"]["dead"] = _message("error"), _message("dead")
    operations["dead"] = {
        "action": "send",
        "channel": {"$ref": "#/channels/dead"},
        "summary": "What was no command.",
        "messages": [_in("dead", "dead")],
    }
    return _versioned(
        {
            "asyncapi": "3.0.0",
            "info": {
                "title": config.name,
                "version": "",
                "description": _ABOUT if config.kafka_brokers else _ABOUT + _EMBEDDED,
                "tags": [_tag(registry, namespace) for namespace in sorted(registry.kinds)],
            },
            "defaultContentType": "application/json",
            "servers": {
                f"kafka-{at}": {"host": broker, "protocol": "kafka"}
                for at, broker in enumerate(config.kafka_brokers)
            },
            "channels": {"commands": commands, "replies": replies, "dead": dead},
            "operations": operations,
            "components": {
                "messages": messages,
                "schemas": {**_SCHEMAS, **found.definitions},
            },
        }
    )


def _versioned(whole: Json) -> Json:
    whole["info"]["version"] = sha256(msgspec.json.encode(whole)).hexdigest()[:12]
    return whole


def _channel(topic: str, partitions: int) -> Json:
    binding = {"topic": topic, "partitions": partitions, "bindingVersion": _BINDING}
    return {"address": topic, "messages": {}, "bindings": {"kafka": binding}}


def _message(name: str) -> Json:
    return {"$ref": f"#/components/messages/{name}"}


def _in(channel: str, name: str) -> Json:
    return {"$ref": f"#/channels/{channel}/messages/{name}"}


def _schema(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _key(namespace: str) -> Json:
    return About(guarded=False, objects=True, anonymous=False, namespaces=(namespace,)).key


def _tag(registry: Registry, namespace: str) -> Json:
    told = inspect.cleandoc(registry.kinds[namespace].cls.__doc__ or "")
    return {"name": namespace, "description": told} if told else {"name": namespace}


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


def _error() -> Json:
    return {
        "name": "error",
        "summary": "Why a command came to nothing.",
        "headers": _schema("ErrorHeaders"),
        "payload": _schema("Error"),
        "correlationId": _CORRELATED,
    }


def _dead() -> Json:
    reason = {"reason": _TEXT, "command": {**_TEXT, "description": "Where it lay: `PARTITION:OFFSET`."}}
    return {
        "name": "dead",
        "summary": "A record that was no command, as it came, with the reason in its headers.",
        "headers": {"type": "object", "properties": reason, "required": list(reason)},
        "payload": {"description": "As it came."},
        "contentType": "application/octet-stream",
    }
