"""perdure's own pages, described: one function for each, in `DESCRIBED`, under the page's name.

A page that is mounted (api/node.py) has its description here; tests hold the two lists against each other. Left out is
administration: the document is for an app's callers, and docs/admin.md for those who run it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from perdure.api.access.guard import PAGES
from perdure.api.access.tickets import TICKET_S
from perdure.api.door.async_commands import MAX_WAIT_S
from perdure.api.openapi.errors import ANY_PAGE, GUARDED, UNAVAILABLE, answer, by_status, too_early
from perdure.api.openapi.parts import About, Json, json_answer, reference, secured

TAG = "perdure"
LEFT_OUT = frozenset(("admin",))
_TEXT: Json = {"schema": {"type": "string"}}


def _operation(about: About, page: str, summary: str, found: Json, *codes: str, **more: object) -> Json:
    """An operation of a page that answers `found` or problems; `page` is the first part of its path."""
    right = PAGES[page]
    guard = (*GUARDED, *UNAVAILABLE) if about.guarded and right is not None else ()
    listed = by_status((*ANY_PAGE, *codes, *guard))
    problems = {
        str(status): answer(status, told) for status, told in listed.items() if str(status) not in found
    }
    early = {key.removeprefix("Early"): reference("responses", key) for key in too_early()}
    return {
        "summary": summary,
        "tags": [TAG],
        **more,
        "responses": dict(sorted((found | problems | early).items())),
        **secured(about, right),
    }


def _state(*words: str, **more: Json) -> Json:
    properties = {"status": {"enum": list(words)}, **more}
    return {"type": "object", "properties": properties, "required": list(properties)}


def livez(about: About) -> Json:
    found = {"200": json_answer("It runs.", _state("alive"))}
    return {
        "/livez": {"get": _operation(about, "livez", "Does the process run?", found, operationId="livez")}
    }


def readyz(about: About) -> Json:
    partition = {
        "type": "object",
        "properties": {
            "partition": {"type": "integer"},
            "state": {"type": "string"},
            "reason": {"type": "string"},
        },
        "required": ["partition", "state", "reason"],
    }
    state = _state("ready", "not ready", partitions={"type": "array", "items": partition})
    not_ready = json_answer("Some partitions do not serve: which, and why.", state)
    not_ready["content"]["text/plain"] = _TEXT  # of a server that has no room for the connection
    found = {"200": json_answer("Every partition serves.", state), "503": not_ready}
    return {
        "/readyz": {
            "get": _operation(about, "readyz", "Does every partition serve?", found, operationId="readyz")
        }
    }


def metrics(about: About) -> Json:
    found = {"200": {"description": "Prometheus' text format.", "content": {"text/plain": _TEXT}}}
    return {
        "/metrics": {"get": _operation(about, "metrics", "Counts and gauges.", found, operationId="metrics")}
    }


def ticket(about: About) -> Json:
    """There where access is guarded."""
    if not about.guarded:
        return {}
    asked = {
        "type": "object",
        "properties": {
            "object": about.key,
        },
        "required": ["object"],
        "additionalProperties": False,
    }
    told = {
        "type": "object",
        "properties": {"ticket": {"type": "string"}, "expires_in": {"const": TICKET_S}},
        "required": ["ticket", "expires_in"],
    }
    found = {"200": json_answer("Put it into the query of the WebSocket's address.", told)}
    codes = ("bad-key", "unknown-namespace", "too-large")
    operation = _operation(
        about,
        "ticket",
        "A ticket for one WebSocket of one object, where no header can be set.",
        found,
        *codes,
        operationId="ticket",
        requestBody={"required": True, "content": {"application/json": {"schema": asked}}},
    )
    return {"/ticket": {"post": operation}}


def commands(about: About) -> Json:
    """There where objects are: what became of a command can be asked by who could send it."""
    if not about.objects:
        return {}
    id_ = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    wait = {
        "name": "wait",
        "in": "query",
        "description": f"So many seconds it waits for the command, {MAX_WAIT_S:g} at most.",
        "schema": {"type": "integer", "minimum": 0, "maximum": 99_999, "default": 0},
    }
    found = {
        "200": json_answer("What is known of it.", _command(), Retry_After="RetryAfter"),
    }
    operation = _operation(
        about,
        "commands",
        "What became of a command.",
        found,
        "unknown-command",
        "no-such-path",
        *UNAVAILABLE,
        "log-unreachable",
        "storage-failed",
        "outcome-unknown",
        "fenced",
        operationId="commands",
        parameters=[id_, wait],
    )
    return {"/commands/{id}": {"get": operation}}


def _command() -> Json:
    reply = {
        "type": ["object", "null"],
        "properties": {
            "status": {"type": "integer"},
            "headers": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
            "body": {"description": "What is JSON."},
            "base64": {"type": "string", "description": "What is not."},
        },
        "required": ["status", "headers"],
    }
    return {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "url": {"type": "string"},
            "object": {"type": "string"},
            "status": {"enum": ["pending", "done"]},
            "outcome": {"enum": ["ok", "refused", "failed", "rejected", "parked", "unavailable"]},
            "reply": reply,
            "detail": {"type": "string"},
        },
        "required": ["id", "url", "object", "status"],
    }


def this_document(about: About) -> Json:
    found = {"200": json_answer("OpenAPI 3.1.", {"type": "object"})}
    return {
        "/openapi.json": {
            "get": _operation(about, "openapi.json", "This document.", found, operationId="openapi")
        }
    }


def records(about: About) -> Json:
    found = {"200": json_answer("AsyncAPI 3.0.", {"type": "object"})}
    summary = "The records that Kafka clients may write and read."
    operation = _operation(about, "asyncapi.json", summary, found, operationId="asyncapi")
    return {"/asyncapi.json": {"get": operation}}


def docs(about: About) -> Json:
    found = {"200": {"description": "A page without scripts.", "content": {"text/html": _TEXT}}}
    return {
        "/docs": {"get": _operation(about, "docs", "This document, for people.", found, operationId="docs")}
    }


DESCRIBED: Mapping[str, Callable[[About], Json]] = MappingProxyType(
    {
        "asyncapi.json": records,
        "commands": commands,
        "docs": docs,
        "livez": livez,
        "metrics": metrics,
        "openapi.json": this_document,
        "readyz": readyz,
        "ticket": ticket,
    }
)
