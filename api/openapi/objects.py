"""The paths of objects: one per method at `/rpc/…`, and `/objects/…` where a class has a `fetch`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from perdure.api.access.guard import need_of_object
from perdure.api.openapi.errors import GUARDED, OF_FETCH, OF_OBJECTS, answer, by_status, too_early
from perdure.api.openapi.parts import About, Json, described, json_answer, reference, secured
from perdure.objects.durable import DurableObject
from perdure.objects.registry import ObjectType
from perdure.objects.rpc import Method
from perdure.objects.signatures import Schema, Signatures, signatures_of

METHODS = ("get", "head", "post", "put", "patch", "delete", "options")
_ANYTHING: Json = {"*/*": {}}


def signatures(kinds: Mapping[str, ObjectType]) -> Signatures:
    """The parameters and results of all methods of an app."""
    methods = {
        (namespace, name): method
        for namespace in sorted(kinds)
        for name, method in sorted(kinds[namespace].methods.items())
    }
    return signatures_of(methods)


def answers(about: About) -> Json:
    """The answers that operations refer to: `Call409` of a method, `Fetch409` of a fetch."""
    more = GUARDED if about.guarded else ()
    accepted = json_answer(
        "With `Prefer: respond-async`: the command is durable and will run.",
        reference("schemas", "Accepted"),
        Location="Location",
    )
    made: Json = {
        "Accepted": accepted,
        "FetchAccepted": {**accepted, "content": {**accepted["content"], **_ANYTHING}},
        "Fetched": {
            "description": "The object's response.",
            "headers": {"perdure-command": reference("headers", "Command")},
            "content": _ANYTHING,
        },
        **too_early(),
    }
    for name, codes, anything in (("Call", OF_OBJECTS, False), ("Fetch", OF_FETCH, True)):
        for status, listed in by_status((*codes, *more)).items():
            made[f"{name}{status}"] = answer(status, listed, command=True, anything=anything)
    return made


def paths(about: About, kinds: Mapping[str, ObjectType], described_types: Signatures) -> Json:
    """The path items of all namespaces."""
    made: Json = {}
    for namespace in sorted(kinds):
        kind = kinds[namespace]
        if kind.cls.fetch is not DurableObject.fetch:
            made |= _fetched(about, kind)
        for name, method in sorted(kind.methods.items()):
            key = (namespace, name)
            made[f"/rpc/{namespace}/{{name}}/{name}"] = {
                "parameters": [reference("parameters", "name")],
                "post": _call(
                    about, namespace, method, described_types.bodies[key], described_types.results[key]
                ),
            }
    return made


def tags(kinds: Mapping[str, ObjectType]) -> list[Json]:
    """A tag for each namespace, described by its class."""
    made = []
    for namespace in sorted(kinds):
        text = inspect.cleandoc(kinds[namespace].cls.__doc__ or "")
        made.append({"name": namespace, "description": text} if text else {"name": namespace})
    return made


def _call(about: About, namespace: str, method: Method, body: Schema, result: Schema) -> Json:
    need = need_of_object("POST", f"/rpc/{namespace}/".encode())
    content = {"application/json": {"schema": body}}
    return {
        "operationId": f"rpc.{namespace}.{method.name}",
        "tags": [namespace],
        **described(method.function.__doc__),
        "parameters": _headers(),
        "requestBody": {"required": not _may_be_empty(body), "content": content},
        "responses": {
            "200": json_answer(
                "The method's result.",
                {
                    "type": "object",
                    "properties": {"result": result},
                    "required": ["result"],
                    "additionalProperties": False,
                },
                perdure_command="Command",
            ),
            "202": reference("responses", "Accepted"),
            **_problems(about, "Call", OF_OBJECTS),
        },
        **secured(about, f"{need.verb}:{need.namespace}", anonymous=about.anonymous),
    }


def _may_be_empty(body: Schema) -> bool:
    """True if the method can be called without a body, which counts as `{}`."""
    return any("required" not in shape for shape in body.get("anyOf", (body,)))


def _fetched(about: About, kind: ObjectType) -> Json:
    namespace = kind.namespace
    plain = f"/objects/{namespace}/{{name}}"
    own, below = [reference("parameters", "name")], reference("parameters", "path")
    return {
        plain: {"parameters": own, **{each: _fetch(about, kind, each, "") for each in METHODS}},
        f"{plain}/{{path}}": {
            "parameters": [*own, below],
            **{each: _fetch(about, kind, each, "path.") for each in METHODS},
        },
    }


def _fetch(about: About, kind: ObjectType, method: str, where: str) -> Json:
    need = need_of_object(method.upper(), f"/objects/{kind.namespace}/".encode())
    made: Json = {
        "operationId": f"objects.{kind.namespace}.{where}{method}",
        "tags": [kind.namespace],
        **described(kind.cls.fetch.__doc__),
        "parameters": _headers(),
    }
    if method in ("post", "put", "patch"):
        made["requestBody"] = {"content": _ANYTHING}
    return {
        **made,
        "responses": {
            "default": reference("responses", "Fetched"),
            "202": reference("responses", "FetchAccepted"),
            **_problems(about, "Fetch", OF_FETCH),
        },
        **secured(about, f"{need.verb}:{need.namespace}", anonymous=about.anonymous),
    }


def _headers() -> list[Json]:
    return [reference("parameters", "idempotency-key"), reference("parameters", "prefer")]


def _problems(about: About, name: str, codes: tuple[str, ...]) -> Json:
    listed = by_status((*codes, *(GUARDED if about.guarded else ())))
    problems: Json = {str(status): reference("responses", f"{name}{status}") for status in listed}
    early = {key.removeprefix("Early"): reference("responses", key) for key in too_early()}
    return dict(sorted((problems | early).items()))
