"""Errors as HTTP responses: RFC 9457 problem+json. The only place where an error's code becomes a status.

Law: 503 means not done, send it again; 504 means the outcome is unknown; 507 means that the disk refused a
write.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from perdure.objects.sockets import UPGRADE_REQUIRED
from perdure.schemas.errors import (
    FetchFailed,
    FetchTimedOut,
    FetchTooLarge,
    OutcomeUnknown,
    Overloaded,
    OverQuota,
    PerdureError,
)
from perdure.schemas.replies import FAILED, PARKED, REFUSED, REJECTED, UNAVAILABLE, ErrorInfo
from perdure.streams.turns.object_quotas import RETRY_AFTER_S

BAD_BODY = "bad-body"  # the code of the Refusal that Request.json and Request.text raise
# perdure's own codes that keep their status when an object raises them
_OWN_STATUS = frozenset(
    (BAD_BODY, UPGRADE_REQUIRED, FetchFailed.code, FetchTimedOut.code, FetchTooLarge.code)
)
STATUS = {
    "bad-request": 400,
    "bad-key": 400,
    "bad-frame": 400,
    "malformed-command": 400,
    BAD_BODY: 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "origin-refused": 403,
    "host-refused": 403,
    "unknown-namespace": 404,
    "unknown-method": 404,
    "no-such-path": 404,
    "unknown-command": 404,
    "method-not-allowed": 405,
    "not-parked": 404,
    "key-in-flight": 409,
    "not-at-head": 409,
    "too-large": 413,
    "invalid-arguments": 422,
    "key-reused": 422,
    UPGRADE_REQUIRED: 426,
    "over-quota": 429,
    "fetch-failed": 502,
    "fetch-timed-out": 502,
    "fetch-too-large": 502,
    "not-exposed": 403,
    "worker-failed": 500,
    "internal-error": 500,
    "storage-failed": 507,
    "outcome-unknown": 504,
}
OF_OUTCOME = {REFUSED: 409, FAILED: 500, REJECTED: 400, PARKED: 500}
UNAVAILABLE_STATUS = 503
UNAUTHENTICATED_STATUS = 401

Problem = tuple[int, Sequence[tuple[bytes, bytes]], bytes]

_encode = msgspec.json.Encoder().encode


def problem(
    code: str,
    message: str,
    *,
    status: int,
    detail: Any = None,
    retry_after_s: float | None = None,
    **more: Any,
) -> Problem:
    """(status, headers, body) of a problem; its type is `urn:perdure:problem:{code}`.

    Args:
        code: the error's code.
        message: what happened and what to do, for people.
        status: the HTTP status.
        detail: the error's data, as JSON has it; None for none.
        retry_after_s: when to send the request again, in seconds; None if that is not known (one second for a
            503).
        more: further members of the problem.
    """
    members = {
        "type": f"urn:perdure:problem:{code}",
        "title": code.replace("-", " "),
        "status": status,
        "detail": message,
        **more,
    }
    if detail is not None:
        members["data"] = detail
    headers = [(b"content-type", b"application/problem+json")]
    if retry_after_s is not None or status == UNAVAILABLE_STATUS:
        headers.append((b"retry-after", b"%d" % max(math.ceil(retry_after_s or 0), 1)))
    elif status == UNAUTHENTICATED_STATUS:
        headers.append((b"www-authenticate", b"Bearer"))
    return status, headers, _encode(members)


def problem_of_reply(outcome: str, error: ErrorInfo, **more: Any) -> Problem:
    """The problem of an error reply of an object or an owner."""
    status = OF_OUTCOME.get(outcome, UNAVAILABLE_STATUS)
    # an object's own code does not choose the status, since 503, 504 and 507 are promises; perdure's codes do
    if outcome in (REJECTED, UNAVAILABLE) or error.code in _OWN_STATUS:
        status = STATUS.get(error.code, status)
    again_s = RETRY_AFTER_S if status == STATUS[OverQuota.code] else None
    return problem(
        error.code, error.message, status=status, detail=error.detail, retry_after_s=again_s, **more
    )


def problem_of(error: PerdureError, **more: Any) -> Problem:
    """The problem of an error raised at the door itself, before or instead of a reply."""
    command = error.command if isinstance(error, OutcomeUnknown) else ""
    if command:
        more["command"] = f"/commands/{command}"
    status = STATUS.get(error.code, UNAVAILABLE_STATUS)
    again_s = error.retry_after_s if isinstance(error, (OverQuota, Overloaded)) else None
    status, headers, body = problem(error.code, str(error), status=status, retry_after_s=again_s, **more)
    if command:
        headers = [*headers, (b"location", more["command"].encode())]
    return status, headers, body
