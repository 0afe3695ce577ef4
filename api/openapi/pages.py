"""The descriptions of perdure's own pages: one function per page, in `DESCRIBED`, under the page's name.

Each page that api/node.py mounts has its description here; a test compares the two lists. Administration is
left out: the document is for an app's clients, and docs/admin.md for its operators.
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
LEFT_OUT = frozenset(("admin", "console"))
_TEXT: Json = {"schema": {"type": "string"}}


def _operation(about: About, page: str, summary: str, success: Json, *codes: str, **more: object) -> Json:
    """The operation of a page.

    about: what the document depends on.
    page: the first part of the page's path.
    summary: what it answers.
    success: its answers other than problems, by status.
    codes: the codes of its problems.
    more: further keys of the operation.
    """
    right = PAGES[page]
    guard = (*GUARDED, *UNAVAILABLE) if about.guarded and right is not None else ()
    listed = by_status((*ANY_PAGE, *codes, *guard))
    problems = {
        str(status): answer(status, names) for status, names in listed.items() if str(status) not in success
    }
    early = {key.removeprefix("Early"): reference("responses", key) for key in too_early()}
    return {
        "summary": summary,
        "tags": [TAG],
        **more,
        "responses": dict(sorted((success | problems | early).items())),
        **secured(about, right),
    }


def _state(*words: str, **more: Json) -> Json:
    properties = {"status": {"enum": list(words)}, **more}
    return {"type": "object", "properties": properties, "required": list(properties)}


def livez(about: About) -> Json:
    success = {"200": json_answer("The process runs.", _state("alive"))}
    return {
        "/livez": {
            "get": _operation(about, "livez", "Whether the process runs.", success, operationId="livez")
        }
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
    not_ready = json_answer("Some partitions do not serve; the answer says which, and why.", state)
    not_ready["content"]["text/plain"] = _TEXT  # from a server without room for the connection
    success = {"200": json_answer("Every partition serves.", state), "503": not_ready}
    return {
        "/readyz": {
            "get": _operation(
                about, "readyz", "Whether every partition serves.", success, operationId="readyz"
            )
        }
    }


def metrics(about: About) -> Json:
    success = {"200": {"description": "Prometheus' text format.", "content": {"text/plain": _TEXT}}}
    return {
        "/metrics": {
            "get": _operation(about, "metrics", "Counts and gauges.", success, operationId="metrics")
        }
    }


def ticket(about: About) -> Json:
    """The page of tickets, which exists where access is guarded."""
    if not about.guarded:
        return {}
    body = {
        "type": "object",
        "properties": {
            "object": about.key,
        },
        "required": ["object"],
        "additionalProperties": False,
    }
    ticket_schema = {
        "type": "object",
        "properties": {"ticket": {"type": "string"}, "expires_in": {"const": TICKET_S}},
        "required": ["ticket", "expires_in"],
    }
    success = {
        "200": json_answer("The ticket, which goes into the query of the WebSocket's URL.", ticket_schema)
    }
    codes = ("bad-key", "unknown-namespace", "too-large")
    operation = _operation(
        about,
        "ticket",
        "A ticket for one WebSocket of one object, for clients that cannot set headers.",
        success,
        *codes,
        operationId="ticket",
        requestBody={"required": True, "content": {"application/json": {"schema": body}}},
    )
    return {"/ticket": {"post": operation}}


def commands(about: About) -> Json:
    """The page of a command's outcome, which exists where objects are reachable.

    A client that may send may read it.
    """
    if not about.objects:
        return {}
    id_ = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    wait = {
        "name": "wait",
        "in": "query",
        "description": f"Seconds to wait for the command, {MAX_WAIT_S:g} at most.",
        "schema": {"type": "integer", "minimum": 0, "maximum": 99_999, "default": 0},
    }
    success = {
        "200": json_answer("The command's status and outcome.", _command(), Retry_After="RetryAfter"),
    }
    operation = _operation(
        about,
        "commands",
        "The status and outcome of a command.",
        success,
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
            "body": {"description": "The body, if it is JSON."},
            "base64": {"type": "string", "description": "The body, if it is not JSON."},
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
    success = {"200": json_answer("OpenAPI 3.1.", {"type": "object"})}
    return {
        "/openapi.json": {
            "get": _operation(about, "openapi.json", "This document.", success, operationId="openapi")
        }
    }


def records(about: About) -> Json:
    success = {"200": json_answer("AsyncAPI 3.0.", {"type": "object"})}
    summary = "The records that Kafka clients may write and read."
    operation = _operation(about, "asyncapi.json", summary, success, operationId="asyncapi")
    return {"/asyncapi.json": {"get": operation}}


def docs(about: About) -> Json:
    success = {"200": {"description": "A page without scripts.", "content": {"text/html": _TEXT}}}
    return {
        "/docs": {
            "get": _operation(about, "docs", "This document as a web page.", success, operationId="docs")
        }
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
