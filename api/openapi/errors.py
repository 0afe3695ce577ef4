"""The problems of each operation, by status, from the tree of errors and the table of their statuses.

Laws
- A code is listed under the status that api/problems.py gives it. A new error in the tree appears in the
  document without a change here.
- Codes are examples under the statuses of an object's refusals (409) and faults (500), where an app has codes
  of its own; under all others the list is complete.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from http import HTTPStatus

from perdure.api.openapi.parts import PROBLEM_JSON, Json, reference
from perdure.schemas.errors import CallerError, ObjectError, PerdureError, tree
from perdure.schemas.replies import FAILED
from perdure.schemas.statuses import OF_OUTCOME, STATUS, UNAVAILABLE_STATUS

GUARDED = ("unauthenticated", "forbidden", "over-quota")
ANY_PAGE = ("malformed-command",)
UNAVAILABLE = ("unavailable",)
# Answered by pages of their own, or before there is a request: see docs/errors.md
_ELSEWHERE = frozenset((*GUARDED, "no-such-path", "not-exposed", "worker-failed", "unknown-command"))
_ELSEWHERE |= {"method-not-allowed", "origin-refused", "host-refused", "bad-frame"}
# Administration; a namespace, which an object's path names; a root that is never answered as such
_ELSEWHERE |= {"not-parked", "not-at-head", "unknown-namespace", "operator-error"}
_ROOTS = (PerdureError, CallerError)
_OPEN = (409, 500)
_BEFORE = {  # in plain text, before a request is complete
    400: "The bytes are not an HTTP request.",
    408: "The headers took over 10 s, or the body arrived at less than 1 KiB/s.",
    431: "The headers are larger than `limits.header_bytes`.",
    503: "Too many connections.",
}
_HEADERS = {
    401: {"WWW-Authenticate": "WwwAuthenticate"},
    429: {"Retry-After": "RetryAfter"},
    503: {"Retry-After": "RetryAfter"},
    504: {"Location": "Location"},
}


def status_of(cls: type[PerdureError]) -> int:
    """The HTTP status with which an error is answered."""
    fallback = OF_OUTCOME[FAILED] if issubclass(cls, ObjectError) else UNAVAILABLE_STATUS
    return STATUS.get(cls.code, fallback)


def _all_codes() -> dict[str, int]:
    codes = {cls.code: status_of(cls) for cls in tree() if cls not in _ROOTS}
    del codes["refused"]
    return {**STATUS, **codes, "refused": 409}


CODES = _all_codes()
OF_OBJECTS = tuple(sorted(code for code in CODES if code not in _ELSEWHERE and code != "bad-request"))
_ONLY_OF_CALLS = frozenset(("invalid-arguments", "unknown-method"))
OF_FETCH = tuple(code for code in OF_OBJECTS if code not in _ONLY_OF_CALLS)


def by_status(codes: Iterable[str]) -> dict[int, list[str]]:
    """These codes by status, both in order."""
    listed: dict[int, list[str]] = defaultdict(list)
    for code in sorted(set(codes)):
        listed[CODES[code]].append(code)
    if "handler-failed" in listed[500]:
        listed[500] = sorted({*listed[500], "too-large"})  # with 500 if the object's answer is too large
    return {status: listed[status] for status in sorted(listed) if listed[status]}


def answer(status: int, codes: list[str], *, command: bool = False, anything: bool = False) -> Json:
    """The answer with these problems.

    `command`: it names a command; `anything`: an object may answer with it, too.
    """
    types = [f"urn:perdure:problem:{code}" for code in codes]
    kind = {"examples": types} if status in _OPEN else {"enum": types}
    names = ", ".join(f"`{code}`" for code in codes)
    and_others = ", and the codes of the object's refusals" if status == 409 else ""
    content: Json = {
        PROBLEM_JSON: {
            "schema": {
                "allOf": [
                    reference("schemas", "Problem"),
                    {"properties": {"type": kind, "status": {"const": status}}},
                ]
            }
        }
    }
    if status in _BEFORE:
        content["text/plain"] = {"schema": {"type": "string"}}
    if anything:
        content["*/*"] = {}
    headers = {name: reference("headers", header) for name, header in _HEADERS.get(status, {}).items()}
    if command:
        headers["perdure-command"] = reference("headers", "Command")
    made: Json = {"description": f"{HTTPStatus(status).phrase}: {names}{and_others}.", "content": content}
    return {**made, "headers": headers} if headers else made


def too_early() -> Json:
    """The answers to a request that was never complete."""
    return {
        f"Early{status}": {"description": text, "content": {"text/plain": {"schema": {"type": "string"}}}}
        for status, text in _BEFORE.items()
        if status not in (400, UNAVAILABLE_STATUS)
    }
