"""The parts that descriptions of paths are made of: schemas, headers, parameters, answers.

Law: a part is defined once and referred to everywhere, so that the document of a large app stays readable.
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
# Controls, separators and invisible characters. With NFC and unassigned characters, which a pattern cannot
# express, this is `object_key`.
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
            "A name that is not canonical is refused, never repaired."
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
            "data": {"description": "The detail of a Refusal."},
            "command": {"type": "string", "description": "The URL of the command's outcome."},
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
        "description": "The place of the request's command on the log: `partition:offset`.",
        "schema": {"type": "string", "pattern": "^[0-9]+:[0-9]+$"},
    },
    "RetryAfter": {
        "description": "Seconds to wait before the next request.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "Location": {
        "description": "The URL of the command's outcome.",
        "schema": {"type": "string"},
    },
    "WwwAuthenticate": {"description": "The way to authenticate.", "schema": {"const": "Bearer"}},
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
        "description": "The path that the object sees; it may contain `/`.",
        "schema": {"type": "string"},
    },
    "idempotency-key": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": (
            "The request takes effect once, however often it is sent with this key within 24 h: the second answer "
            "is the stored first one. 409 while the first is in flight, 422 for another request with the same key."
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
        "description": "`respond-async`: 202 as soon as the request is durable, without its result.",
        "schema": {"type": "string", "enum": ["respond-async"]},
    },
}


class About(NamedTuple):
    """The facts that a document depends on.

    `objects`: `/objects` and `/rpc` exist; `anonymous`: they need no token.
    """

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
        "description": "A namespace and the name of an object, such as `Room/a`.",
    }


def reference(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def json_answer(description: str, schema: Json, **headers: str) -> Json:
    """An answer in JSON; `headers` maps names, with `_` for `-`, to those in `HEADERS`."""
    made: Json = {"description": description, "content": {"application/json": {"schema": schema}}}
    if headers:
        made["headers"] = {
            name.replace("_", "-"): reference("headers", header) for name, header in headers.items()
        }
    return made


def described(docstring: str | None) -> Json:
    """The summary and description of a docstring: its first paragraph, and the rest."""
    first, _, rest = cleandoc(docstring or "").partition("\n\n")
    texts = {"summary": " ".join(first.split()), "description": rest.strip()}
    return {key: text for key, text in texts.items() if text}


def secured(about: About, right: str | None, *, anonymous: bool = False) -> Json:
    """The security of an operation: the right it needs, None for none.

    `anonymous`: it works without a token, too.
    """
    if not about.guarded:
        return {}
    if right is None:
        return {"security": []}
    return {"security": [*([{}] if anonymous else []), {BEARER: [right]}]}
