"""The parts of which descriptions of paths are made: schemas, headers, parameters, answers.

Law: what is said here once is referred to everywhere else, so that the document of a large app stays readable.
"""

from __future__ import annotations

from inspect import cleandoc
from typing import Any, NamedTuple

from perdure.schemas.commands import MAX_CLIENT_KEY_CHARS
from perdure.schemas.keys import MAX_NAME_BYTES

Json = dict[str, Any]

BEARER = "bearer"
NAME_FORMAT = "perdure-name"
KEY_FORMAT = "perdure-key"
PROBLEM_JSON = "application/problem+json"
# Controls, separators and what nobody sees; with NFC and the unassigned, which no pattern can say, this is `object_key`.
_INVISIBLE = (
    r"\u0000-\u001f\u007f-\u00a0\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u1680\u180e\u2000-\u200f\u2028-\u202f"
    r"\u205f-\u206f\u3000\ue000-\uf8ff\ufeff\ufff0-\ufffb\ufffe-\uffff"
)
_NAME = rf"(?!\.{{1,2}}$)[^/{_INVISIBLE}]+$"
NAME_PATTERN = f"^{_NAME}"

SCHEMAS: Json = {
    "Name": {
        "type": "string",
        "format": NAME_FORMAT,
        "minLength": 1,
        "maxLength": MAX_NAME_BYTES,
        "pattern": NAME_PATTERN,
        "description": (
            f"1 to {MAX_NAME_BYTES} bytes of printable UTF-8 in Unicode's NFC form, without `/`, not `.` or `..`. "
            "What is not canonical is refused, never repaired."
        ),
    },
    "Problem": {
        "type": "object",
        "description": "An error (RFC 9457). Its type is stable; its text says what to do.",
        "properties": {
            "type": {"type": "string", "pattern": "^urn:perdure:problem:"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string"},
            "data": {"description": "What a Refusal brings with it."},
            "command": {"type": "string", "description": "Where to ask what became of the command."},
        },
        "required": ["type", "title", "status", "detail"],
    },
    "Accepted": {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "url": {"type": "string"},
            "status": {"const": "pending"},
        },
        "required": ["id", "url", "status"],
    },
}

HEADERS: Json = {
    "Command": {
        "description": "Where the request's command lies on the log: `partition:offset`.",
        "schema": {"type": "string", "pattern": "^[0-9]+:[0-9]+$"},
    },
    "RetryAfter": {
        "description": "Seconds to wait before asking again.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "Location": {
        "description": "Where to ask what becomes of the command.",
        "schema": {"type": "string"},
    },
    "WwwAuthenticate": {"description": "How to say who asks.", "schema": {"const": "Bearer"}},
}

PARAMETERS: Json = {
    "name": {
        "name": "name",
        "in": "path",
        "required": True,
        "description": "The object's name, percent-encoded.",
        "schema": {"$ref": "#/components/schemas/Name"},
    },
    "path": {
        "name": "path",
        "in": "path",
        "required": True,
        "description": "What the object sees as its path; it may hold `/`.",
        "schema": {"type": "string"},
    },
    "idempotency-key": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": (
            "The request is done once, however often it is sent with this key within 24 h: the second answer is the "
            "stored first one. 409 while the first is in flight, 422 for another request with the same key."
        ),
        "schema": {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_CLIENT_KEY_CHARS,
            "pattern": "^[!-~]([ -~]*[!-~])?$",
        },
    },
    "prefer": {
        "name": "Prefer",
        "in": "header",
        "description": "`respond-async`: 202 as soon as the request is durable; nobody waits for it.",
        "schema": {"type": "string", "enum": ["respond-async"]},
    },
}


class About(NamedTuple):
    """What a description depends on. `objects`: `/objects` and `/rpc` are there; `anonymous`: for everybody."""

    guarded: bool
    objects: bool
    anonymous: bool
    namespaces: tuple[str, ...]

    @property
    def key(self) -> Json:
        """The schema of an object's key."""
        return key_of(*self.namespaces)


def key_of(*namespaces: str) -> Json:
    """The schema of a key of an object in one of these namespaces."""
    return {
        "type": "string",
        "format": KEY_FORMAT,
        "pattern": f"^(?:{'|'.join(namespaces)})/{_NAME}",
        "description": "A namespace and the name of an object, `Room/a`.",
    }


def reference(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def json_answer(description: str, schema: Json, **headers: str) -> Json:
    """An answer in JSON; `headers`: name → which of `HEADERS`, with `_` for `-`."""
    told: Json = {"description": description, "content": {"application/json": {"schema": schema}}}
    if headers:
        told["headers"] = {
            name.replace("_", "-"): reference("headers", header) for name, header in headers.items()
        }
    return told


def described(docstring: str | None) -> Json:
    """Summary and description of a docstring: its first paragraph, and the rest."""
    first, _, rest = cleandoc(docstring or "").partition("\n\n")
    told = {"summary": " ".join(first.split()), "description": rest.strip()}
    return {key: text for key, text in told.items() if text}


def secured(about: About, right: str | None, *, anonymous: bool = False) -> Json:
    """Which right an operation needs; None: none. `anonymous`: nobody need say who asks."""
    if not about.guarded:
        return {}
    if right is None:
        return {"security": []}
    return {"security": [*([{}] if anonymous else []), {BEARER: [right]}]}
